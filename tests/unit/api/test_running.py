"""Children that run well stand in groups in a slice's status, and every reader gets each report as it was given."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processhub.api.reasons import Reason, Role, State
from processhub.api.running import RunningGroup, whole_reports
from processhub.api.slice import RegistrySlice, SliceStatus, stored_bytes
from processhub.registry.grammar import Report, format_report, parse_report

SET = "0f3a5c1e-6f0e-4f4c-9d6b-0a1b2c3d4e5f"
SECOND, NEXT = "2026-11-30T03:00:00Z", "2026-11-30T03:00:01Z"


def runs(epoch: int, uid: str = SET, **differing: object) -> str:
    report = Report(uid=uid, epoch=epoch, state=State.RUNNING, pid=4711, started_at=SECOND, reason=Reason.STARTED)
    return format_report(msgspec.structs.replace(report, **differing))


WELL = {f"born-{number}": runs(1_000_000_000 + 3 * number) for number in range(1000)}


def stored(status: SliceStatus) -> SliceStatus:
    """The status as a reader gets it from the API server."""
    return msgspec.json.decode(msgspec.json.encode(status), type=SliceStatus)


def test_a_thousand_children_of_a_set_take_less_than_twenty_bytes_each() -> None:
    status = SliceStatus(holder="hub-0/n").reporting(WELL)

    assert status.entries == {}
    assert stored_bytes(status) < 20 * len(WELL)
    assert stored(status).reports == WELL


@pytest.mark.parametrize(
    "differing",
    [
        {"state": State.STARTING},
        {"state": State.STOPPING, "reason": "Exited"},
        {"restarts": 1},
        {"started_at": ""},
        {"gave": "7:abcdef"},
        {"view": 3},
        {"claim": "hub-1"},
        {"message": "x"},
        {"reason": Reason.STARTING},
        {"reason": ""},
    ],
)
def test_a_child_that_does_not_run_just_so_has_its_whole_report(differing: dict[str, object]) -> None:
    reports = WELL | {"other": runs(7, **differing)}

    status = SliceStatus().reporting(reports)

    assert status.entries == {"other": reports["other"]}
    assert stored(status).reports == reports


def test_children_with_uids_and_processes_of_their_own_stand_in_the_group_of_their_second() -> None:
    own = {f"exec-{number}": runs(10 + number, uid=f"{number:036}", pid=100 + number) for number in range(10)}
    reports = WELL | own | {"passive": runs(9, role=Role.PASSIVE)}

    status = SliceStatus().reporting(reports)

    assert len(status.running) == 1
    assert status.entries.keys() == {"passive"}, "one child alone is no group"
    assert stored(status).reports == reports


def test_each_second_and_each_role_has_a_group() -> None:
    later = {f"later-{number}": runs(number, started_at=NEXT) for number in range(4)}
    passive = {f"copy-{number}": runs(number, role=Role.PASSIVE) for number in range(4)}

    status = SliceStatus().reporting(WELL | later | passive)

    assert [(group.role, group.started_at) for group in status.running] == [
        ("Active", SECOND),
        ("Active", NEXT),
        ("Passive", SECOND),
    ]
    assert stored(status).reports == WELL | later | passive


@pytest.mark.parametrize("child_id", ["user:42", "a,b,c", "12:7", "tenant/eu", "käse", 'a"b', "x\\y", "%20", "\u2003"])
def test_an_id_keeps_its_characters(child_id: str) -> None:
    reports = WELL | {child_id: runs(5), f"{child_id}2": runs(6, uid="u")}

    status = SliceStatus().reporting(reports)

    assert status.entries == {}
    assert stored(status).reports == reports


def test_an_id_with_a_space_has_its_whole_report() -> None:
    reports = WELL | {"a b": runs(5)}

    status = SliceStatus().reporting(reports)

    assert status.entries.keys() == {"a b"}
    assert stored(status).reports == reports


@pytest.mark.parametrize("item", ["", "x", "x:a", "-1:a", "1,u,p,q:a", "x,u,7:a", ":a"])
def test_an_edit_by_hand_never_reads_as_a_run_that_nobody_reported(item: str) -> None:
    group = RunningGroup(started_at=SECOND, uid=SET, pid=1, first_epoch=10, children=f"0:well {item} 2:good")

    reports = whole_reports([group], {})

    assert reports["well"] == runs(10, pid=1)
    assert reports["good"] == runs(12, pid=1)
    for text in (reports[child_id] for child_id in reports.keys() - {"well", "good"}):
        with pytest.raises(ValueError, match="not a status entry"):
            parse_report(text)


def test_an_entry_of_its_own_wins_over_a_group() -> None:
    group = RunningGroup(started_at=SECOND, uid=SET, pid=1, first_epoch=10, children="0:a")

    assert whole_reports([group], {"a": "own"}) == {"a": "own"}


def test_a_changed_copy_of_a_status_has_its_own_reports() -> None:
    status = SliceStatus().reporting(WELL)
    assert status.reports == WELL

    assert status.reporting({"a": "b"}).reports == {"a": "b"}
    assert msgspec.structs.replace(status, running=()).reports == {}
    assert b"reports" not in msgspec.json.encode(status)


def test_a_slice_without_a_status_reports_nothing() -> None:
    item = msgspec.convert(
        {"metadata": {}, "spec": {"hub": "h", "hubUid": "u", "member": "m", "term": 1}}, RegistrySlice
    )

    assert item.status.reports == {}


reports_of_anybody = st.builds(
    Report,
    uid=st.sampled_from([SET, "u" * 36, "v" * 64]),
    epoch=st.integers(0, 9_000_000 * 10**9),
    role=st.sampled_from([Role.ACTIVE, Role.PASSIVE]),
    state=st.sampled_from([State.RUNNING, State.RUNNING, State.RUNNING, State.STARTING]),
    pid=st.sampled_from([0, 1, 4711]),
    restarts=st.sampled_from([0, 0, 0, 2]),
    started_at=st.sampled_from([SECOND, SECOND, NEXT, ""]),
    reason=st.sampled_from([Reason.STARTED, Reason.STARTED, Reason.STARTED, ""]),
    got=st.sampled_from(["", "", "", "abc"]),
).map(format_report)


@given(st.dictionaries(st.text(min_size=1, max_size=12), reports_of_anybody, max_size=40))
def test_any_reports_come_back_and_never_take_more_bytes(reports: dict[str, str]) -> None:
    status = SliceStatus().reporting(reports)

    assert stored(status).reports == reports
    assert stored_bytes(status) <= stored_bytes(SliceStatus(entries=reports))
