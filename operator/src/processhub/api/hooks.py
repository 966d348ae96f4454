"""Hooks of a Hub: what is told, or asked, when something happens in it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from processhub.api.meta import Wire

CLOUD_EVENT_PREFIX = "dev.processhub."


class HookEvent(StrEnum):
    """What a hook may be called at. A Pre event is asked before something is done, the others are told after it."""

    PRE_CHILD_START = "PreChildStart"
    """Asked before a child is started that is new or was edited; it waits, and may be changed or denied."""
    PRE_CHILD_STOP = "PreChildStop"
    """Asked before a child that was deleted or suspended is told to stop; it stops whatever the answer is."""
    PRE_REDISTRIBUTION = "PreRedistribution"
    """Asked before a wave of planned moves, not before those after a loss; it may be put off."""
    CHILD_STARTED = "ChildStarted"
    """The child runs on a member that it did not run on."""
    CHILD_STOPPED = "ChildStopped"
    """The child has ended on a member, and that member does not start it again."""
    CHILD_REGISTERED = "ChildRegistered"
    """The child is on record at a member that it may run on."""
    CHILD_UNREGISTERED = "ChildUnregistered"
    """The child is off that record: stopped, moved, or lost with its member."""
    CHILD_PID_UPDATED = "ChildPidUpdated"
    """The child runs on the same member in another process: restarted, after an edit, or with its member."""
    CHILD_MOVED = "ChildMoved"
    """The child is on record at another member than before, by a plan or after a loss."""
    MEMBER_JOINING = "MemberJoining"
    """A member holds its Lease that was not there before, or was lost."""
    MEMBER_JOINED = "MemberJoined"
    """A member that joined has begun the moves of its share."""
    MEMBER_LEAVING = "MemberLeaving"
    """A member is to be emptied: scale-down, drain, eviction."""
    MEMBER_LEFT = "MemberLeft"
    """A member is proven gone, or nothing of it is left."""
    REDISTRIBUTION_DONE = "RedistributionDone"
    """No move is under way or outstanding any more."""
    HANDOVER_DELIVERED = "HandoverDelivered"
    """The child runs on its next member with the state of the last one."""
    MIGRATION_DEFERRED = "MigrationDeferred"
    """A move is put off: children are bound to their member, a child or hook said no, or a state did not come over."""
    DRAIN_COMPLETED = "DrainCompleted"
    """A member that was to be emptied is empty."""
    PARTITION_ENTERED = "PartitionEntered"
    """The hub has lost its quorum and stops its children."""
    PARTITION_HEALED = "PartitionHealed"
    """The hub has a quorum again."""
    LEADERSHIP_CHANGED = "LeadershipChanged"
    """Another operator leads the hub; what happened before that is not told any more."""
    RECOVERY_DONE = "RecoveryDone"
    """All children of a member that was lost or restarted run again, there or elsewhere."""


PRE_EVENTS = frozenset({HookEvent.PRE_CHILD_START, HookEvent.PRE_CHILD_STOP, HookEvent.PRE_REDISTRIBUTION})


class Webhook(Wire, frozen=True, kw_only=True):
    """A receiver of CloudEvents; ``timeout_seconds`` is how long one answer is waited for."""

    url: str
    timeout_seconds: int = 3
    failure_policy: Literal["Ignore", "Fail"] = "Ignore"


class PythonHandler(Wire, frozen=True, kw_only=True):
    """A function in the operator, called with the event and ``args``: an entry point of the group processhub.hooks."""

    handler: str
    args: dict[str, Any] = {}
    timeout_seconds: int = 3
    failure_policy: Literal["Ignore", "Fail"] = "Ignore"


class Hook(Wire, frozen=True, kw_only=True):
    """One hook: exactly one of ``webhook`` and ``python`` is set."""

    name: str
    event: HookEvent
    priority: int = 0
    webhook: Webhook | None = None
    python: PythonHandler | None = None

    @property
    def receiver(self) -> Webhook | PythonHandler:
        """What is called; of a hook that acceptance let through."""
        receiver = self.webhook or self.python
        assert receiver is not None
        return receiver


def in_order(hooks: tuple[Hook, ...], event: HookEvent) -> list[Hook]:
    """The hooks of one event as they are called: higher priority first, then by name."""
    return sorted((hook for hook in hooks if hook.event == event), key=lambda hook: (-hook.priority, hook.name))
