"""The fixed vocabulary: reasons of conditions and events, states, roles, strategies.

The text under each word is what docs/reference/reasons.md says of it.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition of a Child is as it is. A Hub and a ChildSet have some of them too.

    Those down to ``Invalid`` stand on Accepted and Placed, the others on Ready. Ready has the reason of the condition
    before it where the child is not even placed.
    """

    ACCEPTED = "Accepted"
    """Accepted is True: the object can be served as it is."""
    PLACED = "Placed"
    """Placed is True: the child is on record at the members that status.nodes names."""
    WAITING = "Waiting"
    """It is about to be placed, or a PreChildStart hook has not answered yet; the message says which."""
    MISSING_CHILD_MAPPING = "MissingChildMapping"
    """The hub's strategy is Guided and spec.nodes is missing."""
    INVALID_CHILD_MAPPING = "InvalidChildMapping"
    """spec.nodes names a member twice, or one that the hub does not have, or the hub's strategy is not Guided."""
    CHILD_REPLICATION_MISMATCH = "ChildReplicationMismatch"
    """spec.nodes names more or fewer members than the hub keeps copies of a child."""
    ALREADY_STARTED = "AlreadyStarted"
    """The id belongs to another Child or ChildSet; this one starts when the id is free."""
    HUB_NOT_FOUND = "HubNotFound"
    """There is no Hub of that name in the namespace."""
    NO_MEMBERS = "NoMembers"
    """No member may take it now: none is ready, all have weight 0, or the strategy rules out those that are ready."""
    PARTITIONED = "Partitioned"
    """The hub has lost its quorum: its children are stopped and start again when it is back."""
    CAPACITY_EXCEEDED = "CapacityExceeded"
    """Each member that may take it has its spec.members.maxChildren."""
    HOOK_DENIED = "HookDenied"
    """A PreChildStart hook said no; the message has its name and its words."""
    MEMBER_UNAVAILABLE = "MemberUnavailable"
    """The child is guided or pinned and its member is away, or emptied by force; it waits for that member."""
    UNKNOWN_STRATEGY = "UnknownStrategy"
    """The Hub names a strategy that is not installed; the message lists those that are."""
    NOT_SUPPORTED_YET = "NotSupportedYet"
    """The schema has it, this version does not do it (today: no field); the message says what to write instead."""
    NAME_CONFLICT = "NameConflict"
    """An object of the name that ProcessHub would give to one of its own is there and belongs to others."""
    SUSPENDED = "Suspended"
    """spec.suspend is true, of the object itself or of its Hub."""
    INVALID = "Invalid"
    """The object can't be served as it is; the message names the field and what to write."""

    STARTED = "Started"
    """Ready is True: it runs."""
    STARTING = "Starting"
    """Its member has begun to start it."""
    STOPPING = "Stopping"
    """It is off the record and its process has still to end."""
    PENDING = "Pending"
    """Its member has not begun to start it yet, or restarts."""
    COMPLETED = "Completed"
    """It ended with success, and its restartPolicy leaves it so."""
    IDLE = "Idle"
    """No request came for its idleSeconds; it is about to be deleted."""
    RESTARTING = "Restarting"
    """Of a pod child: its Pod is being deleted, and a new one follows."""
    BACK_OFF = "BackOff"
    """Of a pod child: a container of its Pod keeps failing, and Kubernetes waits before it starts it again."""
    START_TIMEOUT = "StartTimeout"
    """It was not up within timeouts.startSeconds; it is tried again."""
    EXITED = "Exited"
    """It ended with a failure; the message says how, and when it is started again if it is."""
    COMMAND_NOT_FOUND = "CommandNotFound"
    """The program of an exec child, or of a Pod's container, can't be found or run."""
    IMPORT_ERROR = "ImportError"
    """The module or class of a python child can't be loaded."""
    RESTARTS_EXCEEDED = "RestartsExceeded"
    """It ended more than restarts.max times within restarts.windowSeconds: Failed until its spec changes."""


