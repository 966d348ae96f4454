"""Several copies of a child: requested moves."""

from __future__ import annotations

import msgspec
import pytest
from planned_copies import POD, active, in_rounds_of_late_members, lose, passive, ranked, replicated, with_pods, without
from planned_hub import PlannedHub, child, hub_spec

from processhub.api.reasons import Role, State
from processhub.core.model.membership import Phase
from processhub.core.planning.planner import plan


def test_a_move_to_a_passive_copy_makes_it_active_after_the_other_stepped_back() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    before, target = active(hub, "a"), passive(hub, "a")
    run = hub.record["a"][target].started_with

    hub.move_requests = {"a": target}
    first = plan(hub.snapshot())
    seen = in_rounds_of_late_members(hub, "a")

    assert [(move.source, move.target, move.why) for move in first.moves] == [(before, target, "a move was requested")]
    assert first.entries.keys() == {before}
    assert seen[0] == {before: Role.PASSIVE, target: Role.PASSIVE}
    assert hub.roles("a") == {before: Role.PASSIVE, target: Role.ACTIVE}
    assert hub.record["a"][target].started_with == run, "it runs on"
    assert (hub.answers, hub.move_requests) == ({"a": ""}, {})


def test_a_move_to_a_member_without_a_copy_starts_one_before_the_active_one_ends() -> None:
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


def test_if_all_copies_are_active_the_one_with_the_worst_place_moves() -> None:
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


def test_a_move_to_the_current_place_changes_nothing() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    hub.move_requests = {"a": active(hub, "a")}

    assert hub.step().empty
    assert hub.answers == {"a": ""}


@pytest.mark.parametrize("there", [True, False])
def test_a_move_waits_for_its_budget_and_reports_it(there: bool) -> None:
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


def test_an_active_copy_does_not_step_back_while_the_other_cannot_become_active() -> None:
    hub = replicated(2)
    hub.want([child("a")])
    hub.rest()
    hub.move_requests = {"a": passive(hub, "a")}
    third = without(hub, "a")

    hub.change(third, possibly_running=frozenset({"a"}))  # whose role is unknown
    assert plan(hub.snapshot()).empty
    hub.change(third, possibly_running=frozenset(), settled=False)
    assert plan(hub.snapshot()).empty
    hub.change(third, settled=True)

    assert not plan(hub.snapshot()).empty


def test_an_active_copy_does_not_step_back_while_the_requested_one_does_not_run() -> None:
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


def test_if_a_member_is_lost_during_a_move_another_copy_becomes_active() -> None:
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


def test_a_failed_copy_gets_no_role_of_a_running_one() -> None:
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


def test_a_copy_that_ends_at_its_turn_is_not_waited_for() -> None:
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


def test_a_drained_active_copy_moves_to_the_requested_member() -> None:
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
def test_a_child_with_all_copies_on_drained_members_moves_to_the_requested_member(model: str) -> None:
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


def test_requests_change_the_roles_but_not_the_places_of_bound_children() -> None:
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


def test_if_a_child_runs_on_every_member_only_its_role_can_move() -> None:
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


def test_an_impossible_move_of_copies_is_rejected_with_a_sentence() -> None:
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


def test_a_full_member_gets_no_copy_on_request() -> None:
    hub = replicated(2, members=3, max_children=1)
    hub.want([child("a")])
    hub.rest()
    target = without(hub, "a")
    hub.want([child("b")])
    hub.rest()
    assert hub.on(target) == {"b"}

    hub.move_requests = {"a": target}
    assert hub.step().empty
    assert hub.answers == {"a": f"{target} has its 1 child (spec.members.maxChildren)"}
