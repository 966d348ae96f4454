"""Requested moves, and forced drains, in the planner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from planned_hub import PlannedHub, child, hub_of

from processhub.api.reasons import Reason
from processhub.core.model.membership import Phase
from processhub.core.planning.planner import plan
from processhub.core.planning.single import SingleCopyPlanner
from processhub.core.strategies import strategy_of
from processhub.core.strategies.migration import migration_of

# move requests


def hub_with_a(**fields: object) -> PlannedHub:
    hub = hub_of("ConsistentHashing")
    hub.want([child("a", **fields)])
    hub.rest()
    return hub


def other(hub: PlannedHub) -> str:
    return next(name for name in hub.members if name not in hub.record["a"])


def test_a_requested_move_is_carried_out_once_and_has_a_result() -> None:
    hub = hub_with_a()
    target = other(hub)
    hub.move_requests = {"a": target}

    (first, *_) = hub.rest()

    assert [(move.target, move.why) for move in first.moves] == [(target, "a move was requested")]
    assert hub.where() == {"a": target}
    assert hub.answers == {"a": ""}


def test_a_requested_move_waits_for_the_budget() -> None:
    hub = hub_with_a()
    hub.move_requests = {"a": other(hub)}

    assert plan(hub.snapshot(budget=0)).pending_moves == 1
    assert not plan(hub.snapshot(budget=0)).move_results


def test_a_request_whose_result_was_lost_moves_no_child_again() -> None:
    hub = hub_with_a()
    target = other(hub)
    hub.move_requests = {"a": target}
    hub.rest()

    hub.move_requests = {"a": target}

    assert not plan(hub.snapshot()).moves
    assert plan(hub.snapshot()).move_results == {"a": ""}


def test_requests_that_cannot_be_applied_are_rejected_with_a_sentence() -> None:
    hub = hub_with_a()
    hub.change("hub-1", phase=Phase.HELD)
    target = other(hub)

    def answer(name: str) -> str:
        hub.move_requests = {"a": name}
        return plan(hub.snapshot()).move_results["a"]

    assert answer("hub-9") == "the hub has no member 'hub-9'; its members are hub-0, hub-1, hub-2"
    if target == "hub-1" or "hub-1" not in hub.record["a"]:
        assert answer("hub-1") == "member hub-1 is not ready"
    hub.change(target, phase=Phase.LIVE, draining=True)
    assert answer(target) == f"member {target} is drained"
    hub.change(target, draining=False)
    hub.children["a"] = msgspec.structs.replace(hub.children["a"], pinned=True)
    assert answer(target) == "it is pinned; set spec.pinned to false first"
    del hub.children["a"]
    assert answer(target) == "it is not placed yet, or suspended"


def test_a_request_for_a_child_with_a_rejected_edit_is_rejected_unless_it_has_to_leave() -> None:
    hub = hub_with_a(refused=True)
    before, target = hub.where(), other(hub)
    hub.move_requests = {"a": target}
    hub.rest()
    assert hub.answers == {"a": "its last edit is not accepted; correct that first"}
    assert hub.where() == before

    hub.move_requests = {"a": target}
    hub.change(before["a"], draining=True)
    hub.rest()
    assert hub.answers == {"a": ""}
    assert hub.where() == {"a": target}


def test_a_request_for_the_member_that_a_child_is_leaving_keeps_it_there() -> None:
    hub = hub_with_a()
    (source,) = hub.record["a"]
    hub.move_requests = {"a": other(hub)}
    hub.write(plan(hub.snapshot()))
    assert len(hub.record["a"]) == 2

    hub.move_requests, hub.answers = {"a": source}, {}
    hub.write(plan(hub.snapshot()))
    assert hub.answers == {}, "it is on its way"
    hub.acknowledge()
    hub.rest()

    assert hub.answers == {"a": ""}
    assert hub.where() == {"a": source}


def test_a_request_for_a_lost_member_is_rejected_even_if_the_child_was_there() -> None:
    hub = hub_with_a()
    (lost,) = hub.record["a"]
    hub.change(lost, phase=Phase.GONE)
    hub.move_requests = {"a": lost}
    hub.rest()

    assert hub.answers == {"a": f"member {lost} is not ready"}
    assert hub.where() != {"a": lost}


def test_a_rejection_names_a_few_of_many_members() -> None:
    hub = hub_of("ConsistentHashing", members=400)
    hub.want([child("a")])
    hub.rest()
    hub.move_requests = {"a": "hub-999"}

    named = ", ".join(sorted(hub.members)[:10])
    assert plan(hub.snapshot()).move_results == {
        "a": f"the hub has no member 'hub-999'; its members are {named} and 390 more"
    }


def test_many_requests_are_applied_like_a_single_one() -> None:
    hub = hub_of("ConsistentHashing", members=4)
    hub.want(child(f"c{number}") for number in range(40))
    hub.rest()
    hub.change("hub-3", draining=True)
    at = {id_: next(iter(places)) for id_, places in hub.record.items()}
    hub.move_requests = {id_: "hub-0" if member != "hub-0" else "hub-1" for id_, member in at.items()}

    planned = plan(hub.snapshot(budget=15))

    begun = {move.id: (move.source, move.target) for move in planned.moves}
    assert begun == {id_: (at[id_], name) for id_, name in list(hub.move_requests.items())[:15]}
    rest = [id_ for id_ in hub.move_requests if id_ not in begun]
    assert planned.pending_moves == len(rest) + sum(at[id_] == "hub-3" for id_ in rest), "ordered, and to be drained"


def test_the_requests_are_found_in_one_pass_over_the_children() -> None:
    looked = 0

    class Counted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    hub = hub_of("ConsistentHashing")
    hub.want(child(f"c{number}") for number in range(500))
    hub.rest()
    hub.move_requests = {id_: "hub-0" if "hub-0" not in places else "hub-1" for id_, places in hub.record.items()}
    strategy, migration = strategy_of("ConsistentHashing"), migration_of("ColdSwap")
    planner = SingleCopyPlanner(hub.snapshot(budget=0), strategy, migration, None)
    planner.follow_children()
    planner.movable = Counted(planner.movable)

    planner.apply_move_requests()

    assert looked <= 3 * len(hub.move_requests)


def test_a_full_member_gets_no_requested_child() -> None:
    hub = hub_of("ConsistentHashing", members=2, max_children=1)
    hub.want([child("a"), child("b")])
    hub.rest()
    hub.move_requests = {"a": other(hub)}

    assert plan(hub.snapshot()).move_results == {"a": f"{other(hub)} has its 1 child (spec.members.maxChildren)"}


# drains by force


def test_a_forced_drain_also_stops_a_child_that_waits_there_for_its_bound_member() -> None:
    hub = hub_of("Guided")
    hub.want([child("bound", nodes=("hub-1",))])
    hub.rest()
    hub.change("hub-0", phase=Phase.GONE)
    hub.want([child("bound", nodes=("hub-0",))])
    hub.rest()
    assert hub.where() == {"bound": "hub-1"}, "until its new member is there"

    hub.change("hub-1", draining=True)
    assert plan(hub.snapshot()).stranded == {"hub-1": ("bound",)}

    hub.change("hub-1", forced=True)
    hub.rest()
    assert hub.where() == {}
    assert plan(hub.snapshot()).unplaced["bound"].reason is Reason.MEMBER_UNAVAILABLE

    hub.change("hub-0", phase=Phase.LIVE)
    hub.rest()
    assert hub.where() == {"bound": "hub-0"}


def test_a_pinned_child_keeps_a_member_that_is_lost_as_it_is_scaled_away() -> None:
    hub = hub_of("Guided")
    hub.want([child("bound", pinned=True, nodes=("hub-1",)), child("moves", nodes=("hub-0",))])
    hub.rest()

    hub.change("hub-1", phase=Phase.GONE, wanted=False, draining=True)
    assert plan(hub.snapshot()).stranded == {"hub-1": ("bound",)}

    hub.change("hub-0", phase=Phase.GONE)
    assert plan(hub.snapshot()).stranded == {"hub-1": ("bound",)}


@pytest.mark.parametrize("fields", [{"pinned": True}, {"nodes": ("hub-1",)}])
def test_a_forced_drain_stops_bound_children_until_the_member_returns(fields: dict[str, object]) -> None:
    hub = hub_of("Guided")
    hub.change("hub-0", weight=0)
    hub.change("hub-2", weight=0)
    hub.want([child("bound", **fields)])
    hub.rest()
    assert hub.where() == {"bound": "hub-1"}

    hub.change("hub-1", draining=True)
    assert plan(hub.snapshot()).stranded == {"hub-1": ("bound",)}

    hub.change("hub-1", forced=True)
    hub.rest()
    asleep = plan(hub.snapshot())
    assert hub.where() == {}
    assert asleep.unplaced["bound"].reason is Reason.MEMBER_UNAVAILABLE
    assert not asleep.stranded
    if fields.get("pinned"):
        hub.change("hub-1", wanted=False)
        assert plan(hub.snapshot()).stranded == {"hub-1": ("bound",)}, "its entry keeps a member that is to go for good"

    hub.change("hub-1", wanted=True, draining=False, forced=False)
    hub.rest()
    assert hub.where() == {"bound": "hub-1"}
