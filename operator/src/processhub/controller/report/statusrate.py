"""How often a status is written: changes that somebody waits for at once, others by a budget of bytes.

etcd stores the whole object each time. A registry of hundreds of children that crash, and what members use, differ in
each second: such changes wait for the budget.
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

_MANY = 32  # changes of a plan, moves under way, and entries that live members have not reported on yet
_OWED_SECONDS = 30.0  # what could not wait keeps counts waiting for so long at most
_ENVELOPE = 2048  # bytes of an object beside what this program reads of it
_COUNTED = (GroupReason.CHILDREN_FAILED, Reason.PENDING, Reason.STARTED)  # what Ready says as children come and go
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
    - ``least_wait``: what has to wait waits for so many seconds at least.
    - ``lasting(status)``: what somebody waits for. A change of nothing else waits for the budget.
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
        """A budget of which nothing is spent."""
        return ByteBudget(self.bytes_rate, self.bytes_burst)


class StatusRate(Generic[Item]):
    """The rate limit of one object's status. All times are monotonic seconds."""

    def __init__(self, policy: StatusPolicy[Item]) -> None:
        self._policy = policy
        self._bucket = TokenBucket(policy.rate, policy.burst)
        self._written_at = float("-inf")

    def wait(self, now: float, spacing: float = 0.0) -> float:
        """Seconds until any write may be made: not within ``spacing`` seconds after the last one."""
        return self._at_least(max(self._bucket.wait(now), self._written_at + spacing - now))

    def reserve(self, item: Item, status: HubStatus | ChildSetStatus, now: float, budget: ByteBudget) -> float:
        """Seconds until this status of the item may be written; 0: now, and the write is counted."""
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
    """What neither a crash loop nor the members' use of CPU and memory changes from one second to the next."""
    return (
        status.observed_generation,
        status.replicas,
        status.ready_replicas,
        status.quorum,
        [(condition.type, condition.status, condition.reason) for condition in status.conditions],
        [(member.name, member.pod, member.node, member.ready, member.weight) for member in status.members],
    )


def _size_of_hub(hub: Hub, status: HubStatus) -> int:
    # The managed fields name the fields of the spec, those of each child in it too, once more.
    return 2 * stored_bytes(hub.spec) + stored_bytes(status) + _ENVELOPE


def _lasting_of_set(status: ChildSetStatus) -> tuple[object, ...]:
    """What a crash loop does not change from one second to the next."""
    conditions = [
        (condition.type, "", "")
        if condition.reason in _COUNTED
        else (condition.type, condition.status, condition.reason)
        for condition in status.conditions
    ]
    return status.observed_generation, status.desired, *conditions


def _size_of_set(item: ChildSet, _: ChildSetStatus) -> int:
    # etcd stores all of it, also ten thousand ids, which the managed fields name once more.
    return stored_bytes(item) + stored_bytes(item.spec.ids)


OF_HUBS = StatusPolicy[Hub](kind=HUBS, rate=2.0, burst=4.0, least_wait=0.1, lasting=_lasting_of_hub, size=_size_of_hub)
OF_SETS = StatusPolicy[ChildSet](kind=CHILD_SETS, rate=1.0, burst=4.0, lasting=_lasting_of_set, size=_size_of_set)
