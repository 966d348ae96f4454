"""The part of a slice's status that fits into the object. Texts for people are cut first, then entries are left out.

etcd accepts objects of up to 1.5 MiB, and a slice's spec and status are one object. A larger status would be rejected
at every attempt, and the member could report nothing any more. A status that left no room for a larger spec would make
the API server reject the operator's next write.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import NamedTuple

from processhub.agent.registry.maderuns import ENVELOPE, OBJECT_MAX
from processhub.api.reasons import State
from processhub.api.slice import MAX_BYTES, MAX_ENTRIES, SliceSpec, stored_bytes
from processhub.registry.grammar import has_state, is_by_view, report_texts, shorten_report

SPEC_MAX = 2 * MAX_BYTES  # the size to which an operator may let a spec grow (core/planning/packing.py)


class Fitted(NamedTuple):
    """The entries to report, and whether they name every child that may run."""

    entries: dict[str, str]
    whole: bool


def fit(
    entries: Mapping[str, str], spec: SliceSpec, spec_size: int, reported: Collection[str], beside: int = 0
) -> Fitted:
    """Select what to report of ``entries`` beside ``spec``, which takes ``spec_size`` bytes as stored.

    The following is done until the entries fit:

    1. Texts for people are cut, the longest first, until the spec has the room that it may come to need.
    2. Entries that are Pending are left out, if there are more than a slice holds, or more than etcd accepts beside the
       present spec even without any text. Nothing of a Pending child runs, so the status still names all that may run.
    3. Other entries are left out. The status then does not name all. Entries that were ``reported`` before are kept,
       because their absence would mean that the child has ended.

    A child that the member starts by itself is never left out: no entry tells the operator of it. The member starts no
    more of them than there is room for (``room_by_view``). ``beside``: bytes of the status beside its entries.

    Each entry counts as it would be stored by itself. Those that run well take less (api/running.py), but may stop to
    run well at any moment.

    The number of children that are being stopped has no limit: new children take their room in the spec while they
    still run.
    """
    room = OBJECT_MAX - ENVELOPE - beside - max(spec_size, SPEC_MAX)
    if len(entries) <= MAX_ENTRIES and stored_bytes(entries) <= room:
        return Fitted(dict(entries), True)
    kept, whole = _those_with_room(entries, spec, set(reported), OBJECT_MAX - ENVELOPE - beside - spec_size)
    return Fitted(_shortened(kept, room), whole)


def _size(child_id: str, text: str) -> int:
    """The bytes of one entry as stored. The text is printable ASCII that JSON does not escape."""
    return stored_bytes(child_id) + len(text) + 4


def _those_with_room(
    entries: Mapping[str, str], spec: SliceSpec, reported: set[str], room: int
) -> tuple[dict[str, str], bool]:
    """The entries that fit without their texts for people, and whether all others are Pending."""

    def order(entry: tuple[str, str]) -> tuple[bool, bool, bool]:
        child_id, text = entry
        return has_state(text, State.PENDING), child_id not in reported, child_id in spec.entries

    kept = {child_id: text for child_id, text in entries.items() if is_by_view(text)}
    room -= sum(_size(child_id, shorten_report(text, 0)) for child_id, text in kept.items())
    others = {child_id: text for child_id, text in entries.items() if child_id not in kept}
    most, whole = MAX_ENTRIES + len(kept), True
    for child_id, text in sorted(others.items(), key=order):
        room -= _size(child_id, shorten_report(text, 0))
        pending = has_state(text, State.PENDING)
        if len(kept) < most and (room >= 0 or (child_id in reported and not pending)):
            kept[child_id] = text
        else:
            whole = whole and pending
    return kept, whole


def _shortened(entries: Mapping[str, str], room: int) -> dict[str, str]:
    """The entries with their texts for people cut to one common length, so that they take ``room`` bytes at most."""
    texts = sorted(length for text in entries.values() for length in report_texts(text))
    sums = [0, *accumulate(texts)]
    room -= sum(_size(child_id, text) for child_id, text in entries.items()) - sums[-1]

    def needed(most: int) -> int:
        shorter = bisect_right(texts, most)
        return sums[shorter] + most * (len(texts) - shorter)

    lengths = range(texts[-1] + 1 if texts else 1)
    most = bisect_right(lengths, room, key=needed) - 1
    return {child_id: shorten_report(text, max(most, 0)) for child_id, text in entries.items()}
