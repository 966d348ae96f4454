"""Views in the operator: which hubs have them, and what it writes of them (docs/protocol.md, rules 26 to 33)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from a_round import a_round
from observing import observed_by

from builders import make_hub, make_member, make_slice
from processhub.api.hub import Hub
from processhub.api.reasons import State
from processhub.api.slice import Activation, ViewMember
from processhub.controller.observe.facts import learn
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.views import (
    ViewOrders,
    has_views,
    is_ready,
    look_at_views,
    must_close,
    orders_for,
    wanted_view,
)
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import Slices
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import HubSnapshot, MemberView, OnRecord
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload

EXEC = {"exec": {"command": ["x"]}}
NAMES = ("hub-0", "hub-1")
HOLDERS = {name: f"{name}/1" for name in NAMES}


def hub(**spec: Any) -> Hub:
    return make_hub(spec={"onDemand": EXEC, **spec}, uid="h")


def snapshot(of: Hub, *members: MemberView, record: dict[str, tuple[OnRecord, ...]] | None = None) -> HubSnapshot:
    members = members or tuple(MemberView(name=name) for name in NAMES)
    return HubSnapshot(spec=of.spec, members=members, children={}, record=record or {}, next_epoch=500)


def plan(next_epoch: int = 500, **changes: Any) -> Plan:
    return Plan(entries=changes, unplaced={}, next_epoch=next_epoch)


def demanded(epoch: int) -> Assignment:
    return Assignment(uid="h", epoch=epoch, workload="w", on_demand=True)


def members_with(
    orders: dict[str, Activation],
    entries: dict[str, dict[str, Assignment]] | None = None,
    reports: dict[str, dict[str, Report]] | None = None,
) -> dict[str, Member]:
    """Two live members, whose slice 0 has these orders and whose slice 1 has these entries."""
    return {
        name: make_member(
            name,
            make_slice(
                reports=(reports or {}).get(name), member=name, holder=HOLDERS[name], activation=orders.get(name)
            ),
            make_slice((entries or {}).get(name), member=name, index=1, holder=HOLDERS[name]),
            holder=HOLDERS[name],
        )
        for name in NAMES
    }


def written(
    of: Hub, members: dict[str, Member], after: Plan | None = None, seen: HubSnapshot | None = None, **more: Any
) -> ViewOrders:
    facts = look_at_views(members, frozenset(NAMES))
    return orders_for(of, members, seen or snapshot(of), after or plan(), facts, **more)


def test_the_first_view_is_opened_with_a_block_for_each_member() -> None:
    found = written(hub(), members_with({}))

    blocks = [(order.first_epoch, order.last_epoch) for _, order in sorted(found.orders.items())]
    assert blocks == [(502, 10_501), (10_502, 20_501)]
    assert {(order.view, order.phase) for order in found.orders.values()} == {(501, "Open")}
    assert found.next_epoch == 20_502
    assert not found.settled
    again = written(hub(), members_with(dict(found.orders)), plan(found.next_epoch))
    assert (again.orders, again.settled) == ({}, True)


@pytest.mark.parametrize(
    "spec",
    [
        {"onDemand": None},
        {"suspend": True},
        {"distribution": {"strategy": "LeastLoaded"}},
        {"redundancy": {"strategy": "Replication"}},
        {"onDemand": {"pod": {"template": {}}}},
        {"onDemand": {**EXEC, "onOwnerLost": "Local"}},
        {"onDemand": {**EXEC, "max": 19}},
        {"hooks": [{"name": "a", "event": "PreChildStart", "webhook": {"url": "http://x"}}]},
        {"hooks": [{"name": "a", "event": "PreChildStop", "webhook": {"url": "http://x"}}]},
    ],
)
def test_these_hubs_have_no_view(spec: dict[str, Any]) -> None:
    without, members = hub(**spec), members_with({})

    assert wanted_view(without, members, snapshot(without), 7) is None
    assert wanted_view(hub(onDemand={**EXEC, "max": 20}), members, snapshot(hub()), 7) is not None
    assert has_views(hub(distribution={"strategy": "Modulo"}))


@pytest.mark.parametrize("where", ["reported", "on record"])
def test_a_block_that_is_half_used_is_followed_by_the_next(where: str) -> None:
    orders = dict(written(hub(), members_with({})).orders)
    half = (orders["hub-1"].first_epoch + orders["hub-1"].last_epoch) // 2

    def with_one(epoch: int) -> dict[str, Member]:
        if where == "on record":
            return members_with(orders, {"hub-1": {"a": demanded(epoch)}})
        report = Report(uid="h", epoch=epoch, state=State.RUNNING, view=orders["hub-1"].view)
        return members_with(orders, reports={"hub-1": {"a": report}})

    assert written(hub(), with_one(half), plan(90_000)).orders == {}
    found = written(hub(), with_one(half + 1), plan(90_000)).orders
    assert found == {"hub-1": msgspec.structs.replace(orders["hub-1"], first_epoch=90_000, last_epoch=99_999)}


def test_many_members_get_smaller_blocks() -> None:
    view = tuple(ViewMember(name=f"hub-{number}", weight=1) for number in range(200))
    orders = {
        name: msgspec.structs.replace(order, members=view)
        for name, order in written(hub(), members_with({})).orders.items()
    }
    members = members_with({"hub-0": orders["hub-0"]})
    wanted = {f"hub-{number}": members["hub-0"] for number in range(200)} | members
    found = written(hub(), wanted, plan(90_000))

    assert {order.last_epoch - order.first_epoch + 1 for order in found.orders.values()} == {5000}


def test_the_next_view_waits_for_what_may_run_off_the_record_and_not_for_moves() -> None:
    of, nothing = hub(), look_at_views(members_with({}), frozenset(NAMES))
    place = {"a": (OnRecord("hub-0", demanded(7)),)}
    ends = MemberView(name="hub-1", possibly_running=frozenset({"a"}))

    assert is_ready(snapshot(of, ends, record=place), plan(), nothing), "it is on record where it moves to"
    assert not is_ready(snapshot(of, ends), plan(), nothing)
    moves = plan(**{"hub-1": {"a": demanded(8)}})
    assert is_ready(snapshot(of, record=place), moves, nothing)
    assert not is_ready(snapshot(of), moves, nothing), "it comes onto the record"
    assert not is_ready(snapshot(of, MemberView(name="hub-1", settled=False)), plan(), nothing)


def test_a_view_is_replaced_when_a_share_is_used_up_and_each_would_get_more() -> None:
    limited = hub(onDemand={**EXEC, "max": 20})
    orders = dict(written(limited, members_with({})).orders)
    assert {name: (order.share, order.most) for name, order in orders.items()} == {
        "hub-0": (10, 20),
        "hub-1": (10, 20),
    }

    def closes(*counts: int) -> bool:
        entries = {
            name: {f"{name}-{number}": demanded(number + 1) for number in range(count)}
            for name, count in zip(NAMES, counts, strict=True)
        }
        members = members_with(orders, entries)
        return must_close(look_at_views(members, frozenset(NAMES)), members, Slices())

    assert not closes(9, 0)
    assert closes(10, 0)
    assert closes(8, 10)
    assert not closes(9, 10), "one place is left: the next view would have it for one of them"
    assert not closes(10, 10)


@pytest.mark.parametrize(("phase", "closes"), [(Phase.LIVE, True), (Phase.HELD, True), (Phase.GONE, False)])
def test_a_view_is_replaced_when_a_member_may_run_what_a_deleted_slice_named(phase: Phase, closes: bool) -> None:
    """Also where the member is not in the view: it is being drained. One that has restarted may start what it named."""
    members, slices = members_with(dict(written(hub(), members_with({})).orders)), Slices()
    drained = make_member("hub-2", holder="hub-2/1")
    judgement = msgspec.structs.replace(drained.judgement, phase=phase)
    slices.lost.add("hub-2")

    facts = look_at_views(members, frozenset(NAMES))
    assert (
        must_close(facts, members | {"hub-2": msgspec.structs.replace(drained, judgement=judgement)}, slices) is closes
    )
    assert not must_close(facts, members, slices), "it was retired"


def test_a_member_that_may_start_none_has_no_share_to_use_up() -> None:
    """Its share of nothing counted as used up, and each view was replaced as soon as it was open."""
    limited = hub(onDemand={**EXEC, "max": 20})

    def closes(orders: dict[str, Activation], *ids: str) -> bool:
        members = weighted(orders, {"hub-0": {child_id: demanded(7) for child_id in ids}})
        return must_close(look_at_views(members, frozenset(NAMES)), members, Slices())

    def weighted(
        orders: dict[str, Activation], entries: dict[str, dict[str, Assignment]] | None = None
    ) -> dict[str, Member]:
        members = members_with(orders, entries)
        return {name: msgspec.structs.replace(it, weight=int(name == "hub-0")) for name, it in members.items()}

    orders = dict(written(limited, weighted({})).orders)
    assert {name: order.share for name, order in orders.items()} == {"hub-0": 20, "hub-1": 0}

    assert not closes(orders, "a")
    smaller = {**orders, "hub-0": msgspec.structs.replace(orders["hub-0"], share=1)}
    assert closes(smaller, "a"), "the next view has all other places for it"


def test_no_shares_are_made_while_a_child_counts_for_two_of_them() -> None:
    limited, there = hub(onDemand={**EXEC, "max": 20}), {"hub-0": {"a": demanded(7)}}
    record = {"a": (OnRecord("hub-0", demanded(7)),)}
    seen = snapshot(limited, record=record)
    begins = plan(**{"hub-1": {"a": msgspec.structs.replace(demanded(8), wait=True)}})

    assert written(limited, members_with({}, there), seen=seen).orders
    assert not written(limited, members_with({}, there), begins, seen).orders
    assert written(hub(), members_with({}, there), begins, seen).orders, "without a limit there are no shares"
    both = {**there, "hub-1": {"a": demanded(8)}}
    assert not written(limited, members_with({}, both), seen=seen).orders


def test_with_modulo_a_member_that_is_away_changes_nobodys_number() -> None:
    """The view counted one member fewer, so children were started where no number has them, and stayed there."""
    of, members = hub(distribution={"strategy": "Modulo"}), members_with({})
    away = msgspec.structs.replace(members["hub-0"].judgement, phase=Phase.GONE)
    leaves = msgspec.structs.replace(members["hub-0"].judgement, draining=True)

    for judgement in (away, leaves):
        without = {**members, "hub-0": msgspec.structs.replace(members["hub-0"], judgement=judgement)}
        view, by_hash = wanted_view(of, without, snapshot(of), 7), wanted_view(hub(), without, snapshot(of), 7)
        assert view is not None
        assert by_hash is not None
        assert (view.members, by_hash.members) == ((("hub-0", 0), ("hub-1", 1)), (("hub-1", 1),))

    none = {name: msgspec.structs.replace(member, weight=0) for name, member in members.items()}
    assert wanted_view(of, none, snapshot(of), 7) is None, "the operator says why nothing is started"


def test_a_changed_limit_is_another_view() -> None:
    limited = hub(onDemand={**EXEC, "max": 20})
    orders = dict(written(limited, members_with({})).orders)

    found = written(hub(onDemand={**EXEC, "max": 30}), members_with(orders), plan(90_000))

    assert {order.phase for order in found.orders.values()} == {"Closing"}
    assert not found.settled


@pytest.mark.parametrize(("epoch", "run", "held"), [(7, 0, True), (9, 7, True), (8, 0, False)])
def test_nothing_is_changed_of_a_child_whose_member_has_not_read_its_entry(epoch: int, run: int, held: bool) -> None:
    orders = dict(written(hub(), members_with({})).orders)
    digest, _ = encode_workload(hub().spec.on_demand)  # type: ignore[arg-type]
    entry = Assignment(uid="h", epoch=epoch, workload=digest, on_demand=True, run=run)
    report = Report(uid="h", epoch=7, state=State.RUNNING, view=orders["hub-0"].view)
    members = members_with(orders, {"hub-0": {"a": entry}}, {"hub-0": {"a": report}})
    state = HubState(("ns", "hub"))
    for member in members.values():
        for known in member.slices:
            state.slices.put(known.present)

    found = observed_by(learn(a_round(hub(), state, now=lambda: 0.0), ObserveMemory(1), members))

    assert ("a" in found.snapshot.uncertain) is held


def test_a_member_without_an_order_gets_no_share_while_another_write_is_unanswered() -> None:
    limited = hub(onDemand={**EXEC, "max": 20})
    orders = dict(written(limited, members_with({})).orders)
    one = {"hub-0": orders["hub-0"]}

    unsure = msgspec.structs.replace(snapshot(limited), uncertain=frozenset({""}))
    assert written(limited, members_with(one), plan(90_000), unsure).orders == {}
    assert written(limited, members_with(one), plan(90_000)).orders["hub-1"].share == 10
