"""What of a slice's status fits into the object: texts for people give way, what somebody waits for does not.

etcd takes objects of 1.5 MiB, the spec and the status of a slice together. A status that outgrew it would be refused
for ever, and its member be mute; one that left no room for a larger spec would have the operator's next write refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import NamedTuple

from processhub.api.reasons import State
from processhub.api.slice import MAX_BYTES, MAX_ENTRIES, SliceSpec, stored_bytes
from processhub.registry.grammar import has_state, report_texts, shorten_report

OBJECT_MAX = 1536 * 1024  # etcd's limit of a request, --max-request-bytes
_ENVELOPE = 64 * 1024  # metadata and managed fields, and the request around the object
SPEC_MAX = 2 * MAX_BYTES  # what an operator may let a spec grow to (core/packing.py)


class Fitted(NamedTuple):
    """What is reported: the entries, whether they name all that may run, and the bytes that they take as stored."""

    entries: dict[str, str]
    whole: bool
    size: int


def fit(entries: Mapping[str, str], spec: SliceSpec, spec_size: int, reported: Collection[str]) -> Fitted:
    """What is to be reported of ``entries`` beside ``spec``, which takes ``spec_size`` bytes as stored.

    Texts for people are cut, the longest first, until the status leaves the spec the room that it may come to need.
    Entries are left out only where there are more than a slice holds, or more than etcd takes beside the present spec
    without any such text: first what is Pending, of which nothing runs, so that the status still names all. What is
    being stopped has no limit, as the room that it leaves in the spec is filled while it still runs; where that is left
    out, the status does not name all. Then what was ``reported`` before stays, since its absence would be read as its
    end.
    """
    room = OBJECT_MAX - _ENVELOPE - max(spec_size, SPEC_MAX)
    size = stored_bytes(entries)
    if len(entries) <= MAX_ENTRIES and size <= room:
        return Fitted(dict(entries), True, size)
    kept, whole = _those_with_room(entries, spec, set(reported), OBJECT_MAX - _ENVELOPE - spec_size)
    shortened = _shortened(kept, room)
    return Fitted(shortened, whole, stored_bytes(shortened))


def _size(child_id: str, text: str) -> int:
    """The bytes of one entry as it is stored; the text is printable ASCII that JSON does not escape."""
    return stored_bytes(child_id) + len(text) + 4


def _those_with_room(
    entries: Mapping[str, str], spec: SliceSpec, reported: set[str], room: int
) -> tuple[dict[str, str], bool]:
    """The entries for which there is room without their texts for people, and whether the others are all Pending."""

    def order(entry: tuple[str, str]) -> tuple[bool, bool, bool]:
        child_id, text = entry
        return has_state(text, State.PENDING), child_id not in reported, child_id in spec.entries

    kept: dict[str, str] = {}
    whole = True
    for child_id, text in sorted(entries.items(), key=order):
        room -= _size(child_id, shorten_report(text, 0))
        pending = has_state(text, State.PENDING)
        if len(kept) < MAX_ENTRIES and (room >= 0 or (child_id in reported and not pending)):
            kept[child_id] = text
        else:
            whole = whole and pending
    return kept, whole


def _shortened(entries: Mapping[str, str], room: int) -> dict[str, str]:
    """The entries with texts for people of a length, the same for all, at which they take ``room`` bytes at most."""
    texts = sorted(length for text in entries.values() for length in report_texts(text))
    sums = [0, *accumulate(texts)]
    room -= sum(_size(child_id, text) for child_id, text in entries.items()) - sums[-1]

    def needed(most: int) -> int:
        shorter = bisect_right(texts, most)
        return sums[shorter] + most * (len(texts) - shorter)

    lengths = range(texts[-1] + 1 if texts else 1)
    most = bisect_right(lengths, room, key=needed) - 1
    return {child_id: shorten_report(text, max(most, 0)) for child_id, text in entries.items()}
