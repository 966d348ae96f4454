"""Several copies of a child: their members, and which one is active."""

from __future__ import annotations

import pytest
from planned_copies import (
    POD,
    active,
    lose,
    one_copy_left_that_is_passive,
    one_that_may_not_have_heard,
    ranked,
    replicated,
    with_pods,
)
from planned_hub import PlannedHub, child, children_of, hub_spec

from processhub.api.reasons import Reason, Role
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import MemberView
from processhub.core.planning.planner import plan


def test_copies_are_on_the_members_that_the_hash_ranks_highest_and_the_first_is_active() -> None:
    hub = replicated(2, members=5)
    hub.want(children_of(60))
    hub.rest()

    for id_ in hub.children:
        assert set(hub.roles(id_)) == set(ranked(hub, id_)[:2])
        assert active(hub, id_) == ranked(hub, id_)[0]


def test_active_active_has_every_copy_active() -> None:
    hub = replicated(3, "ActiveActive", members=4)
    hub.want([child("a")])
    hub.rest()

    assert list(hub.roles("a").values()) == [Role.ACTIVE] * 3


def test_with_a_factor_above_the_members_each_has_one_copy_and_a_join_adds_one() -> None:
    hub = replicated(5, members=2)
    hub.want(children_of(20))
    hub.rest()
    assert all(len(hub.roles(id_)) == 2 for id_ in hub.children)

    hub.change("hub-2", joining=True)
    hub.rest()

    assert all(len(hub.roles(id_)) == 3 for id_ in hub.children)
    assert all(hub.roles(id_)["hub-2"] == Role.PASSIVE for id_ in hub.children)


@pytest.mark.parametrize("late", ["member", "factor"])
def test_a_pinned_child_gets_the_copies_that_it_could_not_have_at_first_and_none_moves(late: str) -> None:
    hub = replicated(1 if late == "factor" else 2, members=3)
    lose(hub, "hub-1")
    if late == "member":
        lose(hub, "hub-2")
    hub.want([child("a", pinned=True)])
    hub.rest()
    (first,) = hub.roles("a")

    hub.spec = replicated(2).spec
    for name in ("hub-1", "hub-2"):
        hub.change(name, phase=Phase.LIVE, joining=True)
        hub.rest()

    assert len(hub.roles("a")) == 2
    assert hub.roles("a")[first] == Role.ACTIVE


def test_cluster_size_follows_joins_and_leaves() -> None:
    hub = replicated("ClusterSize", "ActiveActive", members=3)
    hub.want([child("a")])
    hub.rest()

    hub.change("hub-3", joining=True)
    hub.change("hub-0", draining=True)
    hub.rest()

    assert set(hub.roles("a")) == {"hub-1", "hub-2", "hub-3"}


def test_with_for_each_a_copy_runs_on_every_member() -> None:
    hub = PlannedHub(3, hub_spec(strategy="ForEach"))
    hub.want([child("a"), child("b")])
    hub.rest()
    lose(hub, "hub-1")
    hub.change("hub-3", joining=True)
    hub.rest()

    for id_ in ("a", "b"):
        assert hub.roles(id_) == dict.fromkeys(("hub-0", "hub-2", "hub-3"), Role.ACTIVE)


def test_a_passive_copy_is_promoted_in_place_in_the_round_that_proves_the_loss() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    (lost,) = [active(hub, "a")]
    (heir,) = set(hub.roles("a")) - {lost}
    before = hub.record["a"][heir]

    lose(hub, lost)
    hub.write(plan(hub.snapshot()))

    promoted = hub.record["a"][heir]
    assert promoted.role == Role.ACTIVE
    assert promoted.epoch > before.epoch
    assert promoted.started_with == before.epoch
    assert len(hub.record["a"]) == 2


def test_a_restarting_member_loses_its_active_roles_for_good() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    away = active(hub, "a")
    (heir,) = set(hub.roles("a")) - {away}

    hub.change(away, phase=Phase.HELD, ended=True)
    hub.rest()
    assert active(hub, "a") == heir
    hub.change(away, phase=Phase.LIVE, ended=False)
    hub.rest()

    assert hub.roles("a") == {heir: Role.ACTIVE, away: Role.PASSIVE}


def test_no_copy_is_promoted_while_the_active_one_may_run() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    away = active(hub, "a")

    hub.change(away, phase=Phase.HELD)  # its pod is being deleted: it runs until the kubelet confirms the end
    planned = plan(hub.snapshot())

    assert planned.empty


def test_a_promotion_waits_for_a_member_that_may_not_know_that_its_copy_is_passive() -> None:
    hub, _ = one_that_may_not_have_heard(members=3)
    planned = plan(hub.snapshot())

    assert all(
        entry is None or entry.role == Role.PASSIVE for places in planned.entries.values() for entry in places.values()
    )
    assert planned.unplaced["a"].reason == Reason.ALREADY_STARTED


