"""The checker of the fault tests' rows: it finds each of its faults, and reports none in correct rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "e2e" / "faults"))

from rows import Findings, Ledger, Row, examine, first_after


def row(epoch: int, writer: str, count: int, role: str = "Active") -> Row:
    return Row(epoch, role, time=float(count), member=f"member-of-{writer}", writer=writer, count=count)


def test_an_orderly_move_a_restart_in_place_and_passive_copies_are_correct() -> None:
    moved = [row(1, "a", 1), row(1, "a", 2), row(2, "b", 3), row(2, "b", 4)]
    restarted = [row(1, "a", 1), row(1, "b", 2)]
    copies = [row(5, "p", 1, "Passive"), row(1, "a", 1), row(5, "p", 2, "Passive"), row(1, "a", 2), row(6, "p", 3)]

    for rows in (moved, restarted, copies):
        assert examine(rows) == Findings()


def test_rows_of_an_older_epoch_are_stale_and_do_not_hide_what_follows() -> None:
    rows = [row(1, "a", 1), row(2, "b", 2), row(1, "a", 3), row(2, "b", 4), row(1, "a", 5)]

    found = examine(rows)

    assert found.stale == [rows[2], rows[4]]
    assert found.stale_seconds == 2
    assert found.double == []


def test_two_writers_of_one_epoch_in_turns_are_two_active_ones() -> None:
    rows = [row(1, "a", 1), row(1, "b", 2), row(1, "a", 3)]

    assert examine(rows).double == [rows[2]]


def test_a_writer_that_comes_back_with_a_higher_epoch_after_another_is_a_second_active() -> None:
    rows = [row(1, "a", 1), row(2, "b", 2), row(3, "a", 3)]

    assert examine(rows).double == [rows[2]]


@pytest.mark.parametrize(("count", "forgot"), [(1, True), (2, True), (3, False)])
def test_a_successor_that_does_not_continue_the_count_has_lost_the_state(count: int, forgot: bool) -> None:
    rows = [row(1, "a", 1), row(1, "a", 2), row(2, "b", count)]

    assert bool(examine(rows).forgot) is forgot


def test_a_ledger_reads_each_childs_file_without_an_incomplete_row(tmp_path: Path) -> None:
    (tmp_path / "hub.a").write_text("1 Active 5.000 hub-0 w1 1\n1 Active 5.100 hub-0 w1 2\n1 Act")
    (tmp_path / "other.a").write_text("1 Active 5.000 hub-0 w1 1\n")

    assert Ledger(tmp_path, "hub").rows() == {
        "a": [Row(1, "Active", 5.0, "hub-0", "w1", 1), Row(1, "Active", 5.1, "hub-0", "w1", 2)]
    }


def test_the_last_rows_are_read_from_the_end_of_a_long_file(tmp_path: Path) -> None:
    lines = [f"1 Active {number}.000 hub-0 w1 {number}\n" for number in range(1000)]
    (tmp_path / "hub.a").write_text("".join(lines))

    last = Ledger(tmp_path, "hub").last()["a"]

    assert last[-1].count == 999
    assert 3 < len(last) < 30


def test_the_first_row_elsewhere_is_of_another_member_and_after_the_moment() -> None:
    rows = [row(1, "a", 1), row(2, "b", 2), row(2, "b", 3)]

    assert first_after(rows, 1, not_by=frozenset({"member-of-a"})) == rows[1]
    assert first_after(rows, 2, not_by=frozenset({"member-of-a"})) == rows[2]
    assert first_after(rows, 0, not_by=frozenset({"member-of-a", "member-of-b"})) is None
