"""A slice that is followed equals one that is read again, and only changed texts are parsed."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from builders import make_slice
from processhub.registry.grammar import Assignment, Report, format_assignment, format_report
from processhub.registry.slices import SliceView

ENTRY = format_assignment(Assignment(uid="u", epoch=1, workload="w"))
OTHER = format_assignment(Assignment(uid="u", epoch=2, workload="w"))
REPORT = format_report(Report(uid="u", epoch=1, state="Running"))
entries = st.dictionaries(st.sampled_from("abc"), st.sampled_from([ENTRY, OTHER, "not an entry"]))
reports = st.dictionaries(st.sampled_from("abc"), st.sampled_from([REPORT, "not a report"]))


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {child_id for child_id in before.keys() | after.keys() if before.get(child_id) != after.get(child_id)}


@given(st.lists(st.tuples(entries, reports), min_size=2, max_size=4))
def test_following_changes_equals_reading_everything_again(seen: list[tuple[dict[str, str], dict[str, str]]]) -> None:
    view = SliceView()
    before: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for now in seen:
        change = view.update(make_slice(*now))

        assert change.entries == differing(before[0], now[0])
        assert change.reports == differing(before[1], now[1])
        before = now

    fresh = SliceView()
    fresh.update(make_slice(*seen[-1]))
    assert (view.entries, view.reports, view.ids) == (fresh.entries, fresh.reports, fresh.ids)


def test_unchanged_entries_are_not_parsed_again() -> None:
    view = SliceView()
    view.update(make_slice({"a": ENTRY, "b": ENTRY}, {"a": REPORT}))
    entries, reports = dict(view.entries), dict(view.reports)

    change = view.update(make_slice({"a": ENTRY, "b": OTHER}, {"a": REPORT}))

    assert (change.entries, change.reports) == ({"b"}, set())
    assert view.entries["a"] is entries["a"]
    assert view.entries["b"] is not entries["b"]
    assert view.reports["a"] is reports["a"]


def test_an_unreadable_entry_counts_as_absent_and_is_returned_once() -> None:
    view = SliceView()
    view.update(make_slice({"a": ENTRY}))
    broken = make_slice({"a": "not an entry", "b": ENTRY}, {"b": "not a report"})

    change = view.update(broken)

    assert view.entries.keys() == {"b"}
    assert not view.reports
    assert view.ids == {"a", "b"}
    assert [(child_id, str(error).rpartition(": ")[2]) for child_id, error in change.unreadable] == [
        ("a", "'not an entry'"),
        ("b", "'not a report'"),
    ]
    assert view.update(broken).unreadable == []


def test_an_agent_keeps_an_entry_with_an_unreadable_new_text_until_its_id_is_gone() -> None:
    view = SliceView(keeps_unreadable=True)
    view.update_entries(make_slice({"a": ENTRY}, {"a": REPORT}))
    known = view.entries["a"]

    assert view.update_entries(make_slice({"a": "not an entry"})).entries == {"a"}
    assert view.entries == {"a": known}

    view.update_entries(make_slice({}))
    assert not view.entries
    assert not view.reports
