"""Packing (docs/protocol.md, rule 6): entries never move between slices, writes are few, slices are bounded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processhub.api.child import Exec, Workload
from processhub.core.planning.packing import SliceContent, measured, pack
from processhub.registry.grammar import Assignment, format_assignment, parse_assignment
from processhub.registry.workloads import encode_workload

MAX_ENTRIES, MAX_BYTES = 4, 700


def workload(size: int) -> tuple[str, str]:
    return encode_workload(Workload(exec=Exec(command=("x" * size,))))


SMALL, _ = workload(1)
WORKLOADS = dict(workload(size) for size in (1, 2, 3, 100, 2000))


def entry(epoch: int = 1, hash_: str = SMALL) -> Assignment:
    return Assignment(uid="u", epoch=epoch, workload=hash_)


def content(index: int, *ids: str, hash_: str = SMALL) -> SliceContent:
    return SliceContent(index, {hash_: WORKLOADS[hash_]}, {id_: format_assignment(entry(hash_=hash_)) for id_ in ids})


def wire_bytes(slice_: SliceContent) -> int:
    return sum(
        len(key.encode()) + len(text.encode())
        for part in (slice_.workloads, slice_.entries)
        for key, text in part.items()
    )


def apply(slices: dict[int, SliceContent], written: list[SliceContent]) -> dict[int, SliceContent]:
    return {**slices, **{slice_.index: slice_ for slice_ in written}}


def small(slices: list[SliceContent], changes: dict[str, Assignment | None]) -> list[SliceContent]:
    return pack(slices, changes, WORKLOADS, max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES)


def test_the_first_entries_open_slice_zero() -> None:
    written = small([], {"a": entry(), "b": entry()})

    assert [(slice_.index, set(slice_.entries)) for slice_ in written] == [(0, {"a", "b"})]
    assert written[0].workloads == {SMALL: WORKLOADS[SMALL]}


def test_a_new_entry_fills_the_first_slice_with_room() -> None:
    slices = [content(0, "a", "b", "c", "d"), content(1, "e"), content(2, "f")]

    written = small(slices, {"new": entry()})

    assert [(slice_.index, set(slice_.entries)) for slice_ in written] == [(1, {"e", "new"})]


def test_new_entries_leave_the_slices_free_that_are_kept_for_what_a_member_starts() -> None:
    slices = [content(0, "a", "b")]

    first = pack(slices, {"new": entry(), "a": entry(2)}, WORKLOADS, first=1)
    assert {slice_.index: set(slice_.entries) for slice_ in first} == {0: {"a", "b"}, 1: {"new"}}
    again = pack([*slices, first[1]], {"next": entry()}, WORKLOADS, first=1)
    assert [(slice_.index, set(slice_.entries)) for slice_ in again] == [(1, {"new", "next"})]


def test_a_new_entry_is_added_to_a_slice_that_is_written_anyway() -> None:
    slices = [content(0, "a"), content(1, "b"), content(2, "c")]

    written = small(slices, {"c": entry(epoch=2), "new": entry()})

    assert [(slice_.index, set(slice_.entries)) for slice_ in written] == [(2, {"c", "new"})]


def test_a_removal_makes_room_once_its_end_is_proven() -> None:
    slices = [content(0, "a", "b", "c", "d"), content(1, "e", "f", "g", "h")]

    written = small(slices, {"b": None, "new": entry()})
    assert [(slice_.index, set(slice_.entries)) for slice_ in written] == [(0, {"a", "c", "d"}), (2, {"new"})]

    now = msgspec.structs.replace(content(0, "a", "c", "d"), ending={"b"})
    assert small([now], {"new": entry()})[0].index == 1

    written = small([content(0, "a", "c", "d")], {"new": entry()})
    assert [(slice_.index, set(slice_.entries)) for slice_ in written] == [(0, {"a", "c", "d", "new"})]


def test_children_that_end_slowly_leave_room_for_all_running_ones_in_the_status() -> None:
    """However often its slice is emptied and filled again before any of its children has ended."""
    slices: dict[int, SliceContent] = {}
    running: dict[int, set[str]] = {}

    for round_ in range(6):
        there = [msgspec.structs.replace(item, ending=running[index]) for index, item in slices.items()]
        leaving: dict[str, Assignment | None] = {child_id: None for item in there for child_id in item.entries}
        arriving = {f"{round_}-{number}": entry() for number in range(MAX_ENTRIES)}
        slices = apply(slices, small(there, {**leaving, **arriving}))
        for index, item in slices.items():
            running.setdefault(index, set()).update(item.entries)

    assert all(len(ids) <= MAX_ENTRIES for ids in running.values())


@pytest.mark.parametrize(("letters", "slices"), [("abc", 1), ("<&>", 2)])
def test_the_size_is_that_of_the_json_that_the_api_server_stores(letters: str, slices: int) -> None:
    """It writes some characters that are frequent in shells and markup as six bytes each."""
    digest, text = encode_workload(Workload(exec=Exec(command=(letters * 100,))))

    written = pack([], {"a": entry(hash_=digest), "b": entry()}, {**WORKLOADS, digest: text}, max_bytes=MAX_BYTES)

    assert len(written) == slices


def test_a_new_slice_takes_the_lowest_free_index() -> None:
    slices = [content(0, "a", "b", "c", "d"), content(2, "e", "f", "g", "h")]

    written = small(slices, {"new": entry()})

    assert [(slice_.index, set(slice_.entries)) for slice_ in written] == [(1, {"new"})]


def test_a_change_without_effect_is_no_write() -> None:
    slices = [content(0, "a", "b"), content(1, "c")]

    written = small(slices, {"a": entry(), "gone-already": None})

    assert written == []


def test_a_removed_last_entry_leaves_an_empty_slice_to_be_deleted_once_acknowledged() -> None:
    written = small([content(0, "a")], {"a": None})

    assert written == [SliceContent(0, {}, {})]


def test_an_unused_workload_is_removed_from_the_slice() -> None:
    other, _ = workload(2)

    written = small([content(0, "a", "b")], {"a": entry(2, other), "b": entry(2, other)})

    assert written[0].workloads == {other: WORKLOADS[other]}


def test_a_slice_that_lost_a_workload_gets_it_back_with_the_next_write_of_an_entry() -> None:
    damaged = SliceContent(0, {}, content(0, "a", "b").entries)

    assert small([damaged], {"a": entry()}) == [content(0, "a", "b")]
    assert [set(slice_.entries) for slice_ in small([damaged], {"a": None})] == [{"b"}]


def test_an_edited_entry_counts_once() -> None:
    """Three edits in place must not use up the room that the slice has for a fourth entry."""
    hash_, _ = workload(100)
    slices = [content(0, "a", "b", "c", hash_=hash_)]

    written = small(slices, {"a": entry(2, hash_), "b": entry(2, hash_), "c": entry(2, hash_), "d": entry(2, hash_)})

    assert [slice_.index for slice_ in written] == [0]


def test_an_entry_that_outgrows_its_slice_is_removed_from_it() -> None:
    """Otherwise a slice of 1,000 edited entries could outgrow etcd's limit, and could not be written any more."""
    big, _ = workload(2000)

    written = small([content(0, "a", "b")], {"a": entry(2, big)})

    assert [set(slice_.entries) for slice_ in written] == [{"b"}]
    assert [set(slice_.entries) for slice_ in small([content(0, "a")], {"a": entry(2, big)})] == [{"a"}]


