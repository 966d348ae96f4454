"""Which slice of a member an entry goes to, with the fewest writes (docs/protocol.md, rule 6).

The idea is that of the EndpointSlice controller: an entry never moves between slices. New entries fill the free room,
first in slices that are written anyway. A new slice is opened only if no other has room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from processhub.api.slice import MAX_BYTES, MAX_ENTRIES, stored_bytes
from processhub.registry.grammar import Assignment, format_assignment, workload_of


class Measure(NamedTuple):
    """What must be known of many entries to add one: their bytes as stored, and how many of them have each workload."""

    size: int
    users: Counter[str]


class SliceContent(msgspec.Struct, frozen=True):
    """The content of a slice: ``workloads`` hash → JSON, ``entries`` id → text, and their ``measure`` if it is known.

    ``ending``: ids that are no longer on record there but may still run. They take room, because the status has to name
    them. If new entries filled that room while old children hang, the status could never name all that runs, and the
    end of a child could not be proven.
    """

    index: int
    workloads: Mapping[str, str]
    entries: Mapping[str, str]
    ending: Collection[str] = ()
    measure: Measure | None = None


def measured(entries: Mapping[str, str]) -> Measure:
    """The measure of these entries."""
    size = sum(_size(child_id, text) for child_id, text in entries.items())
    return Measure(size, Counter(map(workload_of, entries.values())))


def pack(
    slices: Sequence[SliceContent],
    changes: Mapping[str, Assignment | None],
    workloads: Mapping[str, str],
    *,
    max_entries: int = MAX_ENTRIES,
    max_bytes: int = MAX_BYTES,
    first: int = 0,
) -> list[SliceContent]:
    """The slices of one member that must be written: changed ones as a whole, and new ones.

    ``changes`` is id → entry (None removes it); ``workloads`` holds the JSON for every hash that ``changes`` names. An
    entry that grows stays in its slice up to twice ``max_bytes``, which etcd still accepts (1.5 MiB). Beyond that it is
    removed. Its child stops, and is placed again once its end is proven. ``first``: slices with lower numbers take no
    new entries. Their status has room for what the member starts by itself.
    """
    if not changes:
        return []
    open_slices = [_Open(content) for content in sorted(slices, key=lambda content: content.index)]
    home = {child_id: slice_ for slice_ in open_slices for child_id in slice_.entries}
    fresh: list[tuple[str, Assignment]] = []
    for child_id, entry in changes.items():
        slice_ = home.get(child_id)
        if slice_ is None:
            if entry is not None:
                fresh.append((child_id, entry))
        elif entry is None or not slice_.can_change(child_id, entry, workloads, 2 * max_bytes):
            slice_.remove(child_id)
        else:
            slice_.put(child_id, entry, workloads)
    for child_id, entry in fresh:
        with_room = [
            slice_
            for slice_ in open_slices
            if slice_.index >= first and slice_.has_room(child_id, entry, workloads, max_entries, max_bytes)
        ]
        if with_room:
            target = min(with_room, key=lambda slice_: (not slice_.changed, slice_.index))
        else:
            target = _Open(SliceContent(_free_index(open_slices, first), {}, {}))
            open_slices.append(target)
        target.put(child_id, entry, workloads)
    return [slice_.content() for slice_ in open_slices if slice_.changed]


def _free_index(slices: Sequence[_Open], first: int) -> int:
    taken = {slice_.index for slice_ in slices}
    return next(index for index in range(first, first + len(taken) + 1) if index not in taken)


def _size(key: str, text: str) -> int:
    """The bytes of one item of a map of strings in the object as it is stored."""
    return stored_bytes(key) + stored_bytes(text) + 2


class _Open:
    """A slice while it is packed. ``size`` is in bytes as stored; a workload counts once for all its entries."""

    def __init__(self, content: SliceContent) -> None:
        self.index = content.index
        self.changed = False
        self.entries = dict(content.entries)
        self.ending = set(content.ending) - self.entries.keys()
        size, users = content.measure or measured(content.entries)
        self.users = Counter(users)
        self.workloads = {key: text for key, text in content.workloads.items() if key in self.users}
        self.size = size + sum(_size(key, text) for key, text in self.workloads.items())

    def has_room(
        self, child_id: str, entry: Assignment, workloads: Mapping[str, str], max_entries: int, max_bytes: int
    ) -> bool:
        held = len(self.entries) + len(self.ending - {child_id})
        if not held or held >= max_entries:
            return not held
        return self.size + self._cost(child_id, entry, workloads) <= max_bytes

    def can_change(self, child_id: str, entry: Assignment, workloads: Mapping[str, str], max_bytes: int) -> bool:
        """Whether the slice stays within bounds with ``entry`` in place of the present one, or gets no larger."""
        if len(self.entries) == 1:
            return True
        growth = self._cost(child_id, entry, workloads) - _size(child_id, self.entries[child_id])
        return growth <= 0 or self.size + growth <= max_bytes

    def _cost(self, child_id: str, entry: Assignment, workloads: Mapping[str, str]) -> int:
        cost = _size(child_id, format_assignment(entry))
        if entry.workload not in self.workloads:
            cost += _size(entry.workload, workloads[entry.workload])
        return cost

    def put(self, child_id: str, entry: Assignment, workloads: Mapping[str, str]) -> None:
        text = format_assignment(entry)
        if self.entries.get(child_id) == text and entry.workload in self.workloads:
            return
        if child_id in self.entries:
            self.remove(child_id)
        self.changed = True
        self.ending.discard(child_id)
        self.entries[child_id] = text
        self.size += _size(child_id, text)
        self.users[entry.workload] += 1
        if entry.workload not in self.workloads:
            self.workloads[entry.workload] = workloads[entry.workload]
            self.size += _size(entry.workload, workloads[entry.workload])

    def remove(self, child_id: str) -> None:
        self.changed = True
        text = self.entries.pop(child_id)
        self.ending.add(child_id)
        self.size -= _size(child_id, text)
        workload = workload_of(text)
        self.users[workload] -= 1
        if not self.users[workload] and workload in self.workloads:
            self.size -= _size(workload, self.workloads.pop(workload))

    def content(self) -> SliceContent:
        return SliceContent(self.index, self.workloads, self.entries)
