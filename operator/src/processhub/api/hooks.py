"""The hooks of a Hub: the events at which a webhook or a function is called."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from processhub.api.meta import Wire

CLOUD_EVENT_PREFIX = "dev.processhub."


class HookEvent(StrEnum):
    """The events at which a hook may be called.

    A Pre event is sent before something is done, and its answer counts. All others are sent afterwards.
    """

    PRE_CHILD_START = "PreChildStart"
    """Sent before a new or edited child is started. The child waits for the answer, which may change or deny it."""
    PRE_CHILD_STOP = "PreChildStop"
    """Sent before a deleted or suspended child is stopped. It stops whatever the answer is."""
    PRE_REDISTRIBUTION = "PreRedistribution"
    """Sent before a wave of planned moves, but not before moves after a loss. The answer may defer it."""
    CHILD_STARTED = "ChildStarted"
    """The child runs on a member on which it did not run before."""
    CHILD_STOPPED = "ChildStopped"
    """The child has ended on a member, and that member does not start it again."""
    CHILD_REGISTERED = "ChildRegistered"
    """The child is on record on a member that may run it."""
    CHILD_UNREGISTERED = "ChildUnregistered"
    """The child is not on record on that member any more: stopped, moved, or lost with the member."""
    CHILD_PID_UPDATED = "ChildPidUpdated"
    """The child runs on the same member in another process: restarted by itself, after an edit, or with its member."""
    CHILD_MOVED = "ChildMoved"
    """The child is on record on another member than before, by a plan or after a loss."""
    MEMBER_JOINING = "MemberJoining"
    """A member that was not there before, or was lost, holds its Lease."""
    MEMBER_JOINED = "MemberJoined"
    """A member that joined has begun the moves of its share."""
    MEMBER_LEAVING = "MemberLeaving"
    """A member is to be emptied: scale-down, drain, eviction."""
    MEMBER_LEFT = "MemberLeft"
    """A member is proven gone, or has been removed."""
    REDISTRIBUTION_DONE = "RedistributionDone"
    """No move is under way or due any more."""
    HANDOVER_DELIVERED = "HandoverDelivered"
    """The child runs on its next member with the state of the last one."""
    MIGRATION_DEFERRED = "MigrationDeferred"
    """A move is deferred: a child is bound to its member, a child or a hook declined, or its state did not arrive."""
    DRAIN_COMPLETED = "DrainCompleted"
    """A member that was to be emptied is empty."""
    PARTITION_ENTERED = "PartitionEntered"
    """The hub has lost its quorum and stops its children."""
    PARTITION_HEALED = "PartitionHealed"
    """The hub has a quorum again."""
    LEADERSHIP_CHANGED = "LeadershipChanged"
    """Another operator leads the hub. Events from before are not sent any more."""
    RECOVERY_DONE = "RecoveryDone"
    """All children of a member that was lost or restarted run again, there or elsewhere."""


PRE_EVENTS = frozenset({HookEvent.PRE_CHILD_START, HookEvent.PRE_CHILD_STOP, HookEvent.PRE_REDISTRIBUTION})


class Webhook(Wire, frozen=True, kw_only=True):
    """A receiver of CloudEvents; ``timeout_seconds`` limits the wait for one answer."""

    url: str
    timeout_seconds: int = 3
    failure_policy: Literal["Ignore", "Fail"] = "Ignore"


class PythonHandler(Wire, frozen=True, kw_only=True):
    """A function in the operator that gets the event and ``args``: an entry point of the group processhub.hooks."""

    handler: str
    args: dict[str, Any] = {}
    timeout_seconds: int = 3
    failure_policy: Literal["Ignore", "Fail"] = "Ignore"


class Hook(Wire, frozen=True, kw_only=True):
    """One hook. Exactly one of ``webhook`` and ``python`` is set."""

    name: str
    event: HookEvent
    priority: int = 0
    webhook: Webhook | None = None
    python: PythonHandler | None = None

    @property
    def receiver(self) -> Webhook | PythonHandler:
        """The webhook or the handler of an accepted hook."""
        receiver = self.webhook or self.python
        assert receiver is not None
        return receiver


def in_order(hooks: tuple[Hook, ...], event: HookEvent) -> list[Hook]:
    """The hooks of one event in the order of their calls: higher priority first, then by name."""
    return sorted((hook for hook in hooks if hook.event == event), key=lambda hook: (-hook.priority, hook.name))
