"""A slice with its entries parsed. Readers of slices keep one of these, so that only changed texts are parsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from processhub.api.slice import RegistrySlice
from processhub.registry.grammar import Assignment, EntryError, Report, parse_assignment, parse_report

T = TypeVar("T")
Unreadable = list[tuple[str, EntryError]]


class SliceChange(NamedTuple):
    """The ids whose entry or report was added, changed or removed, and the new texts that can't be read."""

    entries: set[str]
    reports: set[str]
    unreadable: Unreadable


class SliceView:
    """The entries and the reports of one slice, by id. ``entries`` and ``reports`` are changed in place.

    An entry that can't be read counts as absent. With ``keeps_unreadable`` the previous entry stays instead: an agent
    must not take an unreadable text for an order to stop.
    """

    def __init__(self, *, keeps_unreadable: bool = False) -> None:
        self.entries: dict[str, Assignment] = {}
        self.reports: dict[str, Report] = {}
        self._keeps_unreadable = keeps_unreadable
        self._entry_texts: Mapping[str, str] = {}
        self._report_texts: Mapping[str, str] = {}

    @property
    def ids(self) -> set[str]:
        """The ids that the slice names, in spec or status, including those whose text can't be read."""
        return self._entry_texts.keys() | self._report_texts.keys()

    def update(self, item: RegistrySlice) -> SliceChange:
        """Take a new version of the slice."""
        change = self.update_entries(item)
        before, self._report_texts = self._report_texts, item.status.reports
        changed, unreadable = _reparse(before, self._report_texts, self.reports, parse_report)
        for child_id, _ in unreadable:
            self.reports.pop(child_id, None)
        return SliceChange(change.entries, changed, [*change.unreadable, *unreadable])

    def update_entries(self, item: RegistrySlice) -> SliceChange:
        """Take the spec of a new version of the slice, for readers that need no reports."""
        before, self._entry_texts = self._entry_texts, item.spec.entries
        changed, unreadable = _reparse(before, self._entry_texts, self.entries, parse_assignment)
        if not self._keeps_unreadable:
            for child_id, _ in unreadable:
                self.entries.pop(child_id, None)
        return SliceChange(changed, set(), unreadable)


def _reparse(
    before: Mapping[str, str], texts: Mapping[str, str], parsed: dict[str, T], parse: Callable[[str], T]
) -> tuple[set[str], Unreadable]:
    """Update ``parsed`` to ``texts``, except for unreadable texts; returns the changed ids and the unreadable texts."""
    if before == texts:
        return set(), []
    known, unreadable = before.get, []
    # A list, so that ``parsed`` has the order of the slice, and readers act in that order.
    changed = [child_id for child_id, text in texts.items() if known(child_id) != text]
    for child_id in changed:
        try:
            parsed[child_id] = parse(texts[child_id])
        except EntryError as error:
            unreadable.append((child_id, error))
    gone = before.keys() - texts.keys()
    for child_id in gone:
        parsed.pop(child_id, None)
    return gone.union(changed), unreadable