@pytest.mark.parametrize("workload", ["w", "edited"])
def test_a_hub_that_returns_to_one_copy_makes_none_active_while_another_may_be(workload: str) -> None:
    hub, away = one_copy_left_that_is_passive()
    hub.want([child("a", workload=workload)])
    for _ in range(3):
        planned = plan(hub.snapshot())
        hub.write(planned)
    assert {name for name, entry in hub.record["a"].items() if entry.role == Role.ACTIVE} <= {away}
    assert planned.unplaced["a"].reason == Reason.ALREADY_STARTED

    hub.acknowledge()
    hub.rest()
    (entry,) = hub.record["a"].values()
    assert (entry.role, entry.workload) == (Role.ACTIVE, workload)


def test_a_hub_that_returns_to_one_copy_does_not_move_the_passive_one_to_become_active() -> None:
    hub, away = one_copy_left_that_is_passive()
    for _ in range(2):
        hub.write(plan(hub.snapshot()))
    (left,) = hub.record["a"].keys() - {away}
    hub.change(left, draining=True)

    assert not plan(hub.snapshot()).entries
    hub.acknowledge()
    hub.rest()
    ((name, entry),) = hub.record["a"].items()
    assert name != left
    assert entry.role == Role.ACTIVE


@pytest.mark.parametrize("lost", [True, False])
def test_a_copy_with_a_pod_is_promoted_only_when_the_active_ones_pod_is_gone(lost: bool) -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    first = active(hub, "a")
    pods = with_pods(hub, "a")
    (second,) = pods.keys() - {first}

    if lost:
        lose(hub, first)
    else:
        hub.change(first, phase=Phase.HELD, ended=True)
    hub.rest()
    assert hub.record["a"][second].role == Role.PASSIVE
    assert hub.roles("a")[second] == Role.PASSIVE
    if lost:
        assert plan(hub.snapshot()).unplaced["a"].reason is Reason.ALREADY_STARTED

    hub.pods = {"a": (pods[second],)}
    hub.rest()
    promoted = hub.record["a"][second]
    assert promoted.role == Role.ACTIVE
    assert str(promoted.started_with) == pods[second].run, "its Pod runs on"


def test_a_promotion_waits_for_a_pod_of_an_earlier_run_on_a_member_with_the_child() -> None:
    hub = replicated(2, members=2)
    hub.want([child("a")])
    hub.rest()
    first = active(hub, "a")
    pods = with_pods(hub, "a")
    (second,) = pods.keys() - {first}

    lose(hub, first)
    hub.rest()
    hub.change(first, phase=Phase.LIVE, joining=True)
    hub.rest()
    assert hub.record["a"].keys() == {first, second}
    assert Role.ACTIVE not in {entry.role for entry in hub.record["a"].values()}

    hub.pods = {"a": (pods[second],)}
    hub.rest()
    assert sorted(entry.role for entry in hub.record["a"].values()) == [Role.ACTIVE, Role.PASSIVE]


def test_every_promotion_waits_until_the_pods_of_copies_that_step_back_are_gone() -> None:
    hub = replicated(3, "ActiveActive")
    hub.want([child("a")])
    hub.rest()
    pods = with_pods(hub, "a")
    hub.spec = replicated(3).spec
    hub.rest()
    first = active(hub, "a")
    others = sorted(pods.keys() - {first})
    assert [hub.record["a"][name].role for name in others] == [Role.PASSIVE] * 2

    # The active one and its Pod are gone for good. Copies that become passive act as active until their Pods are gone.
    lose(hub, first)
    for left in (others, others[1:]):
        hub.pods = {"a": tuple(pods[name] for name in left)}
        hub.rest()
        assert set(hub.roles("a").values()) == {Role.PASSIVE}
        assert f"its pod pod of a for {left[0]} is still there" in plan(hub.snapshot()).unplaced["a"].message

    hub.pods = {}
    hub.rest()
    assert sorted(hub.roles("a").values()) == [Role.ACTIVE, Role.PASSIVE]


@pytest.mark.parametrize("away", [False, True])
def test_copies_with_a_changed_kind_of_workload_start_only_when_their_pods_are_gone(away: bool) -> None:
    hub = replicated(2)
    hub.want([child("a", workload=POD, pod=True)])
    hub.rest()
    first = active(hub, "a")
    with_pods(hub, "a")
    if away:
        hub.change(first, phase=Phase.HELD, ended=True)

    hub.want([child("a", workload="w")])
    hub.rest()
    assert hub.record["a"] == {}
    assert plan(hub.snapshot()).unplaced["a"].reason is Reason.ALREADY_STARTED

    hub.pods = {}
    hub.rest()
    assert sorted(hub.roles("a").values()) == [Role.ACTIVE, Role.PASSIVE]
    assert {entry.workload for entry in hub.record["a"].values()} == {"w"}


