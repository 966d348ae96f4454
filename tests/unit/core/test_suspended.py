"""Suspended children run nowhere, and start where they were when they are resumed; the planner's part."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from planned_hub import PlannedHub, child, children_of, hub_spec

from processhub.api.hub import MigrationSpec
from processhub.api.reasons import Reason, Role
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import HubSnapshot, OnRecord
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment


def suspend(hub: PlannedHub, *ids: str, value: bool = True) -> None:
    chosen = ids or tuple(hub.children)
    hub.want(msgspec.structs.replace(hub.children[id_], suspended=value) for id_ in chosen)


def resume(hub: PlannedHub, *ids: str) -> None:
    suspend(hub, *ids, value=False)


def placed(count: int = 20, members: int = 2, **fields: Any) -> PlannedHub:
    """A hub at rest with this many children."""
    hub = PlannedHub(members)
    hub.want(msgspec.structs.replace(each, **fields) for each in children_of(count))
    hub.rest()
    return hub


def copies(strategy: str = "ActivePassive", members: int = 3) -> PlannedHub:
    redundancy = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": strategy}
    hub = PlannedHub(members, hub_spec(redundancy=redundancy))
    hub.want(children_of(10))
    hub.rest()
    return hub


def test_a_suspended_child_runs_nowhere_and_keeps_its_entry() -> None:
    hub = placed()
    before = hub.where()
    old = {id_: hub.epoch(id_) for id_ in before}

    suspend(hub)
    hub.rest()

    assert hub.where() == {}
    for id_, name in before.items():
        (entry,) = hub.record[id_].values()
        assert list(hub.record[id_]) == [name]
        assert entry.wait
        assert entry.epoch > old[id_]


@pytest.mark.parametrize("pinned", [True, False])
def test_resumed_children_start_where_they_were_even_if_a_member_joined_meanwhile(pinned: bool) -> None:
    hub = placed(pinned=pinned)
    before = hub.where()
    hub.spec = hub_spec(on_join=False)
    suspend(hub)
    hub.rest()
    hub.change("hub-2", joining=True)
    hub.rest()

    resume(hub)
    hub.rest()

    assert hub.where() == before


def test_pinned_children_that_stayed_on_a_join_stay_when_they_were_suspended() -> None:
    hub = placed(pinned=True)
    before = hub.where()
    hub.change("hub-2", joining=True)
    hub.rest()

    suspend(hub)
    hub.rest()
    resume(hub)
    hub.rest()

    assert hub.where() == before


def test_a_child_that_is_created_suspended_is_not_placed_until_it_is_resumed() -> None:
    hub = PlannedHub(2)
    hub.want([child("a", suspended=True)])

    planned = plan(hub.snapshot())

    assert planned.empty
    assert not planned.unplaced
    resume(hub, "a")
    hub.rest()
    assert "a" in hub.where()


def test_a_suspended_child_is_removed_from_the_record_when_it_is_deleted() -> None:
    hub = placed(1)
    suspend(hub)
    hub.rest()
    hub.children.clear()

    hub.rest()

    assert not any(hub.record.values())


def test_a_child_that_is_re_created_suspended_has_nothing_of_its_predecessor() -> None:
    hub = placed(1)
    (id_,) = hub.children
    hub.want([child(id_, uid="another", suspended=True)])

    hub.rest()

    assert not any(hub.record.values())
    assert hub.where() == {}


def test_a_suspended_child_keeps_its_room() -> None:
    hub = PlannedHub(1, hub_spec(max_children=3))
    hub.want(children_of(3))
    hub.rest()
    suspend(hub, "tenant/0")
    hub.rest()
    hub.want([child("late")])

    planned = plan(hub.snapshot())

    assert planned.unplaced["late"].reason is Reason.CAPACITY_EXCEEDED
    resume(hub, "tenant/0")
    hub.rest()
    assert hub.on("hub-0") == {"tenant/0", "tenant/1", "tenant/2"}


def test_a_suspended_child_is_removed_from_a_lost_members_record_unless_it_is_pinned() -> None:
    hub = PlannedHub(1, hub_spec(on_join=False))
    hub.want([child("free"), child("pinned", pinned=True)])
    hub.rest()
    suspend(hub)
    hub.rest()
    hub.change("hub-1")

    hub.change("hub-0", phase=Phase.GONE)
    hub.rest()

    assert not hub.record["free"]
    assert list(hub.record["pinned"]) == ["hub-0"]
    resume(hub)
    hub.rest()
    assert hub.where() == {"free": "hub-1"}
    hub.change("hub-0", phase=Phase.LIVE)
    hub.rest()
    assert hub.where() == {"free": "hub-1", "pinned": "hub-0"}


def test_a_drained_member_loses_its_suspended_children_without_a_start() -> None:
    hub = PlannedHub(1, hub_spec(on_join=False))
    hub.want([child("free"), child("pinned", pinned=True)])
    hub.rest()
    suspend(hub)
    hub.rest()
    hub.change("hub-1")

    hub.change("hub-0", draining=True)
    hub.rest()
    resume(hub)
    hub.rest()

    assert hub.where() == {"free": "hub-1"}
    assert plan(hub.snapshot()).unplaced["pinned"].reason is Reason.MEMBER_UNAVAILABLE
    hub.change("hub-0", draining=False)
    hub.rest()
    assert hub.where() == {"free": "hub-1", "pinned": "hub-0"}


@pytest.mark.parametrize("forced", [False, True])
def test_another_copy_becomes_active_if_the_active_ones_member_was_drained_while_suspended(forced: bool) -> None:
    hub = copies()
    hub.want([child("pinned", pinned=True)])
    hub.rest()
    active, passive = sorted(hub.roles("pinned"), key=lambda member: hub.roles("pinned")[member])
    suspend(hub, "pinned")
    hub.rest()

    hub.change(active, draining=True, forced=forced)
    resume(hub, "pinned")
    hub.rest()

    assert hub.roles("pinned") == {passive: Role.ACTIVE}
    hub.change(active, draining=False, forced=False)
    hub.rest()
    assert hub.roles("pinned") == {passive: Role.ACTIVE, active: Role.PASSIVE}


@pytest.mark.parametrize("away", [{"draining": True}, {"phase": Phase.GONE}])
@pytest.mark.parametrize("several", [False, True])
def test_an_edit_is_recorded_while_a_resumed_child_waits_for_its_member(several: bool, away: dict[str, Any]) -> None:
    hub = copies() if several else placed(1)
    hub.want([child("pinned", pinned=True)])
    hub.rest()
    where = list(hub.record["pinned"])
    suspend(hub, "pinned")
    hub.rest()
    for member in where:
        hub.change(member, **away)

    hub.want([child("pinned", pinned=True, tags=("eu",))])
    hub.rest()

    entries = hub.record["pinned"]
    assert list(entries) == where
    assert [(entry.tags, entry.asleep) for entry in entries.values()] == [(("eu",), True)] * len(where)
    for member in where:
        hub.change(member, **{name: Phase.LIVE if name == "phase" else False for name in away})
    hub.rest()
    assert sorted(hub.roles("pinned")) == sorted(where)


def test_a_scale_down_names_the_suspended_pinned_children_of_the_member() -> None:
    hub = placed(1, 1, pinned=True)
    suspend(hub)
    hub.rest()

    hub.change("hub-0", draining=True, wanted=False)

    assert plan(hub.snapshot()).stranded == {"hub-0": ("tenant/0",)}


def test_a_request_to_move_a_suspended_child_is_rejected() -> None:
    for hub in (placed(1), copies()):
        suspend(hub, "tenant/0")
        hub.rest()
        hub.move_requests["tenant/0"] = "hub-1"

        hub.rest()

        assert hub.answers["tenant/0"] == "it is not placed yet, or suspended"


def test_an_edit_of_a_suspended_child_takes_effect_when_it_is_resumed() -> None:
    hub = placed(1)
    before = hub.where()
    suspend(hub)
    hub.rest()
    hub.want([child("tenant/0", workload="w2", tags=("eu",), suspended=True)])
    hub.rest()
    (entry,) = hub.record["tenant/0"].values()
    assert (entry.workload, entry.tags) == ("w", ())

    resume(hub)
    hub.rest()

    assert hub.where() == before
    (entry,) = hub.record["tenant/0"].values()
    assert (entry.workload, entry.tags, entry.wait, entry.asleep) == ("w2", ("eu",), False, False)


def test_a_child_whose_nodes_changed_while_suspended_starts_there() -> None:
    hub = PlannedHub(2)
    hub.want([child("a", nodes=("hub-0",))])
    hub.rest()
    suspend(hub)
    hub.rest()
    hub.want([child("a", nodes=("hub-1",), suspended=True)])
    hub.rest()
    assert list(hub.record["a"]) == ["hub-0"]

    resume(hub)
    hub.rest()

    assert hub.where() == {"a": "hub-1"}


def test_a_child_suspended_during_a_move_stays_where_it_was() -> None:
    hub = placed(20)
    before = hub.where()
    hub.change("hub-2", joining=True)
    hub.write(plan(hub.snapshot()))
    moving = [id_ for id_, places in hub.record.items() if len(places) == 2]
    assert moving

    suspend(hub)
    hub.rest()

    assert {id_: list(hub.record[id_]) for id_ in moving} == {id_: [before[id_]] for id_ in moving}


def test_a_child_resumed_before_its_move_was_undone_stays_where_it_was() -> None:
    """The entry of the target could not be removed in between."""
    hub = placed(20)
    before = hub.where()
    moved = sorted(id_ for id_, member in before.items() if member == max(hub.members))
    hub.move_requests = dict.fromkeys(moved, min(hub.members))
    hub.write(plan(hub.snapshot()))
    hub.move_requests = {}
    assert all(len(hub.record[id_]) == 2 for id_ in moved)

    suspend(hub)
    planned = plan(hub.snapshot())
    kept = {
        member: {id_: entry for id_, entry in changes.items() if entry} for member, changes in planned.entries.items()
    }
    hub.write(msgspec.structs.replace(planned, entries=kept))
    hub.acknowledge()
    hub.record = {id_: dict(sorted(places.items())) for id_, places in hub.record.items()}
    resume(hub)
    hub.rest()

    assert hub.where() == before


def test_a_child_suspended_without_a_quorum_has_stopped_when_the_quorum_returns() -> None:
    hub = placed(3)
    before = hub.where()
    hub.partitioned = "too few members are live"
    hub.rest()
    suspend(hub)

    planned = hub.step()

    assert not planned.unplaced
    hub.partitioned = ""
    hub.acknowledge()
    assert hub.where() == {}
    resume(hub)
    hub.rest()
    assert hub.where() == before


def test_without_a_quorum_both_ends_of_a_suspended_childs_move_are_kept() -> None:
    hub = placed(20)
    hub.change("hub-2", joining=True)
    hub.write(plan(hub.snapshot()))
    before = {id_: places for id_, places in hub.record.items() if len(places) == 2}
    hub.partitioned = "too few members are live"
    suspend(hub)

    hub.rest()

    assert before
    assert {id_: set(hub.record[id_]) for id_ in before} == {id_: set(places) for id_, places in before.items()}


@pytest.mark.parametrize("mode", ["ActivePassive", "ActiveActive"])
def test_all_copies_are_suspended_and_resumed_in_their_places_and_roles(mode: str) -> None:
    hub = copies(mode)
    before = {id_: hub.roles(id_) for id_ in hub.children}

    suspend(hub)
    hub.rest()

    assert all(hub.roles(id_) == {} for id_ in hub.children)
    resume(hub)
    hub.rest()
    assert {id_: hub.roles(id_) for id_ in hub.children} == before


def test_if_the_active_copy_is_lost_while_suspended_another_becomes_active_when_resumed() -> None:
    hub = copies()
    roles = hub.roles("tenant/0")
    (active,) = [name for name, role in roles.items() if role == Role.ACTIVE]
    (passive,) = roles.keys() - {active}
    suspend(hub)
    hub.rest()

    hub.change(active, phase=Phase.GONE)
    hub.rest()
    assert list(hub.record["tenant/0"]) == [passive]
    resume(hub)
    hub.rest()

    assert hub.roles("tenant/0")[passive] == Role.ACTIVE


def test_a_child_suspended_before_the_hub_kept_copies_is_no_target_of_a_move() -> None:
    hub = placed(10, 3)
    before = hub.where()
    suspend(hub)
    hub.rest()
    hub.spec = hub_spec(
        redundancy={"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
    )
    hub.rest()

    resume(hub)
    hub.rest()

    for id_, name in before.items():
        assert hub.roles(id_)[name] == Role.ACTIVE
        assert len(hub.roles(id_)) == 2


def test_the_active_copys_place_is_kept_if_the_hub_returns_to_one_copy_while_suspended() -> None:
    hub = copies()
    active = {id_: name for id_ in hub.children for name, role in hub.roles(id_).items() if role == Role.ACTIVE}
    suspend(hub)
    hub.rest()
    hub.spec = hub_spec()
    hub.rest()

    resume(hub)
    hub.rest()

    assert hub.where() == active


# handovers


def hot(
    *places: OnRecord, gone: str = "", draining: str = "", possibly_running: str = "", **fields: Any
) -> HubSnapshot:
    wanted = child("a", uid="u", **fields)
    members = []
    for view in PlannedHub(2).members.values():
        phase = Phase.GONE if view.name == gone else Phase.LIVE
        there = frozenset({"a"} if view.name == possibly_running else ())
        members.append(
            msgspec.structs.replace(view, phase=phase, draining=view.name == draining, possibly_running=there)
        )
    spec = msgspec.structs.replace(hub_spec(), migration=MigrationSpec(strategy="HotSwap"))
    return HubSnapshot(
        spec=spec, members=tuple(members), children={"a": wanted}, record={"a": places}, next_epoch=50, move_budget=9
    )


def entry(epoch: int, **fields: Any) -> Assignment:
    return Assignment(uid="u", epoch=epoch, workload="w", **fields)


SOURCE = OnRecord("hub-0", entry(3, to="hub-1:4"))
COMMITTED = OnRecord("hub-1", entry(5, state="sum"))


def test_both_ends_of_a_committed_handover_are_kept_and_the_target_is_suspended() -> None:
    planned = plan(hot(SOURCE, COMMITTED, suspended=True))

    assert "hub-0" not in planned.entries
    change = planned.entries["hub-1"]["a"]
    assert change is not None
    assert (change.wait, change.asleep, change.state, change.epoch) == (True, True, "sum", 50)
    assert plan(hot(SOURCE, OnRecord("hub-1", change), suspended=True)).empty


def test_a_suspended_target_gets_its_state_again_when_its_end_is_proven() -> None:
    slept = OnRecord("hub-1", entry(6, wait=True, asleep=True, state="sum"))

    assert plan(hot(SOURCE, slept, possibly_running="hub-1")).empty
    order = plan(hot(SOURCE, slept)).entries["hub-0"]["a"]

    assert order is not None
    assert order.to == "hub-1:6"


def test_a_suspended_target_starts_with_its_state_if_its_source_is_lost() -> None:
    slept = OnRecord("hub-1", entry(6, wait=True, asleep=True, state="sum"))

    change = plan(hot(slept)).entries["hub-1"]["a"]

    assert change is not None
    assert (change.wait, change.state) == (False, "sum")


def test_a_source_does_not_continue_while_its_suspended_target_may_run() -> None:
    slept = OnRecord("hub-1", entry(6, wait=True, asleep=True, state="sum"))

    planned = plan(hot(SOURCE, slept, draining="hub-1", possibly_running="hub-1"))

    assert "hub-0" not in planned.entries
    assert planned.unplaced["a"].reason is Reason.ALREADY_STARTED


def test_a_source_is_released_if_the_suspended_target_has_taken_over() -> None:
    planned = plan(hot(SOURCE, OnRecord("hub-1", COMMITTED.entry, came_up=True), suspended=True))

    assert planned.entries["hub-0"]["a"] is None
    change = planned.entries["hub-1"]["a"]
    assert change is not None
    assert (change.asleep, change.state) == (True, "")


def test_a_suspended_source_keeps_the_child_if_its_target_has_no_order_yet() -> None:
    planned = plan(hot(SOURCE, OnRecord("hub-1", entry(4, wait=True)), suspended=True))

    assert planned.entries["hub-1"]["a"] is None
    change = planned.entries["hub-0"]["a"]
    assert change is not None
    assert (change.asleep, change.to) == (True, "")
