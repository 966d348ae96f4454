"""What of a plan is carried out while a view is not closed (docs/protocol.md, rules 28 and 30 to 32)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from planned_hub import child, hub_spec

from processhub.api.hub import Members, OnDemand
from processhub.core.model.activation import View, chosen_member
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import ChildPod, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.underview import NotClosed, Restricted, all_stay, under_view, with_pods, with_recorded
from processhub.registry.grammar import NOBODY, Assignment

VIEW = View(5, "ConsistentHashing", (("m0", 1), ("m1", 1)))
OPEN, CLOSING = NotClosed(VIEW, True, {"m0": 100, "m1": 100}), NotClosed(VIEW, False, {"m0": 100, "m1": 100})
CHOSEN = chosen_member(VIEW, "a")
OTHER = "m1" if CHOSEN == "m0" else "m0"


def entry(epoch: int = 50, **fields: Any) -> Assignment:
    return Assignment(**{"uid": "uid-a", "workload": "w", **fields}, epoch=epoch)


def restricted(
    changes: dict[str, Assignment | None],
    state: NotClosed,
    record: dict[str, Assignment] | None = None,
    members: tuple[MemberView, ...] = (MemberView(name="m0"), MemberView(name="m1")),
    demand: bool = False,
    most: int | None = None,
    load: int = 0,
    spec: dict[str, Any] | None = None,
) -> Restricted:
    """What is left of these changes of child "a", which has this record; both by member.

    ``demand``: the child is on demand. ``most``: the hub's onDemand.max. ``load``: so many others are on record where
    the view has the child. ``spec``: fields of the hub's spec.
    """
    places = tuple(OnRecord(member, placed) for member, placed in (record or {}).items())
    others = {f"other-{number}": (OnRecord(CHOSEN, entry(40)),) for number in range(load)}
    snapshot = HubSnapshot(
        spec=msgspec.structs.replace(hub_spec(), on_demand=OnDemand(max=most), **(spec or {})),
        members=members,
        children={"a": child("a", on_demand=demand)},
        record=others | ({"a": places} if places else {}),
        next_epoch=200,
    )
    plan = Plan(entries={member: {"a": changed} for member, changed in changes.items()}, unplaced={}, next_epoch=300)
    return under_view(snapshot, plan, state)


def left(found: Restricted) -> dict[str, Assignment | None]:
    return {member: changes["a"] for member, changes in found.plan.entries.items() if "a" in changes}


def test_a_new_child_is_placed_where_the_open_view_has_it() -> None:
    assert left(restricted({CHOSEN: entry(250)}, OPEN)) == {CHOSEN: entry(250)}
    assert left(restricted({OTHER: entry(250)}, OPEN)) == {CHOSEN: entry(250)}


def test_a_new_child_is_not_placed_on_a_member_that_has_as_many_as_it_may() -> None:
    """The planner had it elsewhere, and the view was to be closed for that."""
    found = restricted({OTHER: entry(250)}, OPEN, spec={"members": Members(max_children=2)}, load=2)
    assert (left(found), found.close) == ({}, True)

    assert left(restricted({OTHER: entry(250)}, OPEN, spec={"members": Members(max_children=3)}, load=2)) == {
        CHOSEN: entry(250)
    }


def test_a_new_child_waits_while_the_view_closes_and_is_told_why() -> None:
    found = restricted({CHOSEN: entry(250)}, CLOSING)

    assert left(found) == {}
    assert "view" in found.plan.unplaced["a"].message


def test_an_entry_leaves_the_record_of_the_member_that_may_start_the_id_anew_at_once() -> None:
    assert left(restricted({CHOSEN: None}, OPEN, {CHOSEN: entry(50)})) == {CHOSEN: None}


def test_elsewhere_an_entry_first_waits_and_leaves_when_its_end_is_proven() -> None:
    (first,) = left(restricted({OTHER: None}, OPEN, {OTHER: entry(50)})).values()
    assert first is not None
    assert (first.uid, first.wait, first.epoch) == (NOBODY, True, 300)

    low = entry(60, uid=NOBODY, wait=True)
    running = tuple(MemberView(name=name, possibly_running=frozenset({"a"})) for name in ("m0", "m1"))
    assert left(restricted({OTHER: None}, OPEN, {OTHER: low}, running)) == {}
    assert left(restricted({OTHER: None}, OPEN, {OTHER: low})) == {OTHER: None}


def test_an_entry_above_the_block_stays_until_there_is_a_new_one() -> None:
    found = restricted({CHOSEN: None}, OPEN, {CHOSEN: entry(150)})

    assert left(found) == {}
    assert found.grants == {CHOSEN}


def test_a_child_of_a_lost_member_stays_on_record_until_the_view_is_closed() -> None:
    gone = (MemberView(name=OTHER, phase=Phase.GONE), MemberView(name=CHOSEN))

    assert left(restricted({OTHER: None, CHOSEN: entry(250)}, OPEN, {OTHER: entry(50)}, gone)) == {}
    assert left(restricted({OTHER: None}, OPEN, {OTHER: entry(50)}, gone)) == {}


def test_a_move_that_keeps_the_id_on_record_goes_on() -> None:
    waits = entry(250, wait=True)

    assert left(restricted({OTHER: waits}, OPEN, {CHOSEN: entry(50)})) == {OTHER: waits}
    assert left(restricted({CHOSEN: None}, CLOSING, {CHOSEN: entry(50), OTHER: waits})) == {CHOSEN: None}


def test_what_may_run_elsewhere_stays_on_record() -> None:
    """It was moved to the member that may start it, which has not started it, and its former member still ends it."""
    coming = entry(60, wait=True)
    ends = tuple(
        MemberView(name=name, possibly_running=frozenset({"a"} if name == OTHER else ())) for name in ("m0", "m1")
    )

    assert left(restricted({CHOSEN: None}, OPEN, {CHOSEN: coming}, ends)) == {}
    assert left(restricted({CHOSEN: None}, OPEN, {CHOSEN: coming})) == {CHOSEN: None}


def test_what_counts_for_shares_is_neither_placed_nor_moved_under_an_open_view() -> None:
    new, there = entry(250, on_demand=True), {CHOSEN: entry(50, on_demand=True)}
    moved = {OTHER: entry(250, on_demand=True, wait=True)}

    for found in (
        restricted({CHOSEN: new}, OPEN, demand=True, most=9),
        restricted(moved, OPEN, there, demand=True, most=9),
    ):
        assert left(found) == {}
        assert found.close
    for found in (
        restricted({CHOSEN: new}, OPEN, demand=True),
        restricted(moved, OPEN, there, demand=True),
        restricted({CHOSEN: entry(250, on_demand=True)}, OPEN, there, demand=True, most=9),
    ):
        assert left(found) != {}
        assert not found.close


def test_a_child_that_is_declared_as_it_is_started_runs_on_with_the_same_workload() -> None:
    run = entry(101, uid="h", on_demand=True)
    for workload, started_with in (("w", 101), ("other", 0)):
        declared = entry(250, workload=workload)
        plan = Plan(entries={"m0": {"a": declared}}, unplaced={}, next_epoch=300)

        found = with_recorded(plan, {"m0": {"a": run}}, {})

        assert found.entries == {"m0": {"a": msgspec.structs.replace(declared, run=started_with)}}


def test_what_a_member_started_is_recorded_as_it_runs_where_no_other_has_it() -> None:
    nothing, run = Plan(entries={}, unplaced={}, next_epoch=300), entry(101, uid="h")

    assert with_recorded(nothing, {"m0": {"a": run}}, {}).entries == {"m0": {"a": run}}
    assert with_recorded(nothing, {"m0": {"a": run}}, {"a": (OnRecord("m1", entry(250)),)}) == nothing


KEPT = entry(50, uid=NOBODY, wait=True)


@pytest.mark.parametrize(
    ("state", "record", "changes", "kept"),
    [
        pytest.param(OPEN, {OTHER: entry(50)}, {OTHER: None}, {OTHER: (NOBODY, 300)}, id="it leaves"),
        pytest.param(OPEN, {OTHER: entry(50)}, {}, {}, id="it stays"),
        pytest.param(OPEN, {OTHER: entry(50)}, {OTHER: None, CHOSEN: entry(301)}, None, id="it moves"),
        pytest.param(OPEN, {OTHER: KEPT}, {OTHER: None}, {}, id="it is kept already"),
        pytest.param(OPEN, {}, {}, {CHOSEN: (NOBODY, 300)}, id="it was on no record"),
        pytest.param(None, {"z": KEPT}, {"z": None}, {"m0": (NOBODY, 300)}, id="its member is drained"),
        pytest.param(None, {"z": KEPT, "m0": KEPT}, {"z": None, "m0": None}, {"z": None}, id="it is kept elsewhere"),
        pytest.param(None, {}, {}, {"m0": (NOBODY, 300)}, id="no view is open"),
        pytest.param(None, {"lost": entry(50)}, {"lost": None}, {"lost": None, "m0": (NOBODY, 300)}, id="it is lost"),
    ],
)
def test_an_id_stays_on_record_while_a_pod_of_it_is_there(
    state: NotClosed | None,
    record: dict[str, Assignment],
    changes: dict[str, Assignment | None],
    kept: dict[str, tuple[str, int] | None] | None,
) -> None:
    """``kept``: uid and epoch of the entries that are written then; None: what was planned."""
    snapshot = HubSnapshot(
        spec=hub_spec(),
        members=(
            MemberView(name="m0"),
            MemberView(name="m1"),
            MemberView(name="lost", phase=Phase.GONE),
            MemberView(name="z", draining=True),
        ),
        children={},
        record={"a": tuple(OnRecord(member, placed) for member, placed in record.items())} if record else {},
        next_epoch=200,
        pods={"a": (ChildPod("m0", "pod p", "50"),)},
    )
    plan = Plan(entries={member: {"a": changed} for member, changed in changes.items()}, unplaced={}, next_epoch=300)

    found = with_pods(snapshot, plan, state, "w")

    written = {member: changed["a"] for member, changed in found.entries.items() if "a" in changed}
    if kept is None:
        assert written == changes
    else:
        assert {member: new and (new.uid, new.epoch) for member, new in written.items()} == kept
        assert all(new is None or new.wait for new in written.values())


def test_all_stay_on_record_that_are_moved_or_restarted() -> None:
    record = {"a": (OnRecord("m0", entry(50)),)}
    for changes, stays in (
        ({}, True),
        ({"m0": {"a": entry(51)}}, True),
        ({"m1": {"a": entry(51, wait=True)}}, True),
        ({"m0": {"a": None}}, False),
        ({"m0": {"a": None}, "m1": {"a": entry(51)}}, False),
        ({"m1": {"new": entry(51)}}, False),
    ):
        assert all_stay(Plan(entries=changes, unplaced={}, next_epoch=300), record) is stays, changes