def test_a_pod_of_a_lost_member_that_blocks_a_promotion_is_reported() -> None:
    hub = replicated(2, strategy="Guided")
    hub.want([child("a", nodes=("hub-0", "hub-1"))])
    hub.rest()
    with_pods(hub, "a")

    lose(hub, "hub-0")
    hub.rest()

    assert hub.record["a"]["hub-1"].role == Role.PASSIVE
    assert "its pod pod of a for hub-0 is still there" in plan(hub.snapshot()).unplaced["a"].message


def test_drained_copies_end_once_others_are_up() -> None:
    hub = replicated(2, members=3)
    hub.want(children_of(30))
    hub.rest()
    hub.change("hub-0", draining=True)

    first = hub.step()
    assert not any(entry is None for entry in first.entries.get("hub-0", {}).values())
    hub.rest()

    assert not hub.on("hub-0")
    assert all(len(hub.roles(id_)) == 2 and active(hub, id_) for id_ in hub.children)


def test_a_drain_of_copies_keeps_to_the_budget() -> None:
    hub = replicated(2, members=4)
    hub.want(children_of(40))
    hub.rest()
    hub.change("hub-0", draining=True)

    planned = hub.step(budget=3)

    assert planned.planned_moves == 3
    assert planned.pending_moves


def test_a_join_moves_copies_onto_the_joiner_only_and_never_the_active_one() -> None:
    hub = replicated(2, members=4)
    hub.want(children_of(200))
    hub.rest()
    before = {id_: (active(hub, id_), set(hub.roles(id_))) for id_ in hub.children}

    hub.change("hub-4", joining=True)
    hub.rest()

    moved = 0
    for id_, (was_active, copies) in before.items():
        assert active(hub, id_) == was_active
        assert set(hub.roles(id_)) - copies <= {"hub-4"}
        moved += set(hub.roles(id_)) != copies
    assert 30 < moved < 110  # a fifth of the copies, without the active ones, which stay
    assert not hub.members["hub-4"].joining


def test_copies_are_spread_over_zones_and_nodes_if_possible() -> None:
    members = [
        MemberView(name=f"hub-{number}", node=f"node-{number // 2}", zone=f"zone-{number // 4}") for number in range(8)
    ]
    hub = replicated(3, members=members)
    hub.want(children_of(50))
    hub.rest()

    for id_ in hub.children:
        places = [hub.members[name] for name in hub.roles(id_)]
        assert len({place.zone for place in places}) == 2
        assert len({place.node for place in places}) == 3


def test_guided_copies_run_on_their_mapped_members_and_the_first_is_active() -> None:
    hub = replicated(2, members=4, strategy="Guided")
    hub.want([child("a", nodes=("hub-3", "hub-1"))])
    hub.rest()
    assert hub.roles("a") == {"hub-3": Role.ACTIVE, "hub-1": Role.PASSIVE}

    lose(hub, "hub-3")
    hub.rest()
    assert hub.roles("a") == {"hub-1": Role.ACTIVE}
    hub.change("hub-3", phase=Phase.LIVE)
    hub.rest()

    assert hub.roles("a") == {"hub-3": Role.PASSIVE, "hub-1": Role.ACTIVE}


def test_after_a_change_of_nodes_the_new_copy_starts_before_the_old_one_ends() -> None:
    hub = replicated(2, members=4, strategy="Guided")
    hub.want([child("a", nodes=("hub-0", "hub-1"))])
    hub.rest()

    hub.want([child("a", nodes=("hub-0", "hub-2"))])
    hub.step()
    assert set(hub.roles("a")) == {"hub-0", "hub-1", "hub-2"}
    hub.rest()

    assert hub.roles("a") == {"hub-0": Role.ACTIVE, "hub-2": Role.PASSIVE}


@pytest.mark.parametrize("model", ["ActiveActive", "ActivePassive"])
def test_a_hub_changes_to_one_copy_and_back(model: str) -> None:
    hub = replicated(3, model)
    hub.want(children_of(12))
    hub.rest()
    several = hub.spec
    owners = {id_: [name for name, role in hub.roles(id_).items() if role == Role.ACTIVE] for id_ in hub.children}

    hub.spec = hub_spec()
    hub.rest()
    assert all(list(hub.roles(id_).values()) == [Role.ACTIVE] for id_ in hub.children)
    assert all(hub.where()[id_] in owners[id_] for id_ in hub.children)
    hub.spec = several
    hub.rest()

    assert all(len(hub.roles(id_)) == 3 for id_ in hub.children)


def test_a_changed_workload_restarts_every_copy_in_its_role() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    before = hub.roles("a")
    epochs = {name: entry.epoch for name, entry in hub.record["a"].items()}

    hub.want([child("a", workload="w2")])
    hub.rest()

    assert hub.roles("a") == before
    assert all(entry.epoch > epochs[name] and not entry.run for name, entry in hub.record["a"].items())
