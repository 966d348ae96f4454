"""Several copies of a child: where they go, which one is active, and whole lives of hubs at random."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planned_hub import FIRST_EPOCH, PlannedHub, child, children_of, hub_spec

from processhub.api.reasons import Reason, Role, State
from processhub.core.model.membership import Phase
from processhub.core.model.placement import Candidate, rank
from processhub.core.model.snapshot import ChildPod, MemberView
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment


def replicated(
    factor: int | str = 2, model: str = "ActivePassive", members: int | list[MemberView] = 3, **spec: Any
) -> PlannedHub:
    redundancy = {"strategy": "Replication", "replicationFactor": factor, "replicationModel": model}
    return PlannedHub(members, hub_spec(redundancy=redundancy, **spec))


def active(hub: PlannedHub, id_: str) -> str:
    (name,) = [name for name, role in hub.roles(id_).items() if role == Role.ACTIVE]
    return name


def ranked(hub: PlannedHub, id_: str) -> list[str]:
    return [name for name, _ in rank(id_, [Candidate(name, member.weight) for name, member in hub.members.items()])]


def lose(hub: PlannedHub, name: str) -> None:
    hub.change(name, phase=Phase.GONE, possibly_running=frozenset())


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


def test_a_factor_above_the_members_gives_one_each_and_is_topped_up_on_join() -> None:
    hub = replicated(5, members=2)
    hub.want(children_of(20))
    hub.rest()
    assert all(len(hub.roles(id_)) == 2 for id_ in hub.children)

    hub.change("hub-2", joining=True)
    hub.rest()

    assert all(len(hub.roles(id_)) == 3 for id_ in hub.children)
    assert all(hub.roles(id_)["hub-2"] == Role.PASSIVE for id_ in hub.children)


def test_cluster_size_follows_joins_and_leaves() -> None:
    hub = replicated("ClusterSize", "ActiveActive", members=3)
    hub.want([child("a")])
    hub.rest()

    hub.change("hub-3", joining=True)
    hub.change("hub-0", draining=True)
    hub.rest()

    assert set(hub.roles("a")) == {"hub-1", "hub-2", "hub-3"}


def test_for_each_runs_one_on_every_member() -> None:
    hub = PlannedHub(3, hub_spec(strategy="ForEach"))
    hub.want([child("a"), child("b")])
    hub.rest()
    lose(hub, "hub-1")
    hub.change("hub-3", joining=True)
    hub.rest()

    for id_ in ("a", "b"):
        assert hub.roles(id_) == dict.fromkeys(("hub-0", "hub-2", "hub-3"), Role.ACTIVE)


def test_a_passive_copy_is_promoted_in_the_round_that_proves_the_loss_and_runs_on() -> None:
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


def test_a_member_that_restarts_gives_its_roles_away_and_takes_none_back() -> None:
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


def test_nobody_is_promoted_while_the_active_one_may_run() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    away = active(hub, "a")

    hub.change(away, phase=Phase.HELD)  # its pod is being deleted: it runs until the kubelet says otherwise
    planned = plan(hub.snapshot())

    assert planned.empty


def one_that_may_not_have_heard(members: int) -> tuple[PlannedHub, str]:
    """A hub without its active copy, and the member that was it before: back, it may have read the slice as it was."""
    hub = replicated(3, members=members)
    hub.want([child("a")])
    hub.rest()
    away = active(hub, "a")
    hub.change(away, phase=Phase.HELD, ended=True)
    hub.write(plan(hub.snapshot()))
    heir = next(name for name, entry in hub.record["a"].items() if entry.role == Role.ACTIVE)

    hub.change(away, phase=Phase.LIVE, ended=False, possibly_running=frozenset({"a"}))
    lose(hub, heir)
    return hub, away


def test_a_member_that_may_not_have_heard_that_it_is_passive_holds_up_a_promotion() -> None:
    hub, _ = one_that_may_not_have_heard(members=3)
    planned = plan(hub.snapshot())

    assert all(
        entry is None or entry.role == Role.PASSIVE for places in planned.entries.values() for entry in places.values()
    )
    assert planned.unplaced["a"].reason == Reason.ALREADY_STARTED


def one_copy_left_that_is_passive() -> tuple[PlannedHub, str]:
    """A hub that goes back to one copy, and the member that may still run the active one."""
    hub, away = one_that_may_not_have_heard(members=5)
    hub.write(plan(hub.snapshot()))
    hub.spec = hub_spec()
    return hub, away


@pytest.mark.parametrize("workload", ["w", "edited"])
def test_a_hub_that_goes_back_to_one_copy_makes_none_active_while_another_may_be(workload: str) -> None:
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


def test_nor_does_it_move_the_passive_one_to_where_it_would_be_active() -> None:
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


def with_pods(hub: PlannedHub, id_: str) -> dict[str, ChildPod]:
    """A Pod for each copy of the child, as its entry is now; by member."""
    pods = {
        name: ChildPod(name, f"pod of {id_} for {name}", str(entry.started_with), entry.role)
        for name, entry in hub.record[id_].items()
    }
    hub.pods = {id_: tuple(pods.values())}
    return pods


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


def test_a_pod_of_an_earlier_run_on_a_member_that_has_the_child_again_holds_up_a_promotion() -> None:
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


def test_the_pods_of_copies_that_step_back_hold_up_every_promotion_until_they_are_gone() -> None:
    hub = replicated(3, "ActiveActive")
    hub.want([child("a")])
    hub.rest()
    pods = with_pods(hub, "a")
    hub.spec = replicated(3).spec
    hub.rest()
    first = active(hub, "a")
    others = sorted(pods.keys() - {first})
    assert [hub.record["a"][name].role for name in others] == [Role.PASSIVE] * 2

    # The active one is gone for good, its Pod too. Those that are to be passive act as active until they are gone.
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
def test_copies_that_were_pods_are_started_as_something_else_only_when_those_are_gone(away: bool) -> None:
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


def test_it_is_said_that_a_pod_of_a_lost_member_keeps_a_bound_child_from_being_promoted() -> None:
    hub = replicated(2, strategy="Guided")
    hub.want([child("a", nodes=("hub-0", "hub-1"))])
    hub.rest()
    with_pods(hub, "a")

    lose(hub, "hub-0")
    hub.rest()

    assert hub.record["a"]["hub-1"].role == Role.PASSIVE
    assert "its pod pod of a for hub-0 is still there" in plan(hub.snapshot()).unplaced["a"].message


def test_drained_copies_leave_once_others_are_up() -> None:
    hub = replicated(2, members=3)
    hub.want(children_of(30))
    hub.rest()
    hub.change("hub-0", draining=True)

    first = hub.step()
    assert not any(entry is None for entry in first.entries.get("hub-0", {}).values())
    hub.rest()

    assert not hub.on("hub-0")
    assert all(len(hub.roles(id_)) == 2 and active(hub, id_) for id_ in hub.children)


def test_a_drain_keeps_to_the_budget() -> None:
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
    assert 30 < moved < 110  # a fifth of the copies, less the active ones that stay
    assert not hub.members["hub-4"].joining


def test_copies_are_spread_over_zones_and_nodes_where_they_can() -> None:
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


def test_guided_copies_are_where_they_are_mapped_and_the_first_is_active() -> None:
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


def test_changed_nodes_bring_the_new_copy_up_before_the_old_one_ends() -> None:
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


# moves by hand


def passive(hub: PlannedHub, id_: str) -> str:
    """A member with a passive copy."""
    return next(name for name, role in sorted(hub.roles(id_).items()) if role == Role.PASSIVE)


def without(hub: PlannedHub, id_: str) -> str:
    """A member without a copy."""
    return next(name for name in hub.members if name not in hub.record[id_])


def in_rounds_of_late_members(hub: PlannedHub, id_: str, rounds: int = 12) -> list[dict[str, str]]:
    """The roles in each round where members act only on what was written in the round before; no two are active."""
    seen = []
    for _ in range(rounds):
        hub.write(plan(hub.snapshot()))
        roles = [role for role in hub.roles(id_).values() if role == Role.ACTIVE]
        allowed = [entry for entry in hub.record[id_].values() if entry.role == Role.ACTIVE]
        assert len(roles) <= 1
        assert len(allowed) <= 1
        assert not (roles and allowed) or active(hub, id_) == next(
            name for name, entry in hub.record[id_].items() if entry.role == Role.ACTIVE
        ), "one is made active while another is"
        hub.acknowledge()
        seen.append(hub.roles(id_))
    return seen


def test_a_move_to_a_passive_copy_makes_it_the_active_one_after_the_other_stepped_back() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    before, target = active(hub, "a"), passive(hub, "a")
    run = hub.record["a"][target].started_with

    hub.move_requests = {"a": target}
    first = plan(hub.snapshot())
    seen = in_rounds_of_late_members(hub, "a")

    assert [(move.source, move.target, move.why) for move in first.moves] == [(before, target, "it was asked for")]
    assert first.entries.keys() == {before}
    assert seen[0] == {before: Role.PASSIVE, target: Role.PASSIVE}
    assert hub.roles("a") == {before: Role.PASSIVE, target: Role.ACTIVE}
    assert hub.record["a"][target].started_with == run, "it runs on"
    assert (hub.answers, hub.move_requests) == ({"a": ""}, {})


def test_a_move_to_a_member_without_a_copy_brings_one_up_there_before_the_active_one_ends() -> None:
    hub = replicated(2, members=4)
    hub.want([child("a")])
    hub.rest()
    before, stays, target = active(hub, "a"), passive(hub, "a"), without(hub, "a")

    hub.move_requests = {"a": target}
    seen = in_rounds_of_late_members(hub, "a")

    assert seen[0] == {before: Role.ACTIVE, stays: Role.PASSIVE, target: Role.PASSIVE}
    assert seen[1] == {stays: Role.PASSIVE, target: Role.PASSIVE}
    assert hub.roles("a") == {stays: Role.PASSIVE, target: Role.ACTIVE}
    assert (hub.answers, plan(hub.snapshot()).empty) == ({"a": ""}, True)


def test_where_all_copies_are_active_the_one_that_is_placed_worst_moves() -> None:
    hub = replicated(2, "ActiveActive", members=4)
    hub.want([child("a")])
    hub.rest()
    order = ranked(hub, "a")
    assert set(hub.roles("a")) == set(order[:2])

    hub.move_requests = {"a": order[3]}
    planned = hub.step()
    assert set(hub.roles("a")) == {order[0], order[1], order[3]}
    assert [(move.source, move.target) for move in planned.moves] == [(order[1], order[3])]
    hub.rest()

    assert hub.roles("a") == {order[0]: Role.ACTIVE, order[3]: Role.ACTIVE}
    assert hub.answers == {"a": ""}


def test_a_single_copy_of_a_hub_that_would_keep_more_moves_too() -> None:
    hub = replicated(1)
    hub.want([child("a")])
    hub.rest()
    target = without(hub, "a")

    hub.move_requests = {"a": target}
    in_rounds_of_late_members(hub, "a")

    assert hub.roles("a") == {target: Role.ACTIVE}


def test_a_move_to_where_it_is_as_asked_changes_nothing() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    hub.move_requests = {"a": active(hub, "a")}

    assert hub.step().empty
    assert hub.answers == {"a": ""}


@pytest.mark.parametrize("there", [True, False])
def test_a_move_waits_for_its_budget_and_says_so(there: bool) -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    target = passive(hub, "a") if there else without(hub, "a")
    hub.move_requests = {"a": target}

    planned = hub.step(budget=0)
    assert (dict(planned.entries), planned.pending_moves) == ({}, 1)
    planned = hub.step(budget=1)
    assert planned.planned_moves == 1
    hub.rest(budget=0)

    assert active(hub, "a") == target


def test_an_active_copy_does_not_step_back_while_the_other_could_not_be_active_yet() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    hub.move_requests = {"a": passive(hub, "a")}
    third = without(hub, "a")

    hub.change(third, possibly_running=frozenset({"a"}))  # of which nobody knows what it is
    assert plan(hub.snapshot()).empty
    hub.change(third, possibly_running=frozenset(), settled=False)
    assert plan(hub.snapshot()).empty
    hub.change(third, settled=True)

    assert not plan(hub.snapshot()).empty


def test_nor_while_the_copy_that_was_asked_for_does_not_run() -> None:
    hub = replicated(2, members=4)
    hub.want([child("a")])
    hub.rest()
    before, target = active(hub, "a"), without(hub, "a")
    hub.move_requests = {"a": target}
    hub.write(plan(hub.snapshot()))
    hub.acknowledge(*(name for name in hub.members if name != target))

    planned = plan(hub.snapshot())

    assert (planned.empty, planned.moving) == (True, 1)
    assert active(hub, "a") == before


def test_a_member_that_is_lost_amid_a_move_leaves_the_child_to_another_copy() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    before, target = active(hub, "a"), passive(hub, "a")
    hub.move_requests = {"a": target}
    hub.step()
    assert set(hub.roles("a").values()) == {Role.PASSIVE}

    lose(hub, target)
    hub.rest()

    assert active(hub, "a") == before
    assert hub.answers == {"a": f"member {target} is not ready"}


def test_a_copy_that_failed_takes_no_role_from_one_that_runs() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    before, stays, target = active(hub, "a"), passive(hub, "a"), without(hub, "a")
    hub.move_requests = {"a": target}
    hub.step()
    hub.states = {("a", target): State.FAILED}
    hub.rest()

    assert hub.answers == {"a": f"its copy on {target} does not run"}
    assert hub.roles("a") == {before: Role.ACTIVE, stays: Role.PASSIVE}


def test_one_that_ends_when_it_is_its_turn_is_not_waited_for() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    before, target = active(hub, "a"), passive(hub, "a")
    hub.move_requests = {"a": target}
    hub.step()
    hub.states = {("a", target): State.PENDING}
    hub.rest()
    assert active(hub, "a") == before
    assert hub.answers == {"a": f"its copy on {target} did not run when there was no active one"}

    hub.states = {}
    hub.rest()
    assert active(hub, "a") == before


def test_a_copy_with_a_pod_becomes_active_when_the_pod_of_the_one_that_stepped_back_is_gone() -> None:
    hub = replicated(2)
    hub.want([child("a", workload=POD, pod=True)])
    hub.rest()
    pods = with_pods(hub, "a")
    before, target = active(hub, "a"), passive(hub, "a")

    hub.move_requests = {"a": target}
    hub.rest()
    assert {entry.role for entry in hub.record["a"].values()} == {Role.PASSIVE}
    hub.pods = {"a": (pods[target],)}
    hub.rest()

    assert active(hub, "a") == target
    assert str(hub.record["a"][target].started_with) == pods[target].run, "its Pod runs on"
    assert hub.roles("a")[before] == Role.PASSIVE


def test_a_drained_active_copy_goes_to_where_it_was_asked_for() -> None:
    hub = replicated(2, members=4)
    hub.want([child("a")])
    hub.rest()
    before, target = active(hub, "a"), ranked(hub, "a")[-1]
    hub.change(before, draining=True)
    hub.move_requests = {"a": target}
    hub.rest()

    assert active(hub, "a") == target
    assert len(hub.roles("a")) == 2
    assert before not in hub.roles("a")


@pytest.mark.parametrize("model", ["ActivePassive", "ActiveActive"])
def test_a_child_of_which_all_copies_are_on_drained_members_goes_to_where_it_was_asked_for(model: str) -> None:
    hub = replicated(2, model, members=5)
    hub.want([child("a")])
    hub.rest()
    target = ranked(hub, "a")[-1]
    for name in hub.record["a"]:
        hub.change(name, draining=True)
    hub.move_requests = {"a": target}

    assert plan(hub.snapshot(budget=0)).move_results == {}, "it waits for the budget"
    hub.rest()

    assert hub.answers == {"a": ""}
    assert hub.roles("a")[target] == Role.ACTIVE
    assert len(hub.roles("a")) == 2


def test_roles_of_bound_children_change_by_hand_and_their_places_do_not() -> None:
    hub = replicated(2, strategy="Guided")
    hub.want([child("a", nodes=("hub-0", "hub-1")), child("b", nodes=("hub-0", "hub-1"))])
    hub.rest()
    hub.move_requests = {"a": "hub-1", "b": "hub-2"}
    hub.rest()
    assert hub.roles("a") == {"hub-0": Role.PASSIVE, "hub-1": Role.ACTIVE}
    assert hub.roles("b") == {"hub-0": Role.ACTIVE, "hub-1": Role.PASSIVE}
    assert hub.answers == {"a": "", "b": "its spec.nodes names where it is; edit that"}

    hub = replicated(2)
    hub.want([child("p", pinned=True)])
    hub.rest()
    target = passive(hub, "p")
    hub.move_requests = {"p": without(hub, "p")}
    hub.rest()
    assert hub.answers == {"p": "it is pinned; set spec.pinned to false first"}
    hub.move_requests = {"p": target}
    hub.rest()
    assert active(hub, "p") == target


def test_on_a_hub_that_runs_a_child_everywhere_only_its_role_can_move() -> None:
    hub = PlannedHub(3, hub_spec(strategy="ForEach"))
    hub.want([child("a")])
    hub.rest()
    hub.change("hub-3", weight=0)
    hub.move_requests = {"a": "hub-3"}
    hub.step()
    assert hub.answers == {"a": "the hub runs it on every member"}

    hub = replicated(2, strategy="ForEach")
    hub.want([child("a")])
    hub.rest()
    target = passive(hub, "a")
    hub.move_requests = {"a": target}
    hub.rest()
    assert active(hub, "a") == target
    assert len(hub.roles("a")) == 3


def test_a_move_of_copies_that_can_not_be_is_refused_with_a_sentence() -> None:
    hub = replicated(2, members=5)
    hub.want([child("a")])
    hub.rest()
    first, second, third = [name for name in hub.members if name not in hub.record["a"]]
    hub.change(first, draining=True)
    hub.change(second, phase=Phase.HELD)
    hub.change(third, weight=0)
    for name, sentence in (
        ("hub-9", "the hub has no member 'hub-9'; its members are hub-0, hub-1, hub-2, hub-3, hub-4"),
        (first, f"member {first} is drained"),
        (second, f"member {second} is not ready"),
        (third, f"member {third} has weight 0, so it takes no copies"),
    ):
        hub.move_requests = {"a": name}
        assert not hub.step().entries
        assert hub.answers.pop("a") == sentence

    hub.change(first, draining=False)
    hub.children["a"] = msgspec.structs.replace(hub.children["a"], refused=True)
    hub.move_requests = {"gone": first, "a": first}
    hub.step()
    assert hub.answers == {
        "gone": "it is not placed yet, or suspended",
        "a": "its last edit is not accepted; correct that first",
    }


def test_a_full_member_takes_no_copy_by_hand() -> None:
    hub = replicated(2, members=3, max_children=1)
    hub.want([child("a")])
    hub.rest()
    target = without(hub, "a")
    hub.want([child("b")])
    hub.rest()
    assert hub.on(target) == {"b"}

    hub.move_requests = {"a": target}
    assert hub.step().empty
    assert hub.answers == {"a": f"{target} has its 1 children (spec.members.maxChildren)"}


# drains by force


def bound_twice(kind: str, model: str = "ActivePassive") -> PlannedHub:
    """A child with copies on hub-0 (the first) and hub-1."""
    hub = replicated(2, model, members=2, strategy="Guided" if kind == "guided" else "ConsistentHashing")
    hub.want([child("a", nodes=("hub-0", "hub-1")) if kind == "guided" else child("a", pinned=True)])
    hub.rest()
    assert set(hub.roles("a")) == {"hub-0", "hub-1"}
    return hub


@pytest.mark.parametrize("kind", ["guided", "pinned"])
def test_a_drain_names_bound_copies_and_leaves_them_running(kind: str) -> None:
    hub = bound_twice(kind)
    for name in ("hub-0", "hub-1"):
        hub.change(name, draining=True)
        hub.rest()

        assert set(hub.roles("a")) == {"hub-0", "hub-1"}
        assert plan(hub.snapshot()).stranded == {name: ("a",)}
        hub.change(name, draining=False)


@pytest.mark.parametrize("kind", ["guided", "pinned"])
@pytest.mark.parametrize("model", ["ActivePassive", "ActiveActive"])
def test_force_stops_bound_copies_and_they_come_back_when_the_member_does(kind: str, model: str) -> None:
    hub = bound_twice(kind, model)
    drained = next(name for name, role in hub.roles("a").items() if role == Role.ACTIVE)
    (other,) = hub.roles("a").keys() - {drained}

    hub.change(drained, draining=True, forced=True)
    in_rounds = [hub.step() for _ in range(5)]
    assert hub.roles("a") == {other: Role.ACTIVE}
    assert in_rounds[-1].empty
    assert not in_rounds[-1].stranded
    assert "a" not in in_rounds[-1].unplaced
    hub.change(drained, wanted=False)
    assert plan(hub.snapshot()).stranded == {drained: ("a",)}, "its entry keeps a member that is to go for good"

    hub.change(drained, wanted=True, draining=False, forced=False)
    hub.rest()
    back = Role.ACTIVE if model == "ActiveActive" else Role.PASSIVE
    assert hub.roles("a") == {other: Role.ACTIVE, drained: back}


@pytest.mark.parametrize("kind", ["guided", "pinned"])
def test_where_all_members_of_a_bound_child_are_drained_by_force_it_waits_for_them(kind: str) -> None:
    hub = bound_twice(kind)
    hub.change("hub-2", joining=True)
    for name in ("hub-0", "hub-1"):
        hub.change(name, draining=True, forced=True)
    hub.rest()
    assert hub.roles("a") == {}
    asleep = plan(hub.snapshot())
    assert asleep.unplaced["a"].reason is Reason.MEMBER_UNAVAILABLE
    assert not asleep.stranded

    hub.change("hub-1", draining=False, forced=False)
    hub.rest()
    assert hub.roles("a") == {"hub-1": Role.ACTIVE}


def test_a_pinned_copy_waits_for_its_lost_member_where_fewer_are_left_than_copies() -> None:
    hub = bound_twice("pinned")

    lose(hub, "hub-0")
    hub.rest()
    assert hub.roles("a") == {"hub-1": Role.ACTIVE}
    hub.change("hub-0", phase=Phase.LIVE)
    hub.rest()

    assert hub.roles("a") == {"hub-1": Role.ACTIVE, "hub-0": Role.PASSIVE}


def test_a_copy_that_was_stopped_by_force_starts_again_when_nothing_is_left_of_it() -> None:
    hub = bound_twice("guided")
    pods = with_pods(hub, "a")
    hub.change("hub-1", draining=True, forced=True)
    hub.write(plan(hub.snapshot()))
    hub.change("hub-1", draining=False, forced=False, possibly_running=frozenset({"a"}))
    assert not plan(hub.snapshot()).entries
    hub.change("hub-1", possibly_running=frozenset())
    assert not plan(hub.snapshot()).entries, "its Pod is there"

    hub.pods = {"a": (pods["hub-0"],)}
    hub.rest()

    assert hub.roles("a") == {"hub-0": Role.ACTIVE, "hub-1": Role.PASSIVE}


def test_no_other_copy_is_made_active_before_the_one_that_is_stopped_by_force_has_ended() -> None:
    hub = bound_twice("guided")
    hub.change("hub-0", draining=True, forced=True)

    hub.write(plan(hub.snapshot()))
    for _ in range(3):
        waiting = plan(hub.snapshot())
        assert not waiting.entries
        assert waiting.unplaced["a"].reason is Reason.ALREADY_STARTED
    hub.acknowledge()
    hub.rest()

    assert hub.roles("a") == {"hub-1": Role.ACTIVE}


@pytest.mark.parametrize("model", ["ActivePassive", "ActiveActive"])
def test_a_pinned_child_of_a_hub_that_goes_back_to_one_copy_stays_where_it_runs(model: str) -> None:
    hub = bound_twice("pinned", model)
    asleep = active(hub, "a") if model == "ActivePassive" else "hub-0"
    (other,) = hub.roles("a").keys() - {asleep}
    hub.change(asleep, draining=True, forced=True)
    hub.rest()
    hub.change(asleep, draining=False, forced=False, phase=Phase.HELD, ended=True)
    hub.rest()

    hub.spec = hub_spec()
    hub.rest()
    hub.change(asleep, phase=Phase.LIVE, ended=False)
    hub.rest()

    assert hub.where() == {"a": other}
    assert set(hub.record["a"]) == {other}


def test_copies_that_are_not_bound_leave_a_member_that_is_drained_by_force_as_any() -> None:
    hub = replicated(2, members=3)
    hub.want(children_of(12))
    hub.rest()
    hub.change("hub-0", draining=True, forced=True)
    hub.rest()

    assert not hub.on("hub-0")
    assert all(len(hub.roles(id_)) == 2 and active(hub, id_) for id_ in hub.children)


MEMBERS = [f"hub-{number}" for number in range(5)]
POD = "pod"  # the workload of a child that is a Pod of its own
IDS = [f"tenant/{number}" for number in range(6)]
members = st.sampled_from(MEMBERS)
ids = st.sampled_from(IDS)


# copies by other strategies


def test_copies_by_number_are_on_the_number_s_member_and_the_hash_s_best_besides() -> None:
    hub = replicated(2, strategy="Modulo")
    hub.want(child(str(number)) for number in range(12))
    hub.rest()

    for number in range(12):
        home = f"hub-{number % 3}"
        others = [name for name in ranked(hub, str(number)) if name != home]
        assert set(hub.roles(str(number))) == {home, others[0]}
        assert active(hub, str(number)) == home


def test_copies_of_local_children_are_at_the_origin_and_of_not_local_ones_never() -> None:
    hub = replicated(2, strategy="Local")
    hub.want(child(f"c{number}", origin="hub-1") for number in range(8))
    hub.rest()
    assert {active(hub, id_) for id_ in hub.children} == {"hub-1"}

    hub = replicated(3, strategy="NotLocal")
    hub.want(child(f"c{number}", origin="hub-1") for number in range(8))
    hub.rest()
    assert all(set(hub.roles(id_)) == {"hub-0", "hub-2"} for id_ in hub.children)

    hub = replicated(2, members=1, strategy="NotLocal")
    hub.want([child("a", origin="hub-0")])
    (why,) = hub.step().unplaced.values()
    assert "its origin" in why.message


def test_copies_go_by_turns() -> None:
    hub = replicated(2, strategy="RoundRobin")
    hub.want(child(f"c{number}") for number in range(3))
    hub.rest()

    assert [set(hub.roles(f"c{number}")) for number in range(3)] == [
        {"hub-0", "hub-1"},
        {"hub-2", "hub-0"},
        {"hub-1", "hub-2"},
    ]


def test_copies_go_to_the_least_loaded() -> None:
    hub = replicated(2, members=4, strategy="LeastLoaded")
    hub.want(children_of(20))
    hub.rest()

    assert Counter(name for id_ in hub.children for name in hub.roles(id_)) == {f"hub-{n}": 10 for n in range(4)}


@pytest.mark.parametrize("strategy", ["RoundRobin", "LeastLoaded"])
def test_a_joiner_takes_no_more_than_its_share_of_balanced_copies(strategy: str) -> None:
    hub = replicated(2, strategy=strategy)
    hub.want(children_of(30))
    hub.rest()

    hub.change("hub-3", joining=True)
    hub.rest(budget=4)

    assert 10 <= len(hub.on("hub-3")) <= 15


@dataclass
class ModelPod:
    """A Pod of a child: the incarnation that it is, and what it was told last."""

    id: str
    member: str
    uid: str
    run: int
    role: str = Role.PASSIVE  # as each begins
    granted: bool = False  # its entry was active: from then on it may act

    def is_run_of(self, member: str, entry: Assignment) -> bool:
        return (self.member, self.uid, self.run) == (member, entry.uid, entry.started_with)


class ReplicatedLife(RuleBasedStateMachine):
    """One hub with standby copies; members act late, come, go, restart and are drained; factors and children change."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = replicated(2)
        self.hub.want(child(id_, workload=POD if id_ in IDS[:3] else "w", pod=id_ in IDS[:3]) for id_ in IDS[:4])
        self.hub.want([child(IDS[1], pinned=True), child(IDS[4], nodes=("hub-0", "hub-1"))])
        self.pods: list[ModelPod] = []
        self.uids = 0
        self.highest: dict[str, int] = {}

    @initialize()
    def all_run(self) -> None:
        """Most of what can go wrong goes wrong later."""
        self.hub.rest()
        self._make_pods()
        self.pods_are_told()
        for pod in self.pods:
            pod.granted = pod.role == Role.ACTIVE

    @rule(
        id_=ids,
        pinned=st.booleans(),
        nodes=st.sampled_from([(), (), ("hub-0", "hub-1"), ("hub-2", "hub-0")]),
        origin=members,
    )
    def child_created_or_made_anew(self, id_: str, pinned: bool, nodes: tuple[str, ...], origin: str) -> None:
        self.uids += 1
        self.hub.want([child(id_, uid=f"u{self.uids}", pinned=pinned, nodes=nodes, origin=origin)])

    @rule(id_=ids)
    def child_deleted(self, id_: str) -> None:
        self.hub.children.pop(id_, None)
        self.hub.move_requests.pop(id_, None)

    @rule(id_=ids, workload=st.sampled_from(["w", "w2", POD]))
    def child_edited(self, id_: str, workload: str) -> None:
        if present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, workload=workload, pod=workload == POD)])

    @rule(id_=ids, suspended=st.booleans())
    def child_suspended_or_resumed(self, id_: str, suspended: bool) -> None:
        if present := self.hub.children.get(id_):
            self.hub.want([msgspec.structs.replace(present, suspended=suspended)])

    @precondition(lambda self: self._copies())
    @rule(id_=ids, number=st.integers(0, 4), forced=st.booleans(), acting=st.lists(st.sets(members), max_size=4))
    def suspended_drained_and_resumed(self, id_: str, number: int, forced: bool, acting: list[set[str]]) -> None:
        """One member of its copies is drained meanwhile; some members act, some rounds late."""
        places = sorted(self.hub.record.get(id_, {}))
        if not places or id_ not in self.hub.children:
            return
        self.child_suspended_or_resumed(id_, suspended=True)
        for names in acting:
            self.rounds_go(100, 1)
            self.some_members_act(names)
        self.hub.change(places[number % len(places)], draining=True, wanted=True, forced=forced)
        for names in acting[:2]:
            self.rounds_go(100, 1)
            self.some_members_act(names)
        self.child_suspended_or_resumed(id_, suspended=False)

    @rule(name=members)
    def member_lost(self, name: str) -> None:
        if name in self.hub.members:
            self.hub.change(name, phase=Phase.GONE, ended=False, possibly_running=frozenset())

    @rule(name=members, ended=st.booleans())
    def member_restarts(self, name: str, ended: bool) -> None:
        if name in self.hub.members and self.hub.members[name].phase is Phase.LIVE:
            self.hub.change(name, phase=Phase.HELD, ended=ended)

    @rule(name=members)
    def member_there(self, name: str) -> None:
        joining = name not in self.hub.members or self.hub.members[name].joining
        self.hub.change(name, phase=Phase.LIVE, ended=False, joining=joining)

    @rule(name=members, draining=st.booleans())
    def member_drained_or_not(self, name: str, draining: bool) -> None:
        if name in self.hub.members:
            self.hub.change(name, draining=draining, wanted=not draining, forced=False)

    @rule(
        name=members,
        forced=st.sampled_from([None, False, True, True]),
        acting=st.lists(st.sets(members), min_size=1, max_size=3),
    )
    def member_drained_by_hand_or_not(self, name: str, forced: bool | None, acting: list[set[str]]) -> None:
        """``forced`` None: it takes its share again. Then some members act, some rounds late."""
        if name in self.hub.members:
            self.hub.change(name, draining=forced is not None, wanted=True, forced=bool(forced))
        for names in acting:
            self.rounds_go(100, 1)
            self.some_members_act(names)

    @rule(
        factor=st.sampled_from([1, 2, 3, "ClusterSize"]),
        model=st.sampled_from(["ActivePassive", "ActivePassive", "Singularity"]),
        strategy=st.sampled_from(
            ["ConsistentHashing", "RoundRobin", "LeastLoaded", "Modulo", "Local", "NotLocal"],
        ),
    )
    def hub_edited(self, factor: int | str, model: str, strategy: str) -> None:
        redundancy = {"strategy": "Replication", "replicationFactor": factor, "replicationModel": model}
        changed = strategy != self.hub.spec.distribution.strategy
        self.hub.spec = hub_spec(
            strategy=strategy, notLocalFallback="Local", redundancy={} if model == "Singularity" else redundancy
        )
        if changed:
            self.hub.resettle()

    @rule(id_=ids, name=members)
    def move_asked_for(self, id_: str, name: str) -> None:
        if id_ in self.hub.children:
            self.hub.move_requests[id_] = name

    @precondition(lambda self: self._copies())
    @rule(id_=ids, number=st.integers(0, 4), acting=st.lists(st.sets(members), max_size=4))
    def role_asked_for(self, id_: str, number: int, acting: list[set[str]]) -> None:
        """For a copy that there is; then some members act, some rounds late."""
        if id_ in self.hub.children and (places := sorted(self.hub.record.get(id_, {}))):
            self.hub.move_requests[id_] = places[number % len(places)]
        for names in acting:
            self.rounds_go(100, 1)
            self.some_members_act(names)

    @rule(names=st.sets(members))
    def some_members_act(self, names: set[str]) -> None:
        self.hub.acknowledge(*(names & self.hub.members.keys()) or ["hub-0"])
        self._make_pods()

    def _make_pods(self) -> None:
        """What a member was told to run, and has on record still."""
        for name, member in self.hub.members.items():
            for id_, entry in self.hub.running[name].items():
                if entry.workload != POD or member.dead or self.hub.record.get(id_, {}).get(name) != entry:
                    continue
                if not any(pod.id == id_ and (pod.member == name or not self._copies()) for pod in self.pods):
                    self.pods.append(ModelPod(id_, name, entry.uid, entry.started_with))
        self._tell_of_pods()

    @rule()
    def pods_are_told(self) -> None:
        """Where an entry means the same incarnation, its Pod learns of its role."""
        for pod in self.pods:
            entry = self.hub.record.get(pod.id, {}).get(pod.member)
            if entry is not None and pod.is_run_of(pod.member, entry):
                pod.role = entry.role
        self._tell_of_pods()

    @precondition(lambda self: any(pod.role == Role.ACTIVE for pod in self.pods))
    @rule(number=st.integers(0, 11), ended=st.booleans())
    def member_of_an_active_pod_lost_or_restarts(self, number: int, ended: bool) -> None:
        acting = [pod.member for pod in self.pods if pod.role == Role.ACTIVE]
        name = acting[number % len(acting)]
        if ended:
            self.member_restarts(name, ended=True)
        else:
            self.member_lost(name)

    @rule(some=st.sets(ids))
    def pods_end(self, some: set[str]) -> None:
        """Those that nobody asks for any more, as soon or as late as their nodes will."""
        self.pods = [pod for pod in self.pods if pod.id not in some or self._asked_for(pod)]
        self._tell_of_pods()

    @precondition(lambda self: self.pods)
    @rule(number=st.integers(0, 11))
    def pod_deleted_by_hand(self, number: int) -> None:
        del self.pods[number % len(self.pods)]
        self._tell_of_pods()

    def _copies(self) -> bool:
        return self.hub.spec.redundancy.strategy != "Singularity"

    def _asked_for(self, pod: ModelPod) -> bool:
        entry = self.hub.record.get(pod.id, {}).get(pod.member)
        return entry is not None and not entry.wait and pod.is_run_of(pod.member, entry)

    def _tell_of_pods(self) -> None:
        found: dict[str, tuple[ChildPod, ...]] = {}
        for pod in self.pods:
            found[pod.id] = (*found.get(pod.id, ()), ChildPod(pod.member, "a pod", str(pod.run), pod.role))
        self.hub.pods = found

    @rule()
    def quorum_lost_or_back(self) -> None:
        self.hub.partitioned = "" if self.hub.partitioned else "too few members are live"

    @rule()
    def leader_changes(self) -> None:
        self.hub.next_epoch = (self.hub.next_epoch // FIRST_EPOCH + 1) * FIRST_EPOCH
        for name in self.hub.members:
            self.hub.change(name, settled=False)

    @rule(budget=st.sampled_from([0, 1, 100]), times=st.integers(1, 3))
    def rounds_go(self, budget: int, times: int) -> None:
        for _ in range(times):
            planned = plan(self.hub.snapshot(budget))
            self._check(planned)
            self.hub.write(planned)
            for pod in self.pods:
                entry = self.hub.record.get(pod.id, {}).get(pod.member)
                if entry is not None and pod.is_run_of(pod.member, entry) and entry.role == Role.ACTIVE:
                    pod.granted = True

    def _check(self, planned: Any) -> None:
        for name, entries in planned.entries.items():
            for id_, entry in entries.items():
                if entry is None or entry.role != Role.ACTIVE or entry.wait:
                    continue
                # A right to be active is given only while nobody else may act on one.
                others = [
                    other
                    for other in self.hub.members
                    if other != name
                    and self.hub.running[other].get(id_) is not None
                    and self.hub.running[other][id_].role == Role.ACTIVE
                ]
                assert not others, f"{id_} is to be active on {name} while it may be on {others}"
                before = self.hub.record.get(id_, {}).get(name)
                if before is not None and (before.started_with, before.role) == (entry.started_with, entry.role):
                    continue  # it is active already
                acts = [pod for pod in self.pods if pod.id == id_ and pod.granted and not pod.is_run_of(name, entry)]
                if entry.workload == POD:
                    acts = [pod for pod in acts if pod.member != name]  # which is in its way, by its name
                assert not acts, f"{id_} is to be active on {name} beside {acts}"
                assert entry.epoch >= self.highest.get(id_, 0)
                self.highest[id_] = entry.epoch

    @invariant()
    def no_id_is_active_twice(self) -> None:
        running = Counter(
            id_ for runs in self.hub.running.values() for id_, entry in runs.items() if entry.role == Role.ACTIVE
        )
        assert all(count == 1 for count in running.values()), running
        acting = Counter(pod.id for pod in self.pods if pod.role == Role.ACTIVE)
        assert all(count == 1 for count in acting.values()), self.pods

    @precondition(lambda self: self.hub.members)
    @rule(budget=st.sampled_from([1, 100]))
    def left_alone_it_comes_to_rest(self, budget: int) -> None:
        hub = self.hub
        hub.partitioned = ""
        hub.want(msgspec.structs.replace(each, suspended=False) for each in tuple(hub.children.values()))
        hub.acknowledge()
        for name, member in hub.members.items():
            if member.phase is not Phase.LIVE:
                hub.change(name, phase=Phase.GONE, ended=False, possibly_running=frozenset(), settled=True)
        for _ in range(10):
            hub.rest(budget, rounds=200)
            self.pods_end(set(IDS))
            self._make_pods()
            self.pods_are_told()
        assert plan(hub.snapshot(budget)).empty
        assert not hub.move_requests, "somebody asked for a move and got no answer"

        ready = {name for name, member in hub.members.items() if member.phase is Phase.LIVE and not member.draining}
        redundancy = hub.spec.redundancy
        factor = redundancy.replication_factor if redundancy.strategy == "Replication" else 1
        copies = len(ready) if factor == "ClusterSize" else min(int(factor), len(ready))
        for id_, wanted in hub.children.items():
            roles = hub.roles(id_)
            assert all(hub.running[name][id_].uid == wanted.uid for name in roles)
            assert all(hub.running[name][id_].workload == wanted.workload for name in roles)
            asleep = {name for name, member in hub.members.items() if member.draining and member.forced}
            assert not (wanted.bound and asleep & roles.keys()), f"{id_} has {roles}"
            if wanted.bound or not ready:
                # A Pod of a member that is gone may be the active one yet, as long as it is there.
                actives = Counter(roles.values())[Role.ACTIVE]
                assert not roles or actives == 1 or (actives == 0 and hub.pods.get(id_)), f"{id_} has {roles}"
                able = ready & hub.record.get(id_, {}).keys()
                assert actives == 1 or not able or hub.pods.get(id_), f"{id_} is not active, with copies on {able}"
                continue
            assert set(roles) <= ready
            assert len(roles) == copies, f"{id_} has {roles}, {copies} are asked for"
            assert Counter(roles.values())[Role.ACTIVE] == 1
        assert all(id_ in hub.children for runs in hub.running.values() for id_ in runs)


ReplicatedLife.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestReplicatedLife = ReplicatedLife.TestCase
