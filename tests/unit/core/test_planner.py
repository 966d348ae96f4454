"""The planner, one behaviour at a time: placement, edits, losses and joins, and the reasons that it gives."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from planned_hub import FIRST_EPOCH, PlannedHub, child, children_of, drawn_onto, drawn_to, hub_spec, resting

from processhub.api.reasons import Reason
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import MemberView
from processhub.core.planning.planner import plan

# placing


def test_every_child_is_placed_once_in_one_round() -> None:
    hub = PlannedHub(3)
    hub.want(children_of(100))

    planned = hub.step()

    assert sorted(id_ for entries in planned.entries.values() for id_ in entries) == sorted(hub.children)
    assert hub.where().keys() == hub.children.keys()
    assert hub.step().empty


def test_epochs_are_unique_and_rise() -> None:
    hub = resting(children=10)

    epochs = sorted(hub.epoch(id_) for id_ in hub.children)

    assert epochs == list(range(FIRST_EPOCH, FIRST_EPOCH + 10))
    assert hub.next_epoch == FIRST_EPOCH + 10


def test_no_member_gets_more_than_the_load_cap() -> None:
    hub = PlannedHub(10, hub_spec(cap_percent=105))
    hub.want(children_of(200))

    hub.rest()

    assert max(Counter(hub.where().values()).values()) <= 21


def test_the_load_cap_of_a_member_follows_its_weight() -> None:
    hub = PlannedHub([MemberView(name="big", weight=3), MemberView(name="small")], hub_spec(cap_percent=100))
    hub.want(children_of(400))

    hub.rest()

    assert Counter(hub.where().values()) == {"big": 300, "small": 100}


def test_children_above_the_capacity_wait_with_a_reason() -> None:
    hub = PlannedHub(2, hub_spec(max_children=3))
    hub.want(children_of(10))

    planned = hub.step()

    assert Counter(hub.where().values()) == {"hub-0": 3, "hub-1": 3}
    assert {reason.reason for reason in planned.unplaced.values()} == {Reason.CAPACITY_EXCEEDED}
    assert len(planned.unplaced) == 4


def test_children_wait_with_a_reason_if_all_weights_are_zero() -> None:
    hub = PlannedHub(MemberView(name=f"hub-{number}", weight=0) for number in range(2))
    hub.want(children_of(1))

    (why,) = hub.step().unplaced.values()

    assert why.reason is Reason.NO_MEMBERS
    assert why.message == "each ready member (hub-0, hub-1) has weight 0 (spec.members.weights)"


def test_freed_capacity_is_filled() -> None:
    hub = PlannedHub(1, hub_spec(max_children=3))
    hub.want(children_of(4))
    hub.rest()
    running = hub.on("hub-0")

    del hub.children[min(running)]
    hub.rest()

    assert hub.on("hub-0") == hub.children.keys()


@pytest.mark.parametrize(
    "members",
    [[], [MemberView(name="hub-0", phase=Phase.GONE)], [MemberView(name="hub-0", phase=Phase.HELD)]],
)
def test_with_no_member_ready_children_wait(members: list[MemberView]) -> None:
    hub = PlannedHub(members)
    hub.want(children_of(2))

    planned = hub.step()

    assert {reason.reason for reason in planned.unplaced.values()} == {Reason.NO_MEMBERS}
    assert not planned.entries


def test_nothing_is_placed_before_the_hub_has_formed() -> None:
    hub = PlannedHub(1)
    hub.formed = False
    hub.want([*children_of(5), child("guided", nodes=("hub-0",))])

    planned = hub.step()

    assert not planned.entries
    assert planned.unplaced.keys() == hub.children.keys()


def test_a_draining_or_unwanted_member_gets_no_child() -> None:
    hub = PlannedHub(3)
    hub.change("hub-0", draining=True)
    hub.change("hub-1", wanted=False)
    hub.want(children_of(20))

    hub.rest()

    assert set(hub.where().values()) == {"hub-2"}


# guided and pinned


def test_a_guided_child_is_placed_on_its_member_regardless_of_the_hash() -> None:
    hub = PlannedHub(3)
    hub.want(child(f"g{number}", nodes=("hub-1",)) for number in range(10))

    hub.rest()

    assert set(hub.where().values()) == {"hub-1"}


@pytest.mark.parametrize("name", ["hub-1", "hub-9"])
def test_a_guided_child_waits_for_its_member(name: str) -> None:
    hub = PlannedHub(3)
    hub.change("hub-1", phase=Phase.GONE)
    hub.want([child("g", nodes=(name,))])

    planned = hub.step()

    assert planned.unplaced["g"].reason is Reason.MEMBER_UNAVAILABLE
    assert "g" not in hub.where()


def test_a_guided_child_is_not_started_on_a_draining_member() -> None:
    hub = PlannedHub(3)
    hub.change("hub-1", draining=True)
    hub.want([child("g", nodes=("hub-1",))])

    planned = hub.step()

    assert planned.unplaced["g"].reason is Reason.MEMBER_UNAVAILABLE
    assert not hub.on("hub-1")


def test_a_guided_child_waits_while_its_member_is_full() -> None:
    hub = PlannedHub(2, hub_spec(max_children=2))
    hub.want(child(f"g{number}", nodes=("hub-0",)) for number in range(3))

    planned = hub.step()

    assert len(hub.on("hub-0")) == 2
    assert [reason.reason for reason in planned.unplaced.values()] == [Reason.CAPACITY_EXCEEDED]


def test_a_guided_child_does_not_move_onto_a_full_member() -> None:
    hub = PlannedHub(2, hub_spec(max_children=2))
    hub.want([child("a", nodes=("hub-0",)), child("b", nodes=("hub-0",)), child("c", nodes=("hub-1",))])
    hub.rest()

    hub.want([child("c", nodes=("hub-0",))])
    planned = hub.step()

    assert planned.unplaced["c"].reason is Reason.CAPACITY_EXCEEDED
    assert hub.on("hub-1") == {"c"}

    del hub.children["a"]
    hub.rest()

    assert hub.on("hub-0") == {"b", "c"}


def test_bound_children_stay_recorded_on_a_lost_member_and_start_when_it_returns() -> None:
    hub = PlannedHub(3)
    hub.want([child("guided", nodes=("hub-1",)), child("pinned", pinned=True)])
    hub.rest()
    home = hub.where()
    hub.change("hub-1", phase=Phase.GONE)
    hub.change(home["pinned"], phase=Phase.GONE)

    lost = hub.rest()
    told = hub.step()
    for name in home.values():
        hub.change(name, phase=Phase.LIVE)
    hub.rest()

    assert all(not planned.entries for planned in lost)
    assert {reason.reason for reason in told.unplaced.values()} == {Reason.MEMBER_UNAVAILABLE}
    assert hub.where() == home


def test_a_pinned_child_is_not_moved_by_a_join() -> None:
    hub = resting()
    id_ = drawn_onto(hub, "hub-3")
    hub.want([msgspec.structs.replace(hub.children[id_], pinned=True)])
    home = hub.where()[id_]

    hub.change("hub-3", joining=True)
    hub.rest()

    assert hub.where()[id_] == home


def test_changed_nodes_move_the_child() -> None:
    hub = PlannedHub(3)
    hub.want([child("g", nodes=("hub-0",))])
    hub.rest()

    hub.want([child("g", nodes=("hub-2",))])
    plans = hub.rest()

    assert hub.where() == {"g": "hub-2"}
    assert [(move.source, move.target) for planned in plans for move in planned.moves] == [("hub-0", "hub-2")]


def test_a_child_whose_new_member_is_away_keeps_running_where_it_is() -> None:
    hub = PlannedHub(3)
    hub.want([child("g", nodes=("hub-0",))])
    hub.rest()
    hub.change("hub-2", phase=Phase.GONE)

    hub.want([child("g", nodes=("hub-2",))])
    hub.rest()

    assert hub.where() == {"g": "hub-0"}
    assert hub.step().unplaced["g"].reason is Reason.MEMBER_UNAVAILABLE


# edits


def test_a_changed_workload_is_a_new_epoch_in_place() -> None:
    hub = resting()
    before, home = hub.epoch("tenant/7"), hub.where()

    hub.want([child("tenant/7", workload="w2")])
    (planned,) = hub.rest()

    assert hub.where() == home
    assert list(planned.entries) == [home["tenant/7"]]
    assert hub.epoch("tenant/7") > before
    assert hub.record["tenant/7"][home["tenant/7"]].workload == "w2"


@pytest.mark.parametrize(
    "fields", [{"tags": ("eu",)}, {"metadata": (("k", "v"),)}, {"restart_policy": "Temporary"}, {"pinned": True}]
)
def test_changed_attributes_keep_the_epoch(fields: dict[str, object]) -> None:
    hub = resting()
    before, home = hub.epoch("tenant/7"), hub.where()

    hub.want([child("tenant/7", **fields)])
    hub.rest()

    assert hub.where() == home
    assert hub.epoch("tenant/7") == before
    entry = hub.record["tenant/7"][home["tenant/7"]]
    assert all(getattr(entry, name) == value for name, value in fields.items() if name != "pinned")


def test_a_workload_changed_during_a_move_starts_on_the_target_only() -> None:
    hub = resting()
    id_ = drawn_onto(hub, "hub-3")
    hub.change("hub-3", joining=True)
    hub.step()

    hub.want([child(id_, workload="w2")])
    hub.rest()

    assert hub.where()[id_] == "hub-3"
    assert hub.record[id_]["hub-3"].workload == "w2"


# stopping and starting anew


def test_an_unwanted_child_is_removed_from_the_record() -> None:
    hub = resting()
    home = hub.where()

    del hub.children["tenant/7"]
    planned = hub.step()

    assert planned.entries == {home["tenant/7"]: {"tenant/7": None}}
    assert "tenant/7" not in hub.where()


def test_a_re_created_child_starts_only_after_the_old_one_has_ended() -> None:
    hub = resting()
    home = hub.where()["tenant/7"]
    hub.want([child("tenant/7", uid="second")])

    removal = plan(hub.snapshot())
    hub.write(removal)
    waiting = plan(hub.snapshot())
    hub.acknowledge()
    start = plan(hub.snapshot())

    assert removal.entries == {home: {"tenant/7": None}}
    assert removal.unplaced["tenant/7"].reason is Reason.ALREADY_STARTED
    assert not waiting.entries
    assert waiting.unplaced["tenant/7"].reason is Reason.ALREADY_STARTED
    assert [entry.uid for entries in start.entries.values() for entry in entries.values() if entry] == ["second"]


def test_a_child_that_may_still_run_on_a_held_member_waits_and_the_member_is_named() -> None:
    hub = PlannedHub(2)
    hub.change("hub-1", phase=Phase.HELD, possibly_running=frozenset({"a"}))
    hub.want([child("a"), child("b")])

    planned = hub.step()

    assert planned.unplaced.keys() == {"a"}
    assert "hub-1" in planned.unplaced["a"].message
    assert hub.where() == {"b": "hub-0"}


def test_children_of_a_member_proven_gone_block_nothing() -> None:
    hub = PlannedHub(2)
    hub.change("hub-1", phase=Phase.GONE, possibly_running=frozenset({"a"}), settled=False)
    hub.want([child("a")])

    hub.rest()

    assert hub.where() == {"a": "hub-0"}


def test_after_a_leader_change_nothing_starts_until_every_member_has_confirmed() -> None:
    hub = resting()
    hub.change("hub-0", settled=False)
    home = hub.where()
    hub.want([child("new")])

    waiting = plan(hub.snapshot())
    hub.acknowledge()
    hub.rest()

    assert not waiting.entries
    assert waiting.unplaced["new"].reason is Reason.WAITING
    assert "hub-0" in waiting.unplaced["new"].message
    assert {id_: name for id_, name in hub.where().items() if id_ != "new"} == home
    assert "new" in hub.where()


def test_a_new_leader_with_the_same_record_moves_nothing() -> None:
    hub = resting(members=4, cap_percent=125)
    for name in hub.members:
        hub.change(name, settled=False)
    hub.next_epoch = 2 * FIRST_EPOCH

    unsettled = plan(hub.snapshot())
    hub.acknowledge()
    settled = plan(hub.snapshot())

    assert unsettled.empty
    assert settled.empty


# loss


def test_a_lost_members_children_move_to_the_survivors_and_no_other_child_moves() -> None:
    hub = resting(members=4)
    home = hub.where()
    hub.change("hub-2", phase=Phase.GONE)

    planned = hub.step()

    moved = {id_: name for id_, name in hub.where().items() if home[id_] != name}
    assert {home[id_] for id_ in moved} == {"hub-2"}
    assert moved == {id_: drawn_to(hub, among=["hub-0", "hub-1", "hub-3"])[id_] for id_ in moved}
    assert {(move.id, move.source, move.target) for move in planned.moves} == {
        (id_, "hub-2", name) for id_, name in moved.items()
    }


def test_a_loss_is_not_slowed_by_the_move_budget() -> None:
    hub = resting(members=4)
    hub.change("hub-2", phase=Phase.GONE)

    hub.step(budget=0)

    assert hub.where().keys() == hub.children.keys()


def test_a_held_member_keeps_its_children() -> None:
    hub = resting()
    home = hub.where()
    hub.change("hub-1", phase=Phase.HELD)

    assert hub.rest() == []
    assert hub.where() == home


def test_the_children_of_a_removed_member_move_to_others() -> None:
    hub = resting()
    del hub.members["hub-1"]
    hub.running["hub-1"] = {}

    hub.rest()

    assert hub.where().keys() == hub.children.keys()


# joins


def test_a_join_moves_only_the_share_of_the_new_member() -> None:
    hub = resting(members=4, children=400)
    home = hub.where()

    hub.change("hub-4", joining=True)
    hub.rest()

    moved = {id_ for id_, name in hub.where().items() if home[id_] != name}
    assert moved == {id_ for id_, name in drawn_to(hub).items() if name == "hub-4"}
    assert {hub.where()[id_] for id_ in moved} == {"hub-4"}
    assert not hub.members["hub-4"].joining


def test_members_that_join_together_each_get_their_share() -> None:
    hub = resting(members=1, children=600)

    hub.change("hub-1", joining=True)
    hub.change("hub-2", joining=True)
    plans = hub.rest()

    assert hub.where() == drawn_to(hub)
    assert max(Counter(move.id for planned in plans for move in planned.moves).values()) == 1


def test_a_member_that_joins_while_children_move_onto_another_gets_its_share_too() -> None:
    hub = resting(members=1, children=600)
    hub.change("hub-1", joining=True)
    hub.step()

    hub.change("hub-2", joining=True)
    hub.rest()

    assert hub.where() == drawn_to(hub)


def test_a_child_edited_in_the_round_of_a_join_still_moves() -> None:
    hub = resting()
    id_ = drawn_onto(hub, "hub-3")

    hub.change("hub-3", joining=True)
    hub.want([child(id_, tags=("eu",))])
    hub.rest()

    assert hub.where()[id_] == "hub-3"


def test_a_join_takes_several_rounds_by_the_budget() -> None:
    hub = resting(members=2, children=300)

    hub.change("hub-2", joining=True)
    plans = hub.rest(budget=10)

    assert max(len(planned.moves) for planned in plans) == 10
    assert plans[0].pending_moves > 0
    assert hub.where() == drawn_to(hub)


def test_a_join_fills_the_new_member_up_to_the_cap() -> None:
    hub = PlannedHub(1, hub_spec(cap_percent=100))
    hub.want(children_of(100))
    hub.rest()

    hub.change("hub-1", joining=True)
    hub.rest()

    assert len(hub.on("hub-1")) <= 50
    assert hub.step().empty


def test_a_join_moves_no_child_if_the_hub_forbids_it() -> None:
    hub = PlannedHub(2, hub_spec(on_join=False))
    hub.want(children_of(50))
    hub.rest()
    home = hub.where()

    hub.change("hub-2", joining=True)
    hub.rest()

    assert hub.where() == home
    assert not hub.members["hub-2"].joining


def test_a_join_waits_for_a_member_that_is_away_with_its_children() -> None:
    hub = resting()
    hub.change("hub-1", phase=Phase.HELD)
    hub.change("hub-3", joining=True)
    hub.rest()
    still_joining = hub.members["hub-3"].joining

    hub.change("hub-1", phase=Phase.LIVE)
    hub.rest()

    assert still_joining
    assert hub.where() == drawn_to(hub)


def test_a_lost_member_that_returns_joins_again() -> None:
    hub = resting()
    home = hub.where()
    hub.change("hub-1", phase=Phase.GONE)
    hub.rest()

    hub.change("hub-1", phase=Phase.LIVE)
    hub.rest()

    assert hub.where() == home


def test_overflow_by_the_cap_is_not_repaired_on_a_join() -> None:
    hub = PlannedHub(3, hub_spec(cap_percent=100))
    hub.want(children_of(90))
    hub.rest()
    home = hub.where()

    hub.change("hub-3", joining=True)
    hub.rest()

    assert {name for id_, name in hub.where().items() if home[id_] != name} <= {"hub-3"}
