"""Which slice of a member an entry goes to, with the fewest writes (PROTOCOL.md 6).

After the EndpointSlice controller's idea: an entry never moves between slices; new ones fill the room that there
is, first in slices that are written anyway; a new slice is opened only when none has room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from processhub.api.slice import MAX_BYTES, MAX_ENTRIES, Assignment, format_assignment


class SliceContent(msgspec.Struct, frozen=True):
    """What a slice holds: ``workloads`` hash → JSON, ``entries`` id → text."""

    index: int
    workloads: Mapping[str, str]
    entries: Mapping[str, str]


def pack(
    slices: Sequence[SliceContent],
    changes: Mapping[str, Assignment | None],
    workloads: Mapping[str, str],
    *,
    max_entries: int = MAX_ENTRIES,
    max_bytes: int = MAX_BYTES,
) -> list[SliceContent]:
    """The slices of one member that are to be written: changed ones whole, and new ones.

    ``changes`` is id → entry (None removes it); ``workloads`` holds the JSON for every hash that ``changes`` names.
    """
    open_slices = [_Open(content) for content in sorted(slices, key=lambda content: content.index)]
    home = {child_id: slice_ for slice_ in open_slices for child_id in slice_.entries}
    fresh: list[tuple[str, Assignment]] = []
    for child_id, entry in changes.items():
        slice_ = home.get(child_id)
        if slice_ is None:
            if entry is not None:
                fresh.append((child_id, entry))
        elif entry is None:
            slice_.remove(child_id)
        else:
            slice_.put(child_id, entry, workloads)
    for child_id, entry in fresh:
        cost = _cost(child_id, entry, workloads)
        with_room = [slice_ for slice_ in open_slices if slice_.has_room(cost, max_entries, max_bytes)]
        if with_room:
            target = min(with_room, key=lambda slice_: (not slice_.changed, slice_.index))
        else:
            target = _Open(SliceContent(_free_index(open_slices), {}, {}))
            open_slices.append(target)
        target.put(child_id, entry, workloads)
    return [slice_.content() for slice_ in open_slices if slice_.changed]


def _free_index(slices: Sequence[_Open]) -> int:
    taken = {slice_.index for slice_ in slices}
    return next(index for index in range(len(taken) + 1) if index not in taken)


def _cost(child_id: str, entry: Assignment, workloads: Mapping[str, str]) -> int:
    return len(child_id.encode()) + len(format_assignment(entry)) + len(workloads[entry.workload].encode()) + 32


class _Open:
    """A slice while it is packed."""

    def __init__(self, content: SliceContent) -> None:
        self.index = content.index
        self.changed = False
        self.entries = dict(content.entries)
        self.workloads = dict(content.workloads)
        self.size = sum(
            len(key) + len(text) + 8 for part in (self.entries, self.workloads) for key, text in part.items()
        )

    def has_room(self, cost: int, max_entries: int, max_bytes: int) -> bool:
        return len(self.entries) < max_entries and (not self.entries or self.size + cost <= max_bytes)

    def put(self, child_id: str, entry: Assignment, workloads: Mapping[str, str]) -> None:
        self.changed = True
        self.size += _cost(child_id, entry, workloads)
        self.entries[child_id] = format_assignment(entry)
        self.workloads[entry.workload] = workloads[entry.workload]

    def remove(self, child_id: str) -> None:
        self.changed = True
        self.size -= len(child_id.encode()) + len(self.entries.pop(child_id)) + 8

    def content(self) -> SliceContent:
        used = {text.split(" ", 4)[3] for text in self.entries.values()}
        return SliceContent(
            self.index, {key: text for key, text in self.workloads.items() if key in used}, dict(self.entries)
        )
