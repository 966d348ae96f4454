"""The rate of writes of a Hub's status: changes that somebody waits for at once, others by a budget of bytes."""

from __future__ import annotations

from processhub.api.hub import Hub, HubStatus
from processhub.api.slice import stored_bytes
from processhub.cluster.tokenbucket import ByteBudget, TokenBucket

RATE, BURST = 2.0, 4.0  # writes: a second, at once
HUB_RATE, HUB_BURST = 100_000, 16 * 2**20  # bytes of the object: a second, at once
_MANY_CHANGES_SECONDS = 2.0  # between writes while many entries are under way
_OWED_SECONDS = 30.0  # what could not wait keeps counts waiting for so long at most
_ENVELOPE = 2048  # bytes of an object beside what this program reads of it


class StatusRate:
    """The rate limit of one hub's status. All times are monotonic seconds.

    A registry of hundreds of children that crash, and what members use, differ in each second: those wait for a budget,
    for etcd stores the whole object each time.
    """

    def __init__(self) -> None:
        self._bucket = TokenBucket(RATE, BURST)
        self._budget = ByteBudget(HUB_RATE, HUB_BURST)
        self._written_at = float("-inf")

    def wait(self, now: float, *, many_changes: bool) -> float:
        """Seconds until any write may be made, which is longer with ``many_changes``: slices go first."""
        wait = self._bucket.wait(now)
        return max(wait, self._written_at + _MANY_CHANGES_SECONDS - now) if many_changes else wait

    def reserve(self, hub: Hub, status: HubStatus, now: float) -> float:
        """Seconds until this status may be written; 0: now, and the write is counted."""
        if _lasting(status) == _lasting(hub.status) and (wait := self._budget.wait(now)) > 0:
            return wait
        self._bucket.take(now)
        self._written_at = now
        # The managed fields name the fields of the spec, those of each child in it too, once more.
        size = 2 * stored_bytes(hub.spec) + stored_bytes(status) + _ENVELOPE
        self._budget.spend(now, size, owed_seconds=_OWED_SECONDS)
        return 0.0


def _lasting(status: HubStatus) -> tuple[object, ...]:
    """What neither a crash loop nor the members' use of CPU and memory changes from one second to the next."""
    return (
        status.observed_generation,
        status.replicas,
        status.ready_replicas,
        status.quorum,
        [(condition.type, condition.status, condition.reason) for condition in status.conditions],
        [(member.name, member.pod, member.node, member.ready, member.weight) for member in status.members],
    )