def test_an_entry_may_shrink_in_a_slice_that_is_too_large() -> None:
    big, _ = workload(2000)
    large = SliceContent(
        0,
        {hash_: WORKLOADS[hash_] for hash_ in (big, SMALL)},
        {"a": format_assignment(entry(1, big)), "b": format_assignment(entry())},
    )

    written = small([large], {"a": entry(2)})

    assert [set(slice_.entries) for slice_ in written] == [{"a", "b"}]


def test_a_shared_workload_counts_once() -> None:
    """1,000 children of one workload of 10 KiB are one slice, not twenty."""
    hash_, text = encode_workload(Workload(exec=Exec(command=("x" * 10_240,))))
    changes: dict[str, Assignment | None] = {f"tenant/{n}": entry(n + 1, hash_) for n in range(1000)}

    written = pack([], changes, {hash_: text})

    assert [len(slice_.entries) for slice_ in written] == [1000]


def test_a_slice_is_closed_by_bytes_of_utf8_not_by_characters() -> None:
    slices = [SliceContent(0, {SMALL: WORKLOADS[SMALL]}, {"🎲" * 60: format_assignment(entry())})]

    written = small(slices, {"🎲" * 60 + "b": entry(), "🎲" * 60 + "c": entry()})

    assert all(wire_bytes(slice_) <= MAX_BYTES for slice_ in written)
    assert {slice_.index for slice_ in written} == {0, 1}


