"""The grammar of slice entries: written entries are read back, and invalid ones are rejected by their text."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.api.child import ChildEnvVar, Exec, PodWorkload, Python, Workload
from processhub.api.reasons import State
from processhub.api.slice import EPOCHS_PER_TERM
from processhub.registry.grammar import (
    ENDED_BYTES,
    EXIT_BYTES,
    MESSAGE_BYTES,
    Assignment,
    EntryError,
    Report,
    format_assignment,
    format_end,
    format_report,
    hands_over,
    has_state,
    is_by_view,
    is_on_demand,
    parse_assignment,
    parse_end,
    parse_report,
    report_texts,
    same_incarnation,
    shorten_report,
    uid_and_role,
    waits,
    workload_of,
)
from processhub.registry.workloads import decode_workload, encode_workload

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
words = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True)
epochs = st.integers(0, 2**53 - 1)

assignments = st.builds(
    Assignment,
    uid=words,
    epoch=epochs,
    role=st.sampled_from(["Active", "Passive"]),
    workload=words,
    wait=st.booleans(),
    to=st.sampled_from(["", "my-hub-1:7", "my-hub-1:7:must"]),
    restart_policy=st.sampled_from(["Permanent", "Transient", "Temporary"]),
    idle_seconds=st.integers(0, 10**6),
    on_demand=st.booleans(),
    tags=st.lists(texts, max_size=4).map(tuple),
    metadata=st.lists(st.tuples(texts, texts), max_size=4).map(tuple),
    ended=st.one_of(st.just(""), st.builds(format_end, st.builds(Report, uid=words, epoch=epochs, last_exit=texts))),
)
reports = st.builds(
    Report,
    uid=words,
    epoch=epochs,
    role=st.sampled_from(["Active", "Passive"]),
    state=st.sampled_from(["Pending", "Starting", "Running", "Stopping", "Stopped", "Failed"]),
    pid=st.integers(0, 2**22),
    restarts=st.integers(0, 10**6),
    started_at=st.sampled_from(["", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901Z"]),
    reason=st.sampled_from(["", "BackOff", "CommandNotFound"]),
    last_exit=texts,
    message=texts,
    claim=st.one_of(st.just(""), words),
    view=st.one_of(st.just(0), epochs),
)


@given(assignments)
def test_a_spec_entry_is_read_back_as_it_was_written(entry: Assignment) -> None:
    assert parse_assignment(format_assignment(entry)) == entry


@given(reports)
def test_a_status_entry_is_read_back_as_it_was_written(entry: Report) -> None:
    assert parse_report(format_report(entry)) == entry


@given(reports)
def test_an_end_that_an_entry_names_is_read_back_without_what_belonged_to_the_run(report: Report) -> None:
    bare = msgspec.structs.replace(report, pid=0, claim="", view=0)

    assert parse_end(format_end(report)) == bare


def test_the_texts_of_an_end_that_an_entry_names_are_cut() -> None:
    report = Report(uid="u", epoch=1, state="Stopped", reason="Exited", last_exit="é" * 200, message="x y" * 500)

    end = parse_end(format_end(report))

    assert (end.state, end.reason) == ("Stopped", "Exited")
    assert report.last_exit.startswith(end.last_exit)
    assert report.message.startswith(end.message)
    assert max(report_texts(format_report(end))) <= ENDED_BYTES
    assert len(format_end(report)) < 4 * ENDED_BYTES


@given(assignments)
def test_searching_a_spec_entry_finds_what_parsing_finds(entry: Assignment) -> None:
    text = format_assignment(entry)

    assert waits(text) == entry.wait
    assert is_on_demand(text) == entry.on_demand
    assert hands_over(text) == bool(entry.to)
    assert uid_and_role(text) == (entry.uid, entry.role)
    assert workload_of(text) == entry.workload


@given(assignments, reports)
def test_searching_a_status_entry_finds_what_parsing_finds(entry: Assignment, report: Report) -> None:
    text = format_report(report)

    assert [state for state in State if has_state(text, state)] == [report.state]
    assert uid_and_role(text) == (report.uid, report.role)
    assert is_by_view(text) == bool(report.view)
    same = format_assignment(msgspec.structs.replace(entry, uid=report.uid, epoch=report.epoch))
    assert same_incarnation(text, same)
    assert same_incarnation(text, format_assignment(entry)) == (entry.uid == report.uid and entry.epoch == report.epoch)


@given(assignments, reports)
def test_an_entry_is_printable_ascii_with_single_spaces(assignment: Assignment, report: Report) -> None:
    for text in (format_assignment(assignment), format_report(report)):
        assert text.isascii()
        assert text.isprintable()
        assert "  " not in text
        assert text == text.strip()


def test_spec_entries_are_written_as_the_resource_documents_them() -> None:
    plain = Assignment(uid="u-1", epoch=3 * EPOCHS_PER_TERM + 7, workload="h1")
    full = Assignment(
        uid="u-1",
        epoch=5,
        role="Passive",
        workload="h1",
        wait=True,
        restart_policy="Transient",
        tags=("eu", "a b", "x,y"),
        metadata=(("k", "v=1:2"),),
    )

    assert format_assignment(plain) == "u-1 3000000007 Active h1"
    assert format_assignment(full) == "u-1 5 Passive h1 wait restart=Transient tags=eu,a%20b,x%2Cy meta=k:v%3D1%3A2"


def test_status_entries_are_written_as_the_resource_documents_them() -> None:
    pending = Report(uid="u-1", epoch=5)
    failed = Report(
        uid="u-1",
        epoch=5,
        state="Failed",
        pid=77,
        restarts=3,
        started_at="2026-01-02T03:04:05Z",
        reason="Exited",
        last_exit="exit code 1",
        message="100% = broken",
    )

    assert format_report(pending) == "u-1 5 Active Pending - 0 -"
    assert (
        format_report(failed) == "u-1 5 Active Failed 77 3 2026-01-02T03:04:05Z"
        " reason=Exited exit=exit%20code%201 msg=100%25%20%3D%20broken"
    )


def test_options_of_a_newer_minor_version_are_ignored() -> None:
    assert parse_assignment("u 5 Active h shard=7 wait newflag") == Assignment(
        uid="u", epoch=5, workload="h", wait=True
    )
    assert parse_report("u 5 Active Running 9 0 - cpu=3") == Report(uid="u", epoch=5, state="Running", pid=9)


@pytest.mark.parametrize("text", ["", "u", "u 5", "u 5 Active", "u five Active h", "u  Active h", "u 5.0 Active h"])
def test_an_invalid_spec_entry_is_rejected_by_its_text(text: str) -> None:
    with pytest.raises(EntryError, match="not a spec entry of format 2") as error:
        parse_assignment(text)

    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "u 5 Active Running", "u 5 Active Running x 0 -", "u x Active Running 1 0 -", "u 5 Active Running 1 - -"],
)
def test_an_invalid_status_entry_is_rejected_by_its_text(text: str) -> None:
    with pytest.raises(EntryError, match="not a status entry of format 2") as error:
        parse_report(text)

    assert repr(text) in str(error.value)


def test_equal_workloads_have_one_hash_and_one_text() -> None:
    one = Workload(python=Python(target="m:C", args={"b": 1, "a": [2]}))
    same = Workload(python=Python(target="m:C", args={"a": [2], "b": 1}))
    other = Workload(python=Python(target="m:C", args={"a": [2], "b": 2}))

    assert encode_workload(one) == encode_workload(same)
    assert encode_workload(one)[0] != encode_workload(other)[0]


@pytest.mark.parametrize(
    "workload",
    [
        Workload(exec=Exec(command=("sleep", "1"), args=("é",), env=(ChildEnvVar(name="A", value="b"),))),
        Workload(python=Python(target="m:C", args={"a": {"b": [1, 2.5, None, True]}})),
        Workload(pod=PodWorkload(template={"spec": {"containers": []}}, port=80)),
    ],
)
def test_a_workload_is_read_back_as_it_was_written(workload: Workload) -> None:
    _, text = encode_workload(workload)

    assert decode_workload(text) == (workload.exec or workload.python or workload.pod)
    assert set(json.loads(text)) <= {"exec", "python", "pod"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"exec": 5}', '{"exec": null}'])
def test_an_invalid_workload_is_rejected(text: str) -> None:
    with pytest.raises(EntryError, match="workload"):
        decode_workload(text)


def test_epochs_of_a_later_term_are_above_all_of_an_earlier_one_and_exact_as_json_numbers() -> None:
    last_of_one = 2 * EPOCHS_PER_TERM - 1

    assert last_of_one < 2 * EPOCHS_PER_TERM
    assert 9_000_000 * EPOCHS_PER_TERM < 2**53


def test_reports_of_agents_that_wrote_texts_before_the_words_of_a_handover_are_read() -> None:
    start = "u 5 Active Stopping - 0 - reason=Exited"
    text = f"{start} exit=stopped msg=its%20state gave=7:abc kept=7:failed:why got=d claim=m"

    entry = parse_report(text)

    assert entry == Report(
        uid="u",
        epoch=5,
        state="Stopping",
        reason="Exited",
        last_exit="stopped",
        message="its state",
        gave="7:abc",
        kept="7:failed:why",
        got="d",
        claim="m",
    )
    assert format_report(entry).endswith(" gave=7:abc kept=7:failed:why got=d claim=m exit=stopped msg=its%20state")
    assert parse_report(format_report(entry)) == entry


@given(st.text(st.characters(exclude_categories=("Cs",))), st.integers(0, 3000))
def test_texts_are_cut_between_characters_and_nothing_else_is_cut(text: str, most: int) -> None:
    entry = Report(uid="u", epoch=5, state="Failed", last_exit=text, message=text * 300, kept="7:failed:why", got="d")

    short = shorten_report(format_report(entry), most)

    told = parse_report(short)
    assert text.startswith(told.last_exit)
    assert (text * 300).startswith(told.message)
    assert (told.got, told.kept[:8]) == ("d", "7:failed")
    assert all(length <= most for length in report_texts(short))
    assert len(format_report(entry)) <= 150 + EXIT_BYTES + MESSAGE_BYTES


def test_a_text_that_is_no_utf8_is_reported_nevertheless() -> None:
    """An exception's message may be like that; the report is about a thousand children."""
    entry = Report(uid="u", epoch=5, state="Failed", last_exit="a\ud800b", message="\udfff")

    told = parse_report(format_report(entry))

    assert (told.last_exit, told.message) == ("a?b", "?")
