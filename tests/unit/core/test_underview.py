"""What of a plan is carried out while a view is not closed (docs/protocol.md, rules 28 and 30 to 32)."""

from __future__ import annotations

from typing import Any

from planned_hub import child, hub_spec

from processhub.core.model.activation import View, chosen_member
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import HubSnapshot, MemberView, OnRecord
from processhub.core.planning.underview import NotClosed, Restricted, under_view
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
) -> Restricted:
    """What is left of these changes of child "a", which has this record; both by member."""
    places = tuple(OnRecord(member, placed) for member, placed in (record or {}).items())
    snapshot = HubSnapshot(
        spec=hub_spec(),
        members=members,
        children={"a": child("a")},
        record={"a": places} if places else {},
        next_epoch=200,
    )
    plan = Plan(entries={member: {"a": changed} for member, changed in changes.items()}, unplaced={}, next_epoch=300)
    return under_view(snapshot, plan, state)


def left(found: Restricted) -> dict[str, Assignment | None]:
    return {member: changes["a"] for member, changes in found.plan.entries.items() if "a" in changes}


def test_a_new_child_is_placed_where_the_open_view_has_it() -> None:
    assert left(restricted({CHOSEN: entry(250)}, OPEN)) == {CHOSEN: entry(250)}
    assert left(restricted({OTHER: entry(250)}, OPEN)) == {CHOSEN: entry(250)}


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
