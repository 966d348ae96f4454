"""The ids that the slices of a hub name, kept current: a request for a new id then costs no look at every slice."""

from __future__ import annotations

from collections.abc import Mapping, Set

from processhub.api.slice import RegistrySlice

_NONE: Mapping[str, str] = {}


class NamedIds:
    """Which ids have an entry in a slice of the hub, and which ones other members report without one.

    ``take`` must be called for each change of a slice, before anything acts on it. The slices of ``member``, whose
    agent this is, count with their entries only: it knows itself what it runs.
    """

    def __init__(self, member: str) -> None:
        self._member = member
        self._entries: dict[str, Mapping[str, str]] = {}  # by slice, as in its spec
        self._counts: dict[str, int] = {}  # by id: how many slices have an entry of it
        self._leftovers: dict[str, Set[str]] = {}  # by slice of another member: ids reported there without an entry
        self._unread: dict[str, RegistrySlice] = {}  # slices whose leftovers are not known yet

    def take(self, name: str, item: RegistrySlice | None) -> None:
        """Take the slice of that name as it is now; None if it is not there any more."""
        before, after = self._entries.pop(name, _NONE), _NONE
        self._leftovers.pop(name, None)
        self._unread.pop(name, None)
        if item is not None:
            after = self._entries[name] = item.spec.entries
            if item.spec.member != self._member:
                self._unread[name] = item
        if before.keys() != after.keys():
            self._count(before.keys() - after.keys(), after.keys() - before.keys())

    def _count(self, gone: Set[str], new: Set[str]) -> None:
        counts = self._counts
        for child_id in new:
            counts[child_id] = counts.get(child_id, 0) + 1
        for child_id in gone:
            counts[child_id] -= 1
            if not counts[child_id]:
                del counts[child_id]

    def has_entry(self, child_id: str) -> bool:
        """Whether a slice has an entry of the id."""
        return child_id in self._counts

    def may_run(self, child_id: str) -> bool:
        """Whether a slice has an entry of the id, or another member reports that it still ends the child."""
        if child_id in self._counts:
            return True
        for name, item in self._unread.items():
            if ids := item.status.reports.keys() - item.spec.entries.keys():
                self._leftovers[name] = ids
        self._unread.clear()
        return any(child_id in ids for ids in self._leftovers.values())
