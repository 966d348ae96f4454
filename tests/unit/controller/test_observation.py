"""The observation of a round: a pure function of the facts, for any hub."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from observing import alike, frozen, observed

from builders import HUB, NAMESPACE, make_child, make_hub, make_member, make_slice
from processhub.api.childset import ChildSet
from processhub.api.kubernetes import Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_CHILD_ID, ANNOTATION_MOVE_TO
from processhub.api.slice import RegistrySlice
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import on_record
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import Creation, KnownSlice
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import OnRecord
from processhub.registry.grammar import Assignment, Report, format_end

IDS = ("web-0", "web-1", "a", "b")
MEMBERS = ("hub-0", "hub-1")
EXEC = {"exec": {"command": ["sleep"]}}
CHILD_SPECS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [EXEC, {**EXEC, "suspend": True}, {**EXEC, "nodes": ["hub-9"]}, {**EXEC, "ttlSeconds": 5}, {"onDemand": True}, {}]
)
HUB_SPECS = st.fixed_dictionaries(
    {"members": st.just({"replicas": 2})},
    optional={
        "suspend": st.booleans(),
        "distribution": st.fixed_dictionaries({"strategy": st.sampled_from(["RoundRobin", "Guided"])}),
        "redundancy": st.just({"strategy": "ActiveActive", "copies": 2}),
        "partitionTolerance": st.just({"strategy": "MajorityQuorum"}),
        "migration": st.just({"strategy": "HotSwap"}),
        "onDemand": st.just({"python": {"target": "m:Cache"}, "max": 1}),
    },
)
NO_MOVES: dict[str, str] = {}
MOVES = st.sampled_from([NO_MOVES, {ANNOTATION_MOVE_TO: "hub-1"}, {ANNOTATION_MOVE_TO: '{"web-0": "hub-1"}'}])
ENTRIES = st.builds(
    Assignment,
    uid=st.sampled_from(["u0", "u1", "set"]),
    epoch=st.integers(1, 3),
    workload=st.just("w"),
    wait=st.booleans(),
    role=st.sampled_from(["Active", "Passive"]),
)
REPORTS = st.builds(
    Report,
    uid=st.sampled_from(["u0", "set"]),
    epoch=st.integers(1, 3),
    state=st.sampled_from(["Running", "Failed", "Stopped"]),
)


@st.composite
def slices(draw: st.DrawFn, member: str) -> RegistrySlice:
    return make_slice(
        draw(st.dictionaries(st.sampled_from(IDS), ENTRIES)),
        draw(st.dictionaries(st.sampled_from(IDS), REPORTS)),
        member=member,
        holder=draw(st.sampled_from(["x/1", "y/2"])),
        generation=2,
        observed_generation=draw(st.integers(1, 2)),
    )


@st.composite
def states(draw: st.DrawFn) -> HubState:
    state = HubState((NAMESPACE, HUB))
    for number, spec in enumerate(draw(st.lists(CHILD_SPECS, max_size=5))):
        named = {"id": draw(st.sampled_from(IDS)), **spec}
        state.put_child(make_child(f"c{number}", named, uid=f"u{number}", annotations=draw(MOVES)))
    if draw(st.booleans()):
        metadata = {"name": "web", "namespace": "ns", "uid": "set", "annotations": draw(MOVES)}
        spec = {"hub": "hub", "replicas": 2, "template": draw(CHILD_SPECS)}
        state.sets.put(msgspec.convert({"metadata": metadata, "spec": spec}, ChildSet))
    for member in MEMBERS:
        state.put_slice(draw(slices(member)))
    for known in state.slices.values():
        _leave_open(known, draw(st.sets(st.sampled_from(IDS))))
    state.slices.unaccounted = {member: {"b"} for member in draw(st.sets(st.sampled_from(MEMBERS)))}
    if draw(st.booleans()):
        state.slices.creating["hub.hub-1.1"] = Creation("hub-1", 1, frozenset({"a"}))
    if draw(st.booleans()):
        pod = Pod(metadata=ObjectMeta(name="pod", annotations={ANNOTATION_CHILD_ID: "a"}))
        state.child_pods["pod"] = pod
    return state


def _leave_open(known: KnownSlice, ids: set[str]) -> None:
    """Leave the outcome of writes of the ids unproven or unknown."""
    known.unproven.update(dict.fromkeys(ids, 2))
    known.uncertain.update(dict.fromkeys(ids & {"a", "b"}, 2))


def member_of(name: str, state: HubState, phase: Phase) -> Member:
    return make_member(name, *state.slices.by_member()[name], phase=phase, holder="x/1")


@given(HUB_SPECS, states(), st.tuples(*[st.sampled_from(Phase)] * len(MEMBERS)), st.integers(0, 3))
def test_the_same_facts_give_the_same_observation_and_are_unchanged(
    spec: dict[str, Any], state: HubState, phases: tuple[Phase, ...], deferred: int
) -> None:
    members = {name: member_of(name, state, phase) for name, phase in zip(MEMBERS, phases, strict=True)}
    memory = ObserveMemory(1)
    memory.deferred_moves.defer(IDS[:deferred], -10.0)

    assert set(observed(make_hub(spec=spec), state, members, memory).members) == set(MEMBERS)


@given(*[slices(MEMBERS[0])] * 2, slices(MEMBERS[1]), st.sets(st.sampled_from(MEMBERS)))
def test_the_record_follows_each_slice(
    before: RegistrySlice, after: RegistrySlice, other: RegistrySlice, reporting: set[str]
) -> None:
    state, fresh = HubState((NAMESPACE, HUB)), HubState((NAMESPACE, HUB))
    for item in (before, other):
        state.put_slice(item)
    on_record(state, {}, 1)

    state.put_slice(after)
    for item in (after, other):
        fresh.put_slice(item)

    for holder in ("x/1", "y/2"):
        members = {name: make_member(name, phase=Phase.LIVE, holder=holder) for name in reporting}
        assert on_record(state, members, 1) == on_record(fresh, members, 1)


def test_of_the_reports_of_a_former_holder_only_that_a_child_was_up_counts() -> None:
    state = HubState((NAMESPACE, HUB))
    entry = Assignment(uid="u", epoch=3, workload="w", state="sum")
    report = Report(uid="u", epoch=3, state="Running", started_at="2026-01-01T00:00:00Z", kept="3:lost")
    state.put_slice(make_slice({"a": entry, "b": entry}, {"a": report}, holder="x/1"))

    record = on_record(state, {"hub-0": make_member("hub-0", phase=Phase.GONE, holder="")}, 1)

    assert record == {"a": (OnRecord("hub-0", entry, came_up=True),), "b": (OnRecord("hub-0", entry),)}


def test_the_end_of_a_child_counts_whoever_has_reported_it_for_its_own_entry() -> None:
    state = HubState((NAMESPACE, HUB))
    entry = Assignment(uid="u", epoch=3, workload="w")
    ended = Report(uid="u", epoch=3, state="Stopped", reason="Completed")
    failed = Report(uid="u", epoch=3, state="Failed", reason="RestartsExceeded")
    earlier = Report(uid="u", epoch=2, state="Stopped", reason="Completed")
    reports = {"ended": ended, "failed": failed, "edited": earlier}
    entries = dict.fromkeys((*reports, "runs"), entry)
    state.put_slice(make_slice(entries, {"runs": Report(uid="u", epoch=3, state="Running")}, holder="x/1"))
    on_record(state, {}, 1)
    state.put_slice(make_slice(entries, reports, holder="x/1", resource_version="2"))

    for members in ({}, {"hub-0": make_member("hub-0", phase=Phase.GONE, holder="")}):
        ends = {child_id: place.end for child_id, (place,) in on_record(state, members, 1).items()}
        assert ends == {"ended": format_end(ended), "failed": format_end(failed), "edited": "", "runs": ""}


def test_a_change_deep_in_the_facts_is_seen_by_the_comparison() -> None:
    state = HubState((NAMESPACE, HUB))
    state.put_slice(make_slice())
    before = frozen(state)
    assert frozen(state) == before

    state.slices["hub.hub-0.0"].unproven["a"] = None

    assert frozen(state) != before


def test_a_difference_deep_in_two_observations_is_seen_by_the_comparison() -> None:
    def state(epoch: int) -> HubState:
        made = HubState((NAMESPACE, HUB))
        made.put_slice(make_slice({"a": Assignment(uid="u", epoch=epoch, workload="w")}))
        return made

    assert alike(state(1), state(1))
    assert not alike(state(1), state(2))
