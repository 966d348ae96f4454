"""What a round observes: a pure function of the facts, whatever the hub is like."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from observing import observed, plain

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease, LeaseSpec, Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_CHILD_ID, ANNOTATION_MOVE_TO
from processhub.api.slice import RegistrySlice, SliceSpec, SliceStatus
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.leases import KnownLease
from processhub.controller.store.slices import Creation, KnownSlice
from processhub.core.model.membership import Judgement, Phase
from processhub.registry.grammar import Assignment, Report, format_assignment, format_report

IDS = ("web-0", "web-1", "a", "b")
MEMBERS = ("hub-0", "hub-1")
EXEC = {"exec": {"command": ["sleep"]}}
CHILD_SPECS = st.sampled_from(
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
    Report, uid=st.sampled_from(["u0", "set"]), epoch=st.integers(1, 3), state=st.sampled_from(["Running", "Failed"])
)


@st.composite
def slices(draw: st.DrawFn, member: str) -> RegistrySlice:
    entries = draw(st.dictionaries(st.sampled_from(IDS), ENTRIES.map(format_assignment)))
    reports = draw(st.dictionaries(st.sampled_from(IDS), REPORTS.map(format_report)))
    return RegistrySlice(
        metadata=ObjectMeta(name=f"hub.{member}.0", namespace="ns", uid=f"s-{member}", generation=2),
        spec=SliceSpec(hub="hub", hub_uid="h", member=member, term=1, entries=entries),
        status=SliceStatus(
            observed_generation=draw(st.integers(1, 2)), holder=draw(st.sampled_from(["x/1", "y/2"])), entries=reports
        ),
    )


@st.composite
def states(draw: st.DrawFn) -> HubState:
    state = HubState(("ns", "hub"))
    for number, spec in enumerate(draw(st.lists(CHILD_SPECS, max_size=5))):
        metadata = {"name": f"c{number}", "namespace": "ns", "uid": f"u{number}", "annotations": draw(MOVES)}
        named = {"hub": "hub", "id": draw(st.sampled_from(IDS)), **spec}
        state.put_child(msgspec.convert({"metadata": metadata, "spec": named}, Child))
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
    """What writes of the ids came to is not proven, or not known."""
    known.unproven.update(dict.fromkeys(ids, 2))
    known.uncertain.update(dict.fromkeys(ids & {"a", "b"}, 2))


def member_of(name: str, state: HubState, phase: Phase) -> Member:
    return Member(
        name=name,
        wanted=True,
        weight=1,
        pod=None,
        lease=KnownLease(Lease(metadata=ObjectMeta(name=f"hub.{name}"), spec=LeaseSpec(holder_identity="x/1")), 0.0),
        slices=tuple(state.slices.by_member()[name]),
        judgement=Judgement(phase, draining=False, restarting=False, recheck_seconds=None, why=""),
    )


@given(HUB_SPECS, states(), st.tuples(*[st.sampled_from(Phase)] * len(MEMBERS)), st.integers(0, 3))
def test_the_same_facts_give_the_same_observation_and_are_left_as_they_were(
    spec: dict[str, Any], state: HubState, phases: tuple[Phase, ...], deferred: int
) -> None:
    hub = msgspec.convert({"metadata": {"name": "hub", "namespace": "ns", "uid": "h"}, "spec": spec}, Hub)
    members = {name: member_of(name, state, phase) for name, phase in zip(MEMBERS, phases, strict=True)}
    memory = ObserveMemory(1)
    memory.deferred_moves.defer(IDS[:deferred], -10.0)

    assert set(observed(hub, state, members, memory).members) == set(MEMBERS)


def test_a_change_deep_in_the_facts_is_seen_by_the_comparison() -> None:
    state = HubState(("ns", "hub"))
    state.put_slice(
        RegistrySlice(
            metadata=ObjectMeta(name="hub.hub-0.0", uid="s"),
            spec=SliceSpec(hub="hub", hub_uid="h", member="hub-0", term=1),
        )
    )
    before = plain(state)

    state.slices["hub.hub-0.0"].unproven["a"] = None

    assert plain(state) != before
