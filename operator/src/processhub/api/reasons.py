"""The fixed vocabulary: reasons of conditions and events, states, roles, strategies."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition is as it is. The first block stands on Accepted and Placed, the second on Ready."""

    ACCEPTED = "Accepted"
    PLACED = "Placed"
    WAITING = "Waiting"
    MISSING_CHILD_MAPPING = "MissingChildMapping"
    INVALID_CHILD_MAPPING = "InvalidChildMapping"
    CHILD_REPLICATION_MISMATCH = "ChildReplicationMismatch"
    ALREADY_STARTED = "AlreadyStarted"
    HUB_NOT_FOUND = "HubNotFound"
    NO_MEMBERS = "NoMembers"
    PARTITIONED = "Partitioned"
    CAPACITY_EXCEEDED = "CapacityExceeded"
    HOOK_DENIED = "HookDenied"
    MEMBER_UNAVAILABLE = "MemberUnavailable"
    UNKNOWN_STRATEGY = "UnknownStrategy"
    NOT_SUPPORTED_YET = "NotSupportedYet"
    NAME_CONFLICT = "NameConflict"
    SUSPENDED = "Suspended"
    INVALID = "Invalid"

    STARTED = "Started"
    STARTING = "Starting"
    STOPPING = "Stopping"
    PENDING = "Pending"
    COMPLETED = "Completed"
    RESTARTING = "Restarting"
    BACK_OFF = "BackOff"
    START_TIMEOUT = "StartTimeout"
    EXITED = "Exited"
    COMMAND_NOT_FOUND = "CommandNotFound"
    IMPORT_ERROR = "ImportError"
    RESTARTS_EXCEEDED = "RestartsExceeded"


class EventReason(StrEnum):
    """Reasons of the Events that the operator posts."""

    PLACED = "Placed"
    MOVED = "Moved"
    MEMBER_LOST = "MemberLost"
    MEMBER_JOINED = "MemberJoined"
    REJECTED = "Rejected"


class State(StrEnum):
    """The state of one child on one member."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    FAILED = "Failed"


class Role(StrEnum):
    """What a copy of a child is: the active owner or a standby."""

    ACTIVE = "Active"
    PASSIVE = "Passive"


class RestartPolicy(StrEnum):
    """When a child that ended is started again."""

    PERMANENT = "Permanent"
    TRANSIENT = "Transient"
    TEMPORARY = "Temporary"
