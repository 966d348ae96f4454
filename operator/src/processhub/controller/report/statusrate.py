"""The rate of writes of status: changes that users wait for are written at once, others by a budget of bytes.

etcd stores the whole object with each write. Hundreds of children that crash, and the members' use of resources, change
a status each second. Such changes wait for the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from processhub.api.childset import ChildSet, ChildSetStatus
from processhub.api.hub import Hub, HubStatus
from processhub.api.reasons import GroupReason, Reason
from processhub.api.slice import stored_bytes
from processhub.cluster.kinds import CHILD_SETS, HUBS, Kind
from processhub.cluster.tokenbucket import ByteBudget, TokenBucket
from processhub.controller.observe.members import Member
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan

_MANY = 32  # Changes of a plan, moves under way, and entries that live members have not reported on yet.
_OWED_SECONDS = 30.0  # Writes that could not wait delay others by so long at most.
_REFUSED_SECONDS, _REFUSED_MAX = 1.0, 15.0  # Until a refused write is retried; doubled each time.
_ENVELOPE = 2048  # Bytes of an object that are not in this program's struct.
_COUNTED = (GroupReason.CHILDREN_FAILED, Reason.PENDING, Reason.STARTED)  # Reasons of Ready as children come and go.
Item = TypeVar("Item", bound=Hub | ChildSet)


def many_changes(plan: Plan, members: Mapping[str, Member]) -> bool:
    """Whether so many entries are under way that statuses are written less often.

    Slices, which start children, go first.
    """
    changes = sum(len(entries) for entries in plan.entries.values())
    unanswered = sum(
        max(0, len(known.assignments) - len(known.reports))
        for member in members.values()
        if member.phase is Phase.LIVE
        for known in member.slices
    )
    return changes + unanswered + plan.moving > _MANY


class StatusPolicy(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """How often the statuses of one kind are written.

    - ``rate``, ``burst``: writes of one object: a second, at once.
    - ``bytes_rate``, ``bytes_burst``: bytes of one hub's objects of the kind: a second, at once.
    - ``least_wait``: a wait lasts so many seconds at least.
    - ``lasting(status)``: the part that users wait for. A change of other parts waits for the budget.
    - ``size(item, status)``: the bytes that a write stores.
    """

    kind: Kind[Item]
    rate: float
    burst: float
    bytes_rate: float = 100_000
    bytes_burst: float = 16 * 2**20
    least_wait: float = 0.0
    lasting: Callable[[Any], object]
    size: Callable[[Item, Any], int]

    def budget(self) -> ByteBudget:
        """A new budget."""
        return ByteBudget(self.bytes_rate, self.bytes_burst)


class StatusRate(Generic[Item]):
    """The rate limit of one object's status. All times are monotonic seconds."""

    def __init__(self, policy: StatusPolicy[Item]) -> None:
        self._policy = policy
        self._bucket = TokenBucket(policy.rate, policy.burst)
        self._written_at = self._due = float("-inf")
        self._pause = 0.0  # After a refused write.

    def wait(self, now: float, spacing: float = 0.0) -> float:
        """Seconds until any write is allowed. Two writes are ``spacing`` seconds apart at least."""
        return self._at_least(max(self._bucket.wait(now), self._written_at + spacing - now, self._due - now))

    def refused(self, now: float) -> None:
        """Note that a write was refused, as the next one will be if a policy or an old schema is the cause."""
        self._pause = min(max(_REFUSED_SECONDS, 2 * self._pause), _REFUSED_MAX)
        self._due = now + self._pause

    def taken(self) -> None:
        """Note that a write was taken."""
        self._pause = 0.0

    def reserve(self, item: Item, status: HubStatus | ChildSetStatus, now: float, budget: ByteBudget) -> float:
        """Seconds until this status may be written. If it is 0 the write is counted, and must be made now."""
        policy = self._policy
        if policy.lasting(status) == policy.lasting(item.status) and (wait := budget.wait(now)) > 0:
            return self._at_least(wait)
        self._bucket.take(now)
        self._written_at = now
        budget.spend(now, policy.size(item, status), owed_seconds=_OWED_SECONDS)
        return 0.0

    def _at_least(self, wait: float) -> float:
        return max(wait, self._policy.least_wait) if wait > 0 else 0.0


def _lasting_of_hub(status: HubStatus) -> tuple[object, ...]:
    """The parts of the status that do not change with each crash, or with the members' use of CPU and memory."""
    return (
        status.observed_generation,
        status.replicas,
        status.ready_replicas,
        status.quorum,
        status.hooks,
        [(condition.type, condition.status, condition.reason) for condition in status.conditions],
        [
            (member.name, member.pod, member.node, member.ready, member.drained, member.weight)
            for member in status.members
        ],
    )


def _size_of_hub(hub: Hub, status: HubStatus) -> int:
    # The managed fields have the names of all fields of the spec once more, those of each child included.
    return 2 * stored_bytes(hub.spec) + stored_bytes(status) + _ENVELOPE


def _lasting_of_set(status: ChildSetStatus) -> tuple[object, ...]:
    """The parts of the status that do not change with each crash."""
    conditions = [
        (condition.type, "", "")
        if condition.reason in _COUNTED
        else (condition.type, condition.status, condition.reason)
        for condition in status.conditions
        if condition.type != "Reconciling" or condition.reason not in _COUNTED
    ]
    return status.observed_generation, status.desired, *conditions


def _size_of_set(item: ChildSet, _: ChildSetStatus) -> int:
    # etcd stores the whole object. The managed fields have all ids once more.
    return stored_bytes(item) + stored_bytes(item.spec.ids)


OF_HUBS = StatusPolicy[Hub](kind=HUBS, rate=2.0, burst=4.0, least_wait=0.1, lasting=_lasting_of_hub, size=_size_of_hub)
OF_SETS = StatusPolicy[ChildSet](kind=CHILD_SETS, rate=1.0, burst=4.0, lasting=_lasting_of_set, size=_size_of_set)
