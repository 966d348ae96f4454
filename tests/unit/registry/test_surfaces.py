"""Every surface shows the same state of a copy: HTTP look-ups, the client, the status of Child, Hub and ChildSet,
hooks.

Each surface is compared with the state from registry/copies.py. ``DIFFERENCES`` lists where a surface differs on
purpose, with the reason, and the function of its expected state says so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from builders import HUB_UID, make_child, make_member, make_slice
from processhub.agent.registry import lookup
from processhub.api.childset import ChildSet
from processhub.api.reasons import Role, State
from processhub.api.slice import RegistrySlice
from processhub.client.registry import Registry
from processhub.controller.hooks.view import copies_seen
from processhub.controller.observe.members import Member
from processhub.controller.report.child import child_status, copies_of
from processhub.controller.report.childset import tallies
from processhub.controller.report.hub import registry_of
from processhub.controller.store.childsets import SeenSet, known_set
from processhub.core.model.membership import Phase
from processhub.registry.copies import Copy, is_current, is_running
from processhub.registry.grammar import NOBODY, Assignment, Report, format_assignment, format_report

NOW = "2026-01-01T00:00:00Z"
HOLDER = "pod/1"
STATES = [str(state) for state in State]

DIFFERENCES = {
    "operator: a member that is gone": "Slices don't tell that a Lease has run out; look-ups show the last report.",
    "operator: a report of another Lease holder": "Only Leases tell who holds one. The report is of an earlier agent.",
    "operator: a member that restarts": "Its processes ended with its container. Slices don't tell that.",
    "Child.status: uid": "It has the copies of one Child; look-ups go by id.",
    "records, Hub.status: off record": "They list what is on record. `kubectl hub` shows the others beside it.",
    "Hub.status: started by a member": "It lists what is on record. The round that sees such a run puts it there.",
    "an entry of nobody": "It stands for no child, so it is not shown. What its member still reports is.",
    "ChildSet.status, Hub.status.children": "They count children, not copies: by active copies that don't wait.",
    "hooks": "They follow a process from its start to its end, so one of an earlier epoch runs until it has ended.",
}


class Placed(msgspec.Struct, frozen=True):
    """What exists of the child ``a`` on one member, and how the operator judges the member."""

    entry: Assignment | None
    report: Report | None
    phase: Phase = Phase.LIVE
    restarting: bool = False
    holder: str = HOLDER  # who wrote the report
    apart: bool = False  # the report is in slice 0, where the member has started the child, and the entry in slice 1

    @property
    def heard(self) -> bool:
        """Return whether the operator uses the report."""
        return self.holder == HOLDER and self.phase is not Phase.GONE

    @property
    def shown(self) -> Assignment | None:
        """The entry, if it stands for a child."""
        return self.entry if self.entry is not None and self.entry.uid != NOBODY else None

    @property
    def told(self) -> Report | None:
        """The report, if it is of a child."""
        return self.report if self.report is not None and self.report.uid != NOBODY else None

    @property
    def self_started(self) -> bool:
        """Whether the member has started the child by itself."""
        return self.entry is None and self.report is not None and bool(self.report.view)


uids, epochs = st.sampled_from(["u", "v"]), st.integers(1, 4)
nobody = st.builds(Assignment, uid=st.just(NOBODY), epoch=epochs, workload=st.just("w"), wait=st.just(True))
entries = st.builds(
    lambda asleep, wait, **fields: Assignment(asleep=asleep, wait=wait or asleep, **fields),
    uid=uids,
    epoch=epochs,
    workload=st.just("w"),
    role=st.sampled_from(list(map(str, Role))),
    wait=st.booleans(),
    asleep=st.booleans(),
    run=st.integers(0, 4),
)
reports = st.builds(
    Report,
    uid=uids,
    epoch=epochs,
    role=st.sampled_from(list(map(str, Role))),
    state=st.sampled_from(STATES),
    pid=st.sampled_from([0, 7]),
    reason=st.sampled_from(["", "BackOff"]),
)
judgements = st.sampled_from([(Phase.LIVE, False), (Phase.HELD, False), (Phase.HELD, True), (Phase.GONE, False)])


@st.composite
def placed(draw: st.DrawFn) -> Placed:
    entry, report = draw(st.none() | entries | nobody), draw(st.none() | reports)
    if entry is None and report is not None:
        report = msgspec.structs.replace(report, **draw(st.sampled_from([{}, {"claim": "hub-9"}, {"view": 4}])))
    if entry is not None and entry.uid == NOBODY and draw(st.booleans()):
        report = Report(uid=NOBODY, epoch=entry.epoch)
    phase, restarting = draw(judgements)
    found = Placed(entry, report, phase, restarting, draw(st.sampled_from([HOLDER, HOLDER, HOLDER, "pod/0"])))
    if found.shown and report is not None and is_current(found.shown, report) and draw(st.booleans()):
        report = msgspec.structs.replace(report, view=4)
        entry = msgspec.structs.replace(found.shown, wait=False, asleep=False)
        return msgspec.structs.replace(found, entry=entry, report=report, apart=True)
    return found


hubs = st.lists(placed(), min_size=1, max_size=3).map(
    lambda found: {f"hub-{number}": item for number, item in enumerate(found)}
)


def slices_of(name: str, item: Placed) -> list[RegistrySlice]:
    entries = {"a": item.entry} if item.entry else {}
    reports = {"a": item.report} if item.report else {}
    workloads = {"w": '{"exec":{"command":["sleep"]}}'}
    if item.apart:
        first = make_slice({}, reports, member=name, holder=item.holder)
        return [first, make_slice(entries, {}, member=name, index=1, workloads=workloads, holder=item.holder)]
    return [make_slice(entries, reports, member=name, workloads=workloads, holder=item.holder)]


def member_of(name: str, item: Placed) -> Member:
    found = slices_of(name, item)
    return make_member(name, *found, phase=item.phase, restarting=item.restarting, holder=HOLDER)


def slices(hub: Mapping[str, Placed]) -> list[RegistrySlice]:
    return [found for name, item in hub.items() for found in slices_of(name, item)]


def members(hub: Mapping[str, Placed]) -> dict[str, Member]:
    return {name: member_of(name, item) for name, item in hub.items()}


def by_slices(hub: Mapping[str, Placed]) -> dict[str, str]:
    """Return the state of each copy by its slice."""
    return {name: Copy(name, item.shown, item.told).state for name, item in hub.items() if item.shown or item.told}


def by_operator(hub: Mapping[str, Placed]) -> dict[str, str]:
    """Return the state of each copy for the operator, which knows which members are gone or restart."""
    found = {}
    for name, item in hub.items():
        report = item.told if item.heard else None
        if item.shown is None and report is None:
            continue
        if item.restarting:
            found[name] = "Stopped" if item.shown and item.shown.asleep else "Pending"
        else:
            found[name] = Copy(name, item.shown, report).state
    return found


def test_each_difference_has_a_reason() -> None:
    assert all(reason.endswith(".") for reason in DIFFERENCES.values())


APART = {
    "hub-0": Placed(
        Assignment(uid="u", epoch=2, workload="w"), Report(uid="u", epoch=2, state="Running", view=4), apart=True
    )
}
STALE = {"hub-0": Placed(Assignment(uid="u", epoch=2, workload="w"), Report(uid="u", epoch=1, state="Running"))}
OTHER_UID = {"hub-0": Placed(Assignment(uid="u", epoch=1, workload="w"), Report(uid="v", epoch=1, state="Running"))}
SUSPENDED = {
    "hub-0": Placed(
        Assignment(uid="u", epoch=2, workload="w", wait=True, asleep=True), Report(uid="u", epoch=1, state="Running")
    )
}


@given(hubs)
@example(APART)
@example(STALE)
@example(OTHER_UID)
@example(SUSPENDED)
def test_look_ups_over_http_show_the_state_of_the_slices(hub: dict[str, Placed]) -> None:
    expected = by_slices(hub)

    found = lookup.child(slices(hub), "a")
    listed = lookup.children(slices(hub))

    assert {node["name"]: node["state"] for node in found["nodes"]} == expected if found else not expected
    assert listed == ([found] if found else [])
    assert {item["name"]: item["running"] for item in lookup.members(slices(hub))} == {
        name: int(expected.get(name) == State.RUNNING) for name in hub
    }
    assert {item["name"]: item["children"] for item in lookup.members(slices(hub))} == {
        name: int(bool(item.shown) or item.self_started) for name, item in hub.items()
    }


@given(hubs)
@example(APART)
@example(SUSPENDED)
def test_requests_are_sent_to_copies_that_run_according_to_the_slices(hub: dict[str, Placed]) -> None:
    expected = by_slices(hub)

    found = lookup.copies(slices(hub), "a")

    assert {copy.member: copy.running for copy in found} == {
        name: item.shown is not None and expected[name] == State.RUNNING for name, item in hub.items() if item.entry
    }


@given(hubs)
@example(APART)
@example(SUSPENDED)
def test_the_client_shows_the_state_of_the_slices(hub: dict[str, Placed]) -> None:
    registry = Registry("hub", HUB_UID)
    for item in slices(hub):
        registry.put(item)

    record = registry.records.get("a")
    found = {node.name: str(node.state) for node in record.nodes} if record else {}
    ending = {node.name: str(node.state) for _, node in registry.ending()}

    assert {**found, **ending} == by_slices(hub)
    on_record = {name for name, item in hub.items() if item.shown}
    assert found.keys() == (on_record or {name for name, item in hub.items() if item.self_started})
    assert not found.keys() & ending.keys()
    if record is not None:
        assert record.on_record == bool(on_record)
        assert not ending or record.locked


@given(hubs)
@example(APART)
@example(STALE)
@example(OTHER_UID)
@example(SUSPENDED)
def test_child_status_shows_the_state_of_slices_and_leases(hub: dict[str, Placed]) -> None:
    expected = by_operator(hub)
    child = make_child(generation=1)

    status = child_status(child, copies_of("a", members(hub)), None, None, NOW)

    assert {node.name: str(node.state) for node in status.nodes} == {
        name: state for name, state in expected.items() if uid_of(hub[name]) == "u"
    }
    ready = next(condition for condition in status.conditions if condition.type == "Ready")
    if status.nodes:
        first = hub[status.nodes[0].name]
        assert (ready.status == "True") == (status.nodes[0].state == State.RUNNING and first.shown is not None)


@given(hubs)
@example(APART)
@example(STALE)
@example(OTHER_UID)
@example(SUSPENDED)
def test_hub_status_shows_the_state_of_slices_and_leases(hub: dict[str, Placed]) -> None:
    expected = {name: state for name, state in by_operator(hub).items() if hub[name].shown}

    registry, counts = registry_of(members(hub))
    if sum(item.entry is not None for item in hub.values()) < 2:
        assert registry_of(members(hub), len(expected)) == (registry, counts)

    assert {node.name: str(node.state) for entry in registry for node in entry.nodes} == expected
    assert counts.total() == bool(expected)
    assert counts[State.RUNNING] == (State.RUNNING in acting(hub, expected))


@given(hubs)
@example(APART)
@example(STALE)
@example(OTHER_UID)
@example(SUSPENDED)
def test_child_set_status_counts_by_the_state_of_slices_and_leases(hub: dict[str, Placed]) -> None:
    expected = {name: state for name, state in by_operator(hub).items() if uid_of(hub[name]) == "u"}
    spec = {"hub": "hub", "ids": ["a"], "template": {"exec": {"command": ["sleep"]}}}
    item = msgspec.convert({"metadata": {"name": "x", "namespace": "ns", "uid": "u"}, "spec": spec}, ChildSet)

    sets = {"u": SeenSet(known_set(item, None))}
    tally = tallies(sets, members(hub))["u"]
    on_record = sum(item.shown is not None for item in hub.values())
    if on_record < 2:
        apart = tallies(sets, members(hub), on_record)["u"]
        assert [apart.count(state) for state in State] == [tally.count(state) for state in State]
        assert (apart.failed, apart.former, apart.ending) == (tally.failed, tally.former, tally.ending)

    states = acting(hub, expected)
    assert tally.count(State.RUNNING) == (State.RUNNING in states)
    assert tally.count(State.FAILED) <= (State.FAILED in states)


@given(hubs)
@example(APART)
def test_hooks_follow_the_processes_that_live_members_report(hub: dict[str, Placed]) -> None:
    seen = copies_seen(members(hub), {"a"}, partitioned=False)["a"]

    running = {(copy.uid, copy.member) for copy in seen if copy.running}

    assert running == {
        (item.report.uid, name)
        for name, item in hub.items()
        if item.report and item.report.state == State.RUNNING and item.heard and item.phase is Phase.LIVE
    }
    registered = {(copy.uid, copy.member) for copy in seen if copy.registered}
    assert registered == {(item.shown.uid, name) for name, item in hub.items() if item.shown and not item.shown.wait}
    for name, state in by_operator(hub).items():
        uid = uid_of(hub[name])
        assert state != State.RUNNING or hub[name].phase is not Phase.LIVE or (uid, name) in running


@given(entries | st.none(), reports)
def test_a_running_copy_is_recognised_by_its_texts(entry: Assignment | None, report: Report) -> None:
    text = format_assignment(entry) if entry else None

    assert is_running(text, format_report(report)) == Copy("", entry, report).running


def uid_of(item: Placed) -> str:
    known = item.shown or item.report
    assert known is not None
    return known.uid


def acting(hub: Mapping[str, Placed], states: Mapping[str, str]) -> Iterable[str]:
    """Return the states of the copies by which children are counted."""
    return [
        state
        for name, state in states.items()
        if (entry := hub[name].shown) is not None and not entry.wait and entry.role == Role.ACTIVE
    ]


def test_a_look_up_by_several_tags_finds_the_children_that_have_all_of_them() -> None:
    entries = {
        child_id: Assignment(uid="u", epoch=1, workload="w", tags=tags)
        for child_id, tags in {"a": ("eu", "gold"), "b": ("gold",), "c": ()}.items()
    }
    known = [make_slice(entries)]

    found = {
        tags: [entry["id"] for entry in lookup.children(known, tags=tags)] for tags in ((), ("gold",), ("gold", "eu"))
    }

    assert found == {(): ["a", "b", "c"], ("gold",): ["a", "b"], ("gold", "eu"): ["a"]}
