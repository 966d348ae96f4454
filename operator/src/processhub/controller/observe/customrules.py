"""Custom strategies of redundancy and of partition tolerance, applied to one hub."""

from __future__ import annotations

from collections.abc import Mapping

from processhub.api.hub import Hub
from processhub.controller.observe.members import Member
from processhub.core.model.membership import Phase
from processhub.core.model.quorum import Seen
from processhub.strategies import Member as View
from processhub.strategies import Partition, Redundancy


class CustomRules:
    """The custom strategies of one hub in one round. ``failure``: the error of a strategy that failed, or "".

    ``copies``: the number of copies of each child, or None where the hub's redundancy strategy is built in. If the
    strategy fails, the number stays ``last``.
    """

    def __init__(
        self,
        hub: Hub,
        members: Mapping[str, Member],
        redundancies: Mapping[str, Redundancy],
        partitions: Mapping[str, Partition],
        last: int,
    ) -> None:
        self.failure = ""
        self._name, self._redundancy = hub.spec.partition_tolerance.strategy, hub.spec.redundancy.strategy
        self._partition = partitions.get(self._name)
        redundancy = redundancies.get(self._redundancy)
        self.copies = self._copies(redundancy, members, last) if redundancy is not None else None

    @property
    def has_quorum(self) -> bool:
        """Whether a custom strategy decides how many members the hub needs."""
        return self._partition is not None

    def required(self, seen: Seen) -> int:
        """How many members must be live. If the strategy fails, more than half of the most ever live are required."""
        assert self._partition is not None
        try:
            return max(1, int(self._partition.required(seen)))
        except Exception as error:  # noqa: BLE001 whatever a user's code does, other hubs continue; it is reported
            self.failure = f"partition strategy {self._name}: {type(error).__name__}: {error}; a majority is required"
            return seen.largest_seen // 2 + 1

    def _copies(self, redundancy: Redundancy, members: Mapping[str, Member], last: int) -> int:
        views = tuple(
            View(name=member.name, weight=member.weight, ready=member.phase is Phase.LIVE)
            for member in members.values()
            if member.wanted
        )
        try:
            return max(1, int(redundancy.copies(views)))
        except Exception as error:  # noqa: BLE001 as above
            name = self._redundancy
            self.failure = (
                f"redundancy strategy {name}: {type(error).__name__}: {error}; the number of copies stays {last}"
            )
            return last
