"""Several copies of a child: forced drains, and the copies of other strategies."""

from __future__ import annotations

from collections import Counter

import pytest
from planned_copies import active, bound_twice, lose, ranked, replicated, with_pods
from planned_hub import child, children_of, hub_spec

from processhub.api.reasons import Reason, Role
from processhub.core.model.membership import Phase
from processhub.core.planning.planner import plan


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
def test_a_forced_drain_stops_bound_copies_until_the_member_returns(kind: str, model: str) -> None:
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
def test_a_bound_child_waits_if_all_of_its_members_are_drained_by_force(kind: str) -> None:
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


def test_a_pinned_copy_waits_for_its_lost_member_if_there_are_fewer_members_than_copies() -> None:
    hub = bound_twice("pinned")

    lose(hub, "hub-0")
    hub.rest()
    assert hub.roles("a") == {"hub-1": Role.ACTIVE}
    hub.change("hub-0", phase=Phase.LIVE)
    hub.rest()

    assert hub.roles("a") == {"hub-1": Role.ACTIVE, "hub-0": Role.PASSIVE}


def test_a_pinned_child_whose_members_are_all_gone_names_them() -> None:
    hub = bound_twice("pinned")
    lose(hub, "hub-0")
    lose(hub, "hub-1")
    hub.rest()

    assert hub.roles("a").keys() <= {"hub-0", "hub-1"}
    why = plan(hub.snapshot()).unplaced["a"]
    assert why.reason is Reason.MEMBER_UNAVAILABLE
    assert why.message == "members hub-1, hub-0 are not ready; started when one of them is"


def test_a_copy_that_was_stopped_by_force_starts_again_once_it_has_ended() -> None:
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


def test_no_other_copy_becomes_active_before_the_one_stopped_by_force_has_ended() -> None:
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


def test_unbound_copies_leave_a_member_drained_by_force_as_in_any_drain() -> None:
    hub = replicated(2, members=3)
    hub.want(children_of(12))
    hub.rest()
    hub.change("hub-0", draining=True, forced=True)
    hub.rest()

    assert not hub.on("hub-0")
    assert all(len(hub.roles(id_)) == 2 and active(hub, id_) for id_ in hub.children)


# copies by other strategies


def test_copies_by_number_are_on_the_members_of_the_number_and_of_the_best_hash() -> None:
    hub = replicated(2, strategy="Modulo")
    hub.want(child(str(number)) for number in range(12))
    hub.rest()

    for number in range(12):
        home = f"hub-{number % 3}"
        others = [name for name in ranked(hub, str(number)) if name != home]
        assert set(hub.roles(str(number))) == {home, others[0]}
        assert active(hub, str(number)) == home


def test_copies_of_local_children_include_the_origin_and_those_of_not_local_ones_never_do() -> None:
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


def test_copies_are_placed_by_turns() -> None:
    hub = replicated(2, strategy="RoundRobin")
    hub.want(child(f"c{number}") for number in range(3))
    hub.rest()

    assert [set(hub.roles(f"c{number}")) for number in range(3)] == [
        {"hub-0", "hub-1"},
        {"hub-2", "hub-0"},
        {"hub-1", "hub-2"},
    ]


def test_copies_are_placed_on_the_least_loaded() -> None:
    hub = replicated(2, members=4, strategy="LeastLoaded")
    hub.want(children_of(20))
    hub.rest()

    assert Counter(name for id_ in hub.children for name in hub.roles(id_)) == {f"hub-{n}": 10 for n in range(4)}


@pytest.mark.parametrize("strategy", ["RoundRobin", "LeastLoaded"])
def test_a_new_member_gets_no_more_than_its_share_of_balanced_copies(strategy: str) -> None:
    hub = replicated(2, strategy=strategy)
    hub.want(children_of(30))
    hub.rest()

    hub.change("hub-3", joining=True)
    hub.rest(budget=4)

    assert 10 <= len(hub.on("hub-3")) <= 15


@pytest.mark.parametrize("model", ["ActivePassive", "ActiveActive"])
def test_copies_without_any_possible_member_keep_running_until_a_forced_drain(model: str) -> None:
    hub = replicated(2, model)
    hub.want([child("a")])
    hub.rest()
    roles = hub.roles("a")

    for name in list(hub.members):
        hub.change(name, draining=True)
    hub.rest()
    assert hub.roles("a") == roles
    assert plan(hub.snapshot()).stranded == dict.fromkeys(roles, ("a",))

    for name in list(hub.members):
        hub.change(name, forced=True)
    hub.rest()
    assert not hub.roles("a")
    assert plan(hub.snapshot()).unplaced["a"].reason is Reason.NO_MEMBERS
