"""Suspended children: what is observed, proven and reported of them."""

from __future__ import annotations

from typing import Any

import msgspec
import observing
import pytest

from builders import known_slice, make_child, make_hub, make_member, make_slice
from processhub.api.child import Child, ChildStatus
from processhub.api.hub import HubSpec
from processhub.api.meta import Condition, find_condition
from processhub.api.reasons import Reason, State
from processhub.api.slice import RegistrySlice
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.report.child import child_status, copies_of
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import KnownSlice
from processhub.core.acceptance import Refusal
from processhub.registry.grammar import Assignment, Report, format_assignment, waits

NOW = "2026-01-01T00:00:00Z"
RUNS = Assignment(uid="u", epoch=5, workload="w")
ASLEEP = Assignment(uid="u", epoch=6, workload="w", wait=True, asleep=True)
SUSPENDED = Refusal(Reason.SUSPENDED, "spec.suspend is true")


def registry_slice(entry: Assignment, report: Report | None, generation: int = 1, observed: int = 1) -> RegistrySlice:
    reports = {"a": report} if report else {}
    return make_slice({"a": entry}, reports, holder="x/1", observed_generation=observed, generation=generation)


def member(known: KnownSlice) -> Member:
    return make_member("hub-0", known, holder="x/1")


def known(entry: Assignment, report: Report | None) -> KnownSlice:
    return known_slice(registry_slice(entry, report))


def child(**spec: Any) -> Child:
    return make_child("a", {"exec": {"command": ["sleep"]}, **spec}, generation=1)


def observed(child: Child, entry: Assignment | None = None, **spec: Any) -> Observation:
    hub = make_hub(spec=HubSpec(**spec))
    state = HubState(("ns", "hub"))
    state.put_child(child)
    members = {}
    if entry is not None:
        state.put_slice(registry_slice(entry, None))
        members = {"hub-0": member(state.slices["hub.hub-0.0"])}
    return observing.observed(hub, state, members, ObserveMemory(1))


def test_a_waiting_entry_is_recognised_by_its_text() -> None:
    assert waits(format_assignment(ASLEEP))
    assert waits(format_assignment(msgspec.structs.replace(RUNS, wait=True)))
    assert not waits(format_assignment(msgspec.structs.replace(RUNS, tags=("wait", " wait "))))


def test_a_suspended_child_has_ended_when_its_member_reports_it() -> None:
    sliced = known(RUNS, None)  # started, and not reported yet
    sliced.unproven["a"] = None
    sliced.update(registry_slice(ASLEEP, None, generation=2))
    assert sliced.unproven == {"a": 2}
    sliced.prove("x/1")
    assert sliced.possibly_running("x/1") == {"a"}

    running = Report(uid="u", epoch=5, state=State.STOPPING, pid=7)
    sliced.update(registry_slice(ASLEEP, running, generation=2, observed=2))
    sliced.prove("x/1")
    assert sliced.possibly_running("x/1") == {"a"}

    sliced.update(registry_slice(ASLEEP, Report(uid="u", epoch=6), generation=2, observed=2))
    assert sliced.possibly_running("x/1") == set()


@pytest.mark.parametrize(
    ("report", "state", "reason"),
    [
        (None, "Stopped", "Suspended"),
        (Report(uid="u", epoch=6), "Stopped", "Suspended"),
        (Report(uid="u", epoch=5, state=State.RUNNING, pid=7, reason=Reason.STARTED), "Stopping", "Stopping"),
        (Report(uid="u", epoch=5, state=State.STOPPING, pid=7), "Stopping", "Stopping"),
    ],
)
def test_a_suspended_child_is_reported_as_stopped_on_its_member_when_it_has_ended(
    report: Report | None, state: str, reason: str
) -> None:
    members = {"hub-0": member(known(ASLEEP, report))}

    status = child_status(child(suspend=True), copies_of("a", members), SUSPENDED, None, NOW)

    assert (status.state, status.member) == (state, "hub-0")
    for kind, expected in (("Placed", "Suspended"), ("Ready", reason)):
        condition = find_condition(status.conditions, kind)
        assert condition is not None
        assert (condition.status, condition.reason) == ("False", expected)


@pytest.mark.parametrize(("spec", "hub"), [({"suspend": True}, {}), ({}, {"suspend": True})])
def test_a_suspended_child_is_observed_with_its_place_and_not_to_run(spec: dict[str, Any], hub: dict[str, Any]) -> None:
    found = observed(child(**spec), RUNS, **hub)

    assert found.snapshot.children["a"].suspended
    assert not found.snapshot.to_run
    assert found.refusals["a"].reason is Reason.SUSPENDED


def test_a_suspended_child_that_is_being_deleted_has_no_place() -> None:
    asleep = child(suspend=True)
    deleted = msgspec.structs.replace(asleep, metadata=msgspec.structs.replace(asleep.metadata, deletion_timestamp=NOW))

    assert not observed(deleted, ASLEEP).snapshot.children


def test_a_rejected_edit_does_not_resume_a_suspended_child() -> None:
    refused = child(suspend=True, nodes=["hub-0"])

    found = observed(refused, ASLEEP)

    assert found.refusals["a"].reason is Reason.INVALID_CHILD_MAPPING
    assert found.snapshot.children["a"].suspended


def test_a_child_whose_edit_is_rejected_stops_and_starts_with_its_hub() -> None:
    refused = child(nodes=["hub-0"])

    assert observed(refused, RUNS, suspend=True).snapshot.children["a"].suspended
    assert not observed(refused, ASLEEP).snapshot.children["a"].suspended, "the hub is resumed"


def test_a_rejected_edit_leaves_a_child_running() -> None:
    found = observed(child(suspend=True, nodes=["hub-0"]), RUNS)

    assert not found.snapshot.children["a"].suspended


def test_conditions_of_other_writers_are_kept() -> None:
    approved = Condition(type="example.org/Approved", status="True", reason="Done")
    before = make_child("a", {"suspend": True}, status=ChildStatus(conditions=(approved,)), generation=1)

    status = child_status(before, [], SUSPENDED, None, NOW)

    assert [condition.type for condition in status.conditions] == ["Accepted", "Placed", "Ready", approved.type]
    assert status.conditions[-1] == approved


def test_a_starting_child_reports_its_start_timeout() -> None:
    sliced = known(RUNS, Report(uid="u", epoch=5, state="Starting", reason="Starting"))

    status = child_status(child(), copies_of("a", {"hub-0": member(sliced)}), None, None, NOW)

    ready = find_condition(status.conditions, "Ready")
    assert ready is not None
    assert ready.reason == "Starting"
    assert ready.message == "starting on hub-0; not up yet (limited by the hub's timeouts.startSeconds)"
