"""The number of children on demand, for onDemand.max: those on record, and those that this member still ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from processhub.agent.children.child import Child
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.api.slice import RegistrySlice
from processhub.registry.grammar import is_on_demand


class DemandCount:
    """Counts the children on demand of the whole hub. A slice is counted again only when its spec has changed.

    ``children`` are those of this member.
    """

    def __init__(self, slices: SliceWatcher, children: Mapping[str, Child]) -> None:
        self._slices, self._children = slices, children
        self._ending: set[str] = set()  # those of this member that run on no record, until they have ended
        self._counts: dict[str, tuple[tuple[str, int], int]] = {}  # by slice: its uid and generation, and the count

    @property
    def entries(self) -> int:
        """The number of entries. An id that moves has two."""
        return sum(self._count(item) for item in self._slices.registry())

    @property
    def here(self) -> int:
        """The number on this member. One that ends is off the record, and counts until nothing of it is left."""
        return len(self._slices.made) + self._slices.count_on_demand() + len(self._ending)

    def desired_changed(self, changes: Mapping[str, DesiredRun | None]) -> None:
        """Note what ends here. The children have been stopped before."""
        self._ending -= changes.keys()
        for child_id, desired in changes.items():
            child = self._children.get(child_id) if desired is None else None
            run = child.started_for if child is not None else None
            if run is not None and run.assignment.on_demand:
                self._ending.add(child_id)

    def gone(self, child: Child) -> None:
        """Note that nothing of a child is left here."""
        self._ending.discard(child.id)

    def is_full(self, limit: int) -> bool:
        """Whether so many ids are on record. They are listed only if their entries are as many."""
        if self.entries < limit:
            return False
        return len({child_id for item in self._slices.registry() for child_id in _on_demand(item)}) >= limit

    def _count(self, item: RegistrySlice) -> int:
        of_now = item.metadata.uid, item.metadata.generation
        counted, count = self._counts.get(item.metadata.name, (None, 0))
        if counted != of_now:
            count = sum(1 for _ in _on_demand(item))
            self._counts[item.metadata.name] = of_now, count
        return count


def _on_demand(item: RegistrySlice) -> Iterable[str]:
    return (child_id for child_id, text in item.spec.entries.items() if is_on_demand(text))
