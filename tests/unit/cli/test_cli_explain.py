"""``kubectl hub explain`` and the live ``plan``: their answers for a hub, its registry and its children."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from builders import HUB_UID, make_child, make_client, make_hub, make_slice
from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.slice import Activation, ViewMember
from processhub.cli.demandplace import by_choice, how_started, when_it_ends
from processhub.cli.explain import candidates, why
from processhub.cli.show import pod_of
from processhub.cli.whatif import changed, forecast, from_cluster
from processhub.client.records import Record
from processhub.client.registry import Registry
from processhub.client.session import Session
from processhub.core.model.placement import Candidate, rank
from processhub.registry.grammar import Assignment, Report

MEMBERS = ["h-0", "h-1", "h-2"]
BEST, SECOND, LAST = (name for name, _ in rank("a", [Candidate(name) for name in MEMBERS]))


def hub(*, unready: str = "", **spec: Any) -> Hub:
    members = [{"name": name, "pod": f"pod-of-{name}", "ready": name != unready} for name in MEMBERS]
    return make_hub("h", spec, status={"members": members})


def child(child_id: str = "a", conditions: list[dict[str, Any]] | None = None, **spec: Any) -> Child:
    spec = {"exec": {"command": ["sleep"]}, **spec}
    return make_child(child_id, spec, hub="h", uid=f"u-{child_id}", status={"conditions": conditions or []})


def registry(places: dict[str, str], *, waiting: dict[str, str] | None = None, **report: Any) -> Registry:
    """``places`` maps ids to members; ``waiting`` maps ids to the targets of moves."""
    known = Registry("h", HUB_UID)
    for member in MEMBERS:
        here = {child_id for child_id, name in places.items() if name == member}
        coming = {child_id for child_id, name in (waiting or {}).items() if name == member}
        entries = {
            child_id: Assignment(
                uid=f"u-{child_id}", epoch=2 if child_id in coming else 1, workload="w", wait=child_id in coming
            )
            for child_id in here | coming
        }
        reports = {
            child_id: Report(**{"uid": f"u-{child_id}", "epoch": 1, "state": "Running", "pid": 7, **report})
            for child_id in here
        }
        known.put(make_slice(entries, reports, hub="h", member=member))
    return known


def reasons(item: Child | None, known: Registry, of: Hub | None = None) -> list[str]:
    of = of or hub()
    return why(of, item, known.records.get("a"), candidates(of, "a", known.records))


def test_a_child_on_its_best_member_is_explained_by_its_score() -> None:
    assert reasons(child(), registry({"a": BEST})) == [f"{BEST} has the highest score of the 3 members"]


def test_a_child_on_a_later_choice_names_the_members_before() -> None:
    (sentence,) = reasons(child(), registry({"a": LAST}))

    assert sentence.startswith(f"{LAST} is its choice number 3: when it was placed, {BEST}, {SECOND} were full")


def test_a_pinned_child_is_said_to_wait_for_its_member() -> None:
    assert reasons(child(pinned=True), registry({"a": BEST}))[1].startswith("it is pinned: never moved")


def test_a_guided_child_is_explained_by_its_nodes() -> None:
    guided = hub(distribution={"strategy": "Guided"})

    assert reasons(child(nodes=[LAST]), registry({"a": LAST}), guided) == [f"its spec.nodes names {LAST} (Guided)"]


def test_a_moving_child_names_its_target() -> None:
    said = reasons(child(), registry({"a": LAST}, waiting={"a": BEST}))

    assert said[-1] == f"it is moving to {BEST}, which starts it when {LAST} has stopped it"


def test_a_child_whose_source_is_not_recorded_any_more_waits_for_the_earlier_run() -> None:
    said = reasons(child(), registry({}, waiting={"a": BEST}))

    assert f"{BEST} starts it as soon as what ran for it before has ended" in said


def test_a_failed_child_is_explained_with_its_reason() -> None:
    known = registry({"a": BEST}, state="Failed", pid=0, reason="Exited", message="exit code 1")

    assert reasons(child(), known)[-1] == "it is Failed there (Exited: exit code 1)"


def test_a_child_whose_pod_is_refused_is_explained_with_the_refusal() -> None:
    refusal = {"type": "Placed", "status": "False", "reason": "Invalid", "message": "its pod is refused: no such image"}
    known = registry({"a": BEST}, state="Starting", pid=0, reason="Starting")

    assert reasons(child(conditions=[refusal]), known)[-2:] == ["it is Starting there", refusal["message"]]


def test_a_child_on_a_member_that_is_not_ready_has_the_members_reason() -> None:
    member = {"name": BEST, "message": "container agent: ImagePullBackOff: no such image"}
    of = make_hub("h", status={"members": [member]})
    sentence = f"member {BEST} is not ready: {member['message']}"

    assert sentence in reasons(child(), registry({"a": BEST}), of)
    assert reasons(child(), registry({}), of)[-1] == sentence, "one without a place names the members too"


def test_a_child_that_is_not_placed_is_explained_with_the_cause() -> None:
    refused = child(
        conditions=[{"type": "Placed", "status": "False", "reason": "NoMembers", "message": "none is ready"}]
    )

    assert reasons(refused, registry({})) == ["none is ready"]
    assert reasons(child(), registry({})) == ["the operator has not answered yet"]


def test_candidates_show_load_and_cap_of_ready_members() -> None:
    known = registry({f"c{index}": "h-0" for index in range(6)})

    choices = {choice.member: choice for choice in candidates(hub(unready="h-1"), "a", known.records)}

    assert [(name, choices[name].children, choices[name].cap) for name in MEMBERS] == [
        ("h-0", 6, 5),
        ("h-1", 0, 0),
        ("h-2", 0, 5),
    ]


@pytest.mark.parametrize(("mode", "pod"), [("Replicas", "gone-3"), ("PerNode", "")])
def test_the_pod_of_a_member_is_derived_if_the_status_does_not_name_it(mode: str, pod: str) -> None:
    assert pod_of(hub(members={"mode": mode}), "h-0") == "pod-of-h-0"
    assert pod_of(hub(members={"mode": mode}), "gone-3") == pod


def test_a_live_plan_does_not_move_children_of_an_absent_member() -> None:
    of = hub(unready="h-1")
    known = registry({f"c{index}": MEMBERS[index % 3] for index in range(30)})

    found = forecast(changed(from_cluster(of, known.records, []), of, remove=["h-0"]))

    assert {move.source for move in found.moves} == {"h-0"}
    assert {move.target for move in found.moves} == {"h-2"}
    assert found.after == {"h-0": 0, "h-1": 10, "h-2": 20}


def test_a_live_plan_places_only_accepted_children() -> None:
    accepted = [{"type": "Accepted", "status": "True", "reason": "Accepted"}]
    children = [child("new", accepted), child("refused"), child("asleep", accepted, suspend=True)]

    found = forecast(from_cluster(hub(), {}, children))

    assert found.placed.keys() == {"new"}
    assert not found.moves


def test_a_live_plan_names_pinned_children_that_cannot_leave() -> None:
    known = registry({"a": "h-0", "b": "h-0"})
    pinned = [child("a", pinned=True), child("b")]

    found = forecast(changed(from_cluster(hub(), known.records, pinned), hub(), remove=["h-0"]))

    assert found.stranded == {"h-0": ("a",)}
    assert found.why_stranded == {"a": "pinned"}
    assert [move.id for move in found.moves] == ["b"]


def test_nodes_that_a_hub_refuses_bind_no_child_and_explain_no_place() -> None:
    said = {"type": "Placed", "status": "False", "reason": "InvalidChildMapping", "message": "leave nodes out"}
    refused = child(nodes=["h-9"], conditions=[said])
    known = registry({"a": BEST})

    found = forecast(changed(from_cluster(hub(), known.records, [refused]), hub(), remove=[BEST]))

    assert not found.stranded
    assert not found.unplaced
    assert [(move.id, move.source) for move in found.moves] == [("a", BEST)]
    assert reasons(refused, known) == [f"{BEST} has the highest score of the 3 members", "leave nodes out"]


@pytest.mark.parametrize(
    ("strategy", "spec", "sentence"),
    [
        ("RoundRobin", {}, "it went to h-0 by turns (RoundRobin), or by the hash after a loss"),
        ("LeastLoaded", {}, "h-0 was the least loaded member when it was placed (LeastLoaded)"),
        ("Local", {"origin": "h-0"}, "h-0 is its origin (Local)"),
        ("Local", {"origin": "h-1"}, "its origin is h-1; while that is away or full"),
        ("Local", {"origin": "h-9"}, "its origin h-9 is no member of the hub: h-0 by the hash (Local)"),
        ("NotLocal", {"origin": "h-1"}, "any member but its origin h-1 may have it, by the hash (NotLocal)"),
        ("NotLocal", {}, "it has no origin: h-0 by the hash (NotLocal)"),
        ("ByRegion", {}, "placed by the strategy ByRegion"),
    ],
)
def test_each_strategy_is_explained_in_a_sentence(strategy: str, spec: dict[str, Any], sentence: str) -> None:
    asked = hub(distribution={"strategy": strategy})
    records = registry({"a": "h-0"}).records

    assert sentence in why(asked, child(**spec), records["a"], candidates(asked, "a", records))[0]


def test_modulo_is_explained_by_the_members_number() -> None:
    asked = hub(distribution={"strategy": "Modulo"})
    records = registry({"4": "h-1", "5": "h-0"}).records

    assert why(asked, child("4"), records["4"], []) == ["h-1 is the member of its number (Modulo)"]
    assert "its member by number is h-2" in why(asked, child("5"), records["5"], [])[0]


def on_demand(of: Hub, **report: Any) -> tuple[Record, Session]:
    """The child ``a``, which a request has started on its best member."""
    known = registry({"a": BEST})
    entry = Assignment(uid=HUB_UID, epoch=1, workload="w", on_demand=True)
    shown = Report(**{"uid": HUB_UID, "epoch": 1, "state": "Running", "started_at": "2026-01-01T00:00:00Z", **report})
    texts = {"w": '{"exec":{"command":["sleep"]}}'}
    known.put(make_slice({"a": entry}, {"a": shown}, hub="h", member=BEST, workloads=texts))
    session = Session(make_client(), "ns", of)
    session.registry = known
    return known.records["a"], session


def demand(command: str = "sleep", **limits: Any) -> Hub:
    return hub(onDemand={"exec": {"command": [command]}, **limits})


def test_the_end_of_a_child_on_demand_is_explained_by_its_limits() -> None:
    record, _ = on_demand(demand())
    again, _ = on_demand(demand(), restarts=2)
    idle, _ = on_demand(demand(), reason="Idle")

    assert when_it_ends(demand(), record) == [
        "it runs until it is stopped: spec.onDemand has neither ttlSeconds nor idleSeconds"
    ]
    (ends,) = when_it_ends(demand(ttlSeconds=90), record)
    assert ends.startswith("it ends at 2026-01-01T00:01:30Z, 90 s after its first start (spec.onDemand.ttlSeconds)")
    assert when_it_ends(demand(ttlSeconds=90), again) == [
        "it ends 90 s after its first start (spec.onDemand.ttlSeconds)"
    ]
    assert when_it_ends(demand(idleSeconds=5), idle) == ["it is ended, because no request came for 5 s"]
    assert when_it_ends(hub(), record) == ["it is ended, because the hub has no spec.onDemand any more"]
    former = "it runs the former spec.onDemand, and is restarted with the present one when its turn comes"
    assert when_it_ends(demand("other", idleSeconds=5), record)[0] == former


def test_the_start_of_a_child_on_demand_is_explained_with_its_present_run() -> None:
    assert how_started(on_demand(demand())[0]) == [
        "a request has started it; its present run began at 2026-01-01T00:00:00Z"
    ]
    assert how_started(on_demand(demand(), state="Starting", started_at="")[0]) == ["a request has started it"]


def test_the_view_explains_the_place_of_a_child_on_demand_as_long_as_it_chooses_its_member() -> None:
    record, session = on_demand(demand())
    assert by_choice(session, "a", record) == "", "there is no view"

    weights = {LAST: 0, SECOND: 0, BEST: 1}
    order = Activation(view=3, phase="Open", members=tuple(ViewMember(name=n, weight=w) for n, w in weights.items()))
    session.registry.activations[BEST] = order
    assert by_choice(session, "a", record) == f"view 3 has {BEST} for its id by the hash, whatever the load"
    members = tuple(ViewMember(name=name, weight=int(name == LAST)) for name in weights)
    session.registry.activations[BEST] = msgspec.structs.replace(order, members=members)
    assert by_choice(session, "a", record) == "", "it was moved, or the view is another one now"
