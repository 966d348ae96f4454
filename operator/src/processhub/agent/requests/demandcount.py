"""The number of children on demand that are on record, for onDemand.max."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.api.slice import RegistrySlice
from processhub.registry.grammar import is_on_demand


class DemandCount:
    """Counts the children on demand of the whole hub. A slice is counted again only when its spec has changed."""

    def __init__(self, slices: SliceWatcher) -> None:
        self._slices = slices
        self._counts: dict[str, tuple[tuple[str, int], int]] = {}  # by slice: its uid and generation, and the count

    @property
    def entries(self) -> int:
        """The number of entries. An id that moves has two."""
        return sum(self._count(item) for item in self._slices.registry())

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
