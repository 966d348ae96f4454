"""The part of a slice's status that is written when it is too large for one object."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processhub.agent.registry.maderuns import OBJECT_MAX, bytes_by_view, room_by_view
from processhub.agent.reporting.statusfit import SPEC_MAX
from processhub.agent.reporting.statusfit import fit as fit_beside
from processhub.api.reasons import State
from processhub.api.slice import MAX_BYTES, MAX_ENTRIES, SliceSpec, SliceStatus, stored_bytes
from processhub.registry.grammar import Assignment, Report, format_assignment, format_report, parse_report

UID = "0f0e0d0c-1111-2222-3333-444455556666"
ENVELOPE = 32 * 1024  # at least, for metadata, managed fields and the request
CHINESE = ("数据库连接失败：" * 40)[:300]


def spec_of(ids: list[str]) -> SliceSpec:
    entry = format_assignment(Assignment(uid=UID, epoch=5_000_000_123, workload="4eb87135da9d56b4"))
    return SliceSpec(hub="hub", hub_uid=UID, member="hub-0", term=5, entries=dict.fromkeys(ids, entry))


def fit(entries: dict[str, str], spec: SliceSpec, reported: Collection[str]) -> tuple[dict[str, str], bool]:
    fitted = fit_beside(entries, spec, stored_bytes(spec), reported)
    return fitted.entries, fitted.whole


def failed(text: str) -> Report:
    return Report(
        uid=UID,
        epoch=5_000_000_123,
        state=State.FAILED,
        restarts=7,
        started_at="2026-01-01T00:00:00Z",
        reason="Exited",
        last_exit=text,
        message=f"{text}; BackOff: restart 7 after 3.2 s"[:500],
    )


def test_handover_fields_are_kept_beside_a_thousand_long_messages() -> None:
    loud = {f"tenant/{number}": format_report(failed("x y " * 75)) for number in range(998)}
    source = Report(
        uid=UID, epoch=6, state=State.STOPPING, message="its state is handed over", gave="7:abcdef", claim="hub-1"
    )
    target = Report(uid=UID, epoch=7, message="its state was lost with an earlier agent", kept="7:lost", got="abc")
    entries = {**loud, "source": format_report(source), "target": format_report(target)}

    reported, whole = fit(entries, spec_of(list(entries)), ())

    assert whole
    assert reported.keys() == entries.keys()
    arrived = parse_report(reported["source"])
    assert (arrived.gave, arrived.claim) == ("7:abcdef", "hub-1")
    arrived = parse_report(reported["target"])
    assert (arrived.kept, arrived.got) == ("7:lost", "abc")


@pytest.mark.parametrize("text", [CHINESE, "😀" * 300, "x" * 300, "\x00" * 300], ids=["chinese", "emoji", "x", "nul"])
def test_a_full_slice_leaves_room_for_the_largest_spec_whatever_its_children_report(text: str) -> None:
    entries = {f"tenant/{number}": format_report(failed(text)) for number in range(MAX_ENTRIES)}

    reported, whole = fit(entries, spec_of(list(entries)), ())

    assert whole
    assert reported.keys() == entries.keys()
    assert stored_bytes(SliceStatus(entries=reported)) <= OBJECT_MAX - SPEC_MAX - ENVELOPE
    assert {parse_report(entry).reason for entry in reported.values()} == {"Exited"}
    assert all(parse_report(entry).last_exit for entry in reported.values())
    assert all(text.startswith(parse_report(entry).last_exit) for entry in reported.values())


def test_the_longest_texts_are_cut_first() -> None:
    short = {f"short-{number}": format_report(failed("exit code 1")) for number in range(500)}
    long = {f"long-{number}": format_report(failed(CHINESE)) for number in range(500)}

    reported, _ = fit({**short, **long}, spec_of([*short, *long]), ())

    assert {child_id: reported[child_id] for child_id in short} == short
    assert all(parse_report(reported[child_id]).last_exit for child_id in long)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60), max_size=40),
    st.integers(0, 253),
)
def test_the_object_is_below_the_limit_of_etcd_whatever_the_ids_and_texts(parts: list[str], length: int) -> None:
    ids = [_id_of(part, number, length) for number in range(1500) for part in (parts or ["<&>"])[:1]]
    spec_ids = []
    size = 0
    for child_id in ids[:MAX_ENTRIES]:  # as core/packing.py fills a slice
        size += stored_bytes(child_id) + 100
        if size > MAX_BYTES:
            break
        spec_ids.append(child_id)
    spec = spec_of(spec_ids)
    stopping = format_report(Report(uid=UID, epoch=5_000_000_000, state=State.STOPPING, pid=1234567, restarts=9))
    running = format_report(failed("".join(parts)))
    entries = {child_id: running if child_id in spec.entries else stopping for child_id in ids}

    reported, whole = fit(entries, spec, ())

    assert stored_bytes(SliceStatus(entries=reported)) + stored_bytes(spec) <= OBJECT_MAX - ENVELOPE
    assert len(reported) <= MAX_ENTRIES
    assert whole == (len(reported) == len(entries))


def _id_of(part: str, number: int, length: int) -> str:
    text = f"{number}{part}"
    text += "<" * max(0, length - len(text.encode()))
    return text.encode()[:253].decode(errors="ignore")


def test_what_a_member_starts_by_itself_is_never_left_out() -> None:
    """No entry tells the operator of it, and it may run at any moment."""
    waiting = {f"waiting-{number}": format_report(Report(uid=UID, epoch=1)) for number in range(900)}
    own = {f"own-{number}": format_report(Report(uid=UID, epoch=2, view=7)) for number in range(300)}

    reported, whole = fit({**waiting, **own}, spec_of([*waiting]), ())

    assert whole
    assert reported.keys() >= own.keys()
    assert reported.keys() - own.keys() == waiting.keys()


def test_beside_a_full_slice_a_member_reports_as_many_as_it_may_start() -> None:
    """Thousands: while no operator runs, none of them gets an entry."""
    spec = spec_of([f"on-record-{number}" for number in range(MAX_ENTRIES)])
    on_record = {child_id: format_report(failed("x" * 2000)) for child_id in spec.entries}
    report = Report(uid=UID, epoch=5_000_000_000, state=State.FAILED, pid=1234567, view=5_000_000_000)
    own, room = dict[str, str](), room_by_view(spec)
    while (room := room - bytes_by_view(child_id := f"own-{len(own)}")) >= 0:
        own[child_id] = format_report(report)

    reported, whole = fit({**on_record, **own}, spec, ())

    assert whole
    assert reported.keys() == on_record.keys() | own.keys()
    assert len(own) > 4000
    assert stored_bytes(SliceStatus(entries=reported)) + stored_bytes(spec) <= OBJECT_MAX - ENVELOPE


def test_a_reported_running_child_stays_reported_when_others_are_added() -> None:
    """Its absence, at a generation that the status has observed, would be taken for its end."""
    waiting = {f"waiting-{number}": format_report(Report(uid=UID, epoch=1)) for number in range(600)}
    stopping = format_report(Report(uid=UID, epoch=1, state=State.STOPPING, pid=7))
    running = format_report(Report(uid=UID, epoch=1, state=State.RUNNING, pid=7))
    ends = {f"ends-{number}": stopping for number in range(600)}
    runs = {f"runs-{number}": running for number in range(400)}
    spec = spec_of([*waiting, *runs])
    before, whole = fit({**waiting, **ends, **runs}, spec, ())
    assert whole
    assert before.keys() == ends.keys() | runs.keys()

    reported, whole = fit({**dict.fromkeys(waiting, running), **ends, **runs}, spec, before)

    assert not whole
    assert reported.keys() == before.keys()