def test_an_entry_above_the_bound_gets_a_slice_of_its_own() -> None:
    big, _ = workload(2000)

    written = small([content(0, "a")], {"big": entry(1, big), "new": entry()})

    assert {slice_.index: set(slice_.entries) for slice_ in written} == {0: {"a", "new"}, 1: {"big"}}


def test_a_thousand_new_entries_are_one_write() -> None:
    changes: dict[str, Assignment | None] = {f"tenant/{n}": entry(n + 1) for n in range(1000)}

    written = pack([], changes, WORKLOADS)

    assert len(written) == 1
    assert len(pack(written, {"one more": entry()}, WORKLOADS)) == 1


changes_of_a_round = st.dictionaries(
    st.text("abcdefgh€", min_size=1, max_size=3),
    st.none() | st.tuples(st.integers(1, 99), st.sampled_from(sorted(WORKLOADS))),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(changes_of_a_round, max_size=6))
def test_entries_stay_in_their_slice_and_slices_in_their_bounds_over_any_rounds(
    rounds: list[dict[str, tuple[int, str] | None]],
) -> None:
    slices: dict[int, SliceContent] = {}
    expected: dict[str, Assignment] = {}
    for changed in rounds:
        changes = {id_: entry(*value) if value else None for id_, value in changed.items()}
        home = {id_: slice_.index for slice_ in slices.values() for id_ in slice_.entries}
        room = sum(MAX_ENTRIES - len(slice_.entries) for slice_ in slices.values())

        written = small(list(slices.values()), changes)
        again = [msgspec.structs.replace(it, measure=measured(it.entries)) for it in slices.values()]
        for _ in range(2):
            assert small(again, changes) == written, "a measure stays as it is"

        before, slices = slices, apply(slices, written)
        held_now = {id_ for slice_ in slices.values() for id_ in slice_.entries}
        for id_, value in changes.items():
            outgrown = value is not None and id_ in home and id_ not in held_now
            assert not outgrown or len(before[home[id_]].entries) > 1
            if value is None or outgrown:
                expected.pop(id_, None)
            else:
                expected[id_] = value
        held = [(id_, slice_) for slice_ in slices.values() for id_ in slice_.entries]
        # Every entry once, with its workload in the same slice, and where it was before.
        assert sorted(id_ for id_, _ in held) == sorted(expected)
        for id_, slice_ in held:
            assert parse_assignment(slice_.entries[id_]) == expected[id_]
            assert slice_.workloads[expected[id_].workload] == WORKLOADS[expected[id_].workload]
            assert home.get(id_, slice_.index) == slice_.index
        # Only changed slices are written, and only new entries grow a slice, within its bounds.
        for slice_ in written:
            assert slice_ != before.get(slice_.index)
            assert len(slice_.entries) <= MAX_ENTRIES
            assert len(slice_.entries) == 1 or wire_bytes(slice_) <= 2 * MAX_BYTES
            new_here = [id_ for id_ in slice_.entries if id_ not in home]
            if (
                new_here
                and len(slice_.entries) > 1
                and all(id_ not in changes or id_ in new_here for id_ in slice_.entries)
            ):
                assert wire_bytes(slice_) <= MAX_BYTES
        # A slice is opened only when the others are full (here by count or, with the large workloads, by bytes).
        opened = [slice_ for slice_ in written if slice_.index not in before]
        fresh = [id_ for id_ in expected if id_ not in home]
        if opened and all(len(WORKLOADS[value.workload]) < 60 for value in expected.values()):
            assert room < len(fresh) or any(wire_bytes(slice_) > MAX_BYTES / 2 for slice_ in before.values())