class GroupReason(StrEnum):
    """Reasons that only conditions of a Hub or a ChildSet have."""

    MEMBERS_READY = "MembersReady"
    """Ready of a Hub is True: all its members are ready, whatever single children do."""
    MEMBERS_NOT_READY = "MembersNotReady"
    """Ready of a Hub: some of its members are not ready; the message names them."""
    NOT_REQUIRED = "NotRequired"
    """Quorate is True: Divergence asks for no quorum."""
    QUORATE = "Quorate"
    """Quorate is True: as many members are live as the strategy requires."""
    FORMING = "Forming"
    """Quorate: the hub's first members are still coming, and nothing was started yet."""
    BALANCED = "Balanced"
    """Balanced is True: no move is under way or outstanding."""
    REBALANCING = "Rebalancing"
    """Balanced: children are moving, or still to be moved; the message counts them."""
    STRANDED = "Stranded"
    """Balanced: a member that is to go, or is drained, has guided or pinned children; the message names them."""
    REFUSED = "Refused"
    """Stalled of a Hub: the API server refuses something that it needs (a quota, a policy, rights)."""
    UNAVAILABLE = "Unavailable"
    """Stalled of a Hub: for seconds the API server has not answered, or failed, where the message says."""
    UPDATING = "Updating"
    """Ready of a ChildSet: some children still run the former template."""
    CHILDREN_FAILED = "ChildrenFailed"
    """Ready of a ChildSet: some children have failed; the message names them with their reasons."""


class EventReason(StrEnum):
    """Reasons of the Events that the operator posts (``kubectl get events``)."""

    PLACED = "Placed"
    """Of a Child: it was placed for the first time. Of a ChildSet: so many of its children were."""
    MOVED = "Moved"
    """Of a Child: it goes from one member to another, and why. Of a ChildSet: so many of its children do."""
    MEMBER_LOST = "MemberLost"
    """Of a Hub: a member is proven gone, how that is known, and how many children were placed on others."""
    MEMBER_JOINED = "MemberJoined"
    """Of a Hub: a member is there, for the first time or again."""
    PARTITION_ENTERED = "PartitionEntered"
    """Of a Hub: it has lost its quorum and stops its children."""
    PARTITION_HEALED = "PartitionHealed"
    """Of a Hub: it has a quorum again and its children start."""
    HEALED = "Healed"
    """Of a Hub with Divergence: a member that was cut off is back and ends its copies of what runs elsewhere."""
    REJECTED = "Rejected"
    """Of a Child or ChildSet: it is not accepted, with the condition's reason and message."""
    PAUSED = "Paused"
    """Of a Hub: the annotation ``processhub.dev/paused`` is seen, and nothing is reconciled any more."""
    RESUMED = "Resumed"
    """Of a Hub: that annotation is gone, and it is reconciled again."""
    STRATEGY_FAILED = "StrategyFailed"
    """Of a Hub: a strategy of the user's own raised an error, and what holds instead."""
    MOVE_REFUSED = "MoveRefused"
    """Of a Child or a ChildSet: an order to move a child (``kubectl hub move``) can't be followed, and why."""
    MOVE_DEFERRED = "MoveDeferred"
    """Of a Child: it stays where it is instead of handing its state over, and why."""
    POD_CHANGED = "PodChanged"
    """Of a Child, ChildSet or Hub: somebody changed what tells whose a child's Pod is; it is put back."""
    OBJECT_PUT_BACK = "ObjectPutBack"
    """Of a Hub: somebody deleted or changed an object that it owns, and who; it is put back."""
    REFUSED = "Refused"
    """Of a Hub, Child or ChildSet: what the API server refuses to do for it, in its words; it is tried again."""
    HOOK_FAILED = "HookFailed"
    """Of a Hub: a hook gave no good answer, or could not be delivered."""


class State(StrEnum):
    """The state of one child on one member."""

    PENDING = "Pending"
    """On record, and not begun: waiting for its member, or for the end of an earlier incarnation."""
    STARTING = "Starting"
    """Begun, not up yet."""
    RUNNING = "Running"
    """It runs. A python child: its init has returned. A pod child: its Pod is Ready."""
    STOPPING = "Stopping"
    """Told to stop; its process has still to end."""
    STOPPED = "Stopped"
    """Not running and not to be started: suspended, or ended and left so by its restartPolicy."""
    FAILED = "Failed"
    """It ended with a failure or did not start; the message says when it is tried again, if it is."""


class Role(StrEnum):
    """What a copy of a child is: the active owner or a standby."""

    ACTIVE = "Active"
    """It serves. With ActiveActive all copies do."""
    PASSIVE = "Passive"
    """It stands by, and is promoted when the active one is lost."""


class RestartPolicy(StrEnum):
    """When a child that ended is started again."""

    PERMANENT = "Permanent"
    """Always."""
    TRANSIENT = "Transient"
    """After a failure: an exit code other than 0, a signal, an exception."""
    TEMPORARY = "Temporary"
    """Never."""


CRASH_ROUND = (State.STARTING, State.RUNNING, State.FAILED)  # what a child that crashes over and over goes through
WAITED_FOR = (Reason.IDLE, Reason.RESTARTS_EXCEEDED)  # reasons in those states that are no part of that
