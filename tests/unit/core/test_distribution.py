"""Each distribution strategy alone and in the planner: which member gets a child, and what a join or a change moves."""

from __future__ import annotations

from collections import Counter

import pytest
from planned_hub import FIRST_EPOCH, PlannedHub, child, children_of, hub_of, hub_spec

from processhub.api.reasons import Reason
from processhub.api.usage import Usage, format_usage, parse_usage
from processhub.core.model.membership import Phase
from processhub.core.model.placement import Candidate, rank
from processhub.core.model.snapshot import DesiredChild, MemberView
from processhub.core.planning.planner import plan
from processhub.core.strategies import BUILT_IN, LeastLoaded, MemberSlot, PlacementView

NAMES = ["hub-0", "hub-1", "hub-2"]


SINGLES = sorted(BUILT_IN.keys() - {"ForEach"})  # strategies that keep one copy


def one_by_one(hub: PlannedHub, children: list[DesiredChild]) -> list[str]:
    """Return the member of each child when they arrive in this order, one in each round."""
    places = []
    for each in children:
        hub.want([each])
        hub.rest()
        places.append(hub.where()[each.id])
    return places


def by_hash(child_id: str, *names: str) -> str:
    return rank(child_id, [Candidate(name) for name in names])[0][0]


def counts(hub: PlannedHub) -> dict[str, int]:
    return {name: len(hub.on(name)) for name in hub.members}


# all of them


@pytest.mark.parametrize("strategy", SINGLES)
def test_all_children_are_placed_while_there_is_room_and_none_above_the_capacity(strategy: str) -> None:
    hub = hub_of(strategy, max_children=7)
    hub.want(child(f"c{number}", origin=f"hub-{number % 3}") for number in range(25))

    hub.rest()

    assert counts(hub) == dict.fromkeys(NAMES, 7)
    assert len(plan(hub.snapshot()).unplaced) == 4


@pytest.mark.parametrize("strategy", SINGLES)
def test_a_member_of_weight_0_gets_no_child(strategy: str) -> None:
    hub = hub_of(strategy)
    hub.change("hub-1", weight=0)
    hub.want(child(f"{number}", origin="hub-1") for number in range(12))

    hub.rest()

    assert not hub.on("hub-1")
    assert len(hub.where()) == 12


@pytest.mark.parametrize("strategy", SINGLES)
def test_a_change_to_any_strategy_comes_to_rest_and_back_again(strategy: str) -> None:
    hub = hub_of("ConsistentHashing")
    hub.want(child(f"{number}", origin=f"hub-{number % 3}") for number in range(60))
    hub.rest()

    hub.resettle(hub_spec(strategy=strategy))
    hub.rest(budget=5)
    assert len(hub.where()) == 60
    assert not any(member.joining for member in hub.members.values())

    hub.resettle(hub_spec())
    hub.rest()
    assert plan(hub.snapshot()).empty


@pytest.mark.parametrize("strategy", SINGLES)
def test_with_on_join_false_a_change_moves_no_child(strategy: str) -> None:
    hub = hub_of("RoundRobin")
    hub.want(children_of(30))
    hub.rest()
    before = hub.where()

    hub.resettle(hub_spec(strategy=strategy, on_join=False))
    hub.rest()

    assert hub.where() == before


def test_fingerprints_differ_when_placed_children_must_move() -> None:
    order = ["h-0", "h-1"]
    plain = BUILT_IN["ConsistentHashing"].fingerprint({}, order)

    assert plain == BUILT_IN["ConsistentHashing"].fingerprint({"h-0": 1}, [*order, "h-2"])
    assert plain != BUILT_IN["ConsistentHashing"].fingerprint({"h-0": 2}, order)
    assert len({strategy.fingerprint({}, order) for strategy in BUILT_IN.values()}) == len(BUILT_IN)
    assert BUILT_IN["Modulo"].fingerprint({}, order) != BUILT_IN["Modulo"].fingerprint({}, [*order, "h-2"])


def test_changed_weights_move_children_to_their_new_shares() -> None:
    hub = hub_of("ConsistentHashing", cap_percent=1000)
    hub.want(children_of(400))
    hub.rest()
    before = hub.where()

    hub.change("hub-0", weight=3)
    hub.resettle()
    plans = hub.rest(budget=20)

    moved = {id_ for id_, name in hub.where().items() if before[id_] != name}
    assert all(len(step.moves) <= 20 for step in plans)
    assert {hub.where()[id_] for id_ in moved} == {"hub-0"}
    assert 0.5 < counts(hub)["hub-0"] / 400 < 0.7


# RoundRobin


def test_round_robin_takes_turns_in_order_of_arrival() -> None:
    hub = hub_of("RoundRobin")

    assert one_by_one(hub, children_of(7)) == ["hub-0", "hub-1", "hub-2", "hub-0", "hub-1", "hub-2", "hub-0"]


def test_round_robin_takes_turns_for_many_children_at_once() -> None:
    hub = hub_of("RoundRobin")
    hub.want(children_of(7))

    hub.rest()

    assert [hub.where()[f"tenant/{number}"] for number in range(7)] == [*NAMES, *NAMES, "hub-0"]


def test_round_robin_continues_after_a_restart_of_the_operator() -> None:
    hub = hub_of("RoundRobin")
    one_by_one(hub, children_of(4))

    hub.last_placed, hub.next_epoch = "", 2 * FIRST_EPOCH

    assert one_by_one(hub, [child("next")]) == ["hub-1"]


def test_round_robin_does_not_start_again_when_the_newest_child_is_deleted() -> None:
    hub = hub_of("RoundRobin")
    one_by_one(hub, [child("a"), child("b")])

    del hub.children["b"]
    hub.rest()

    assert one_by_one(hub, [child("c")]) == ["hub-2"]


def test_round_robin_places_lost_children_by_the_hash() -> None:
    hub = hub_of("RoundRobin", cap_percent=1000)
    hub.want(children_of(30))
    hub.rest()
    lost = hub.on("hub-1")

    hub.change("hub-1", phase=Phase.GONE)
    hub.rest()

    assert {id_: hub.where()[id_] for id_ in lost} == {id_: by_hash(id_, "hub-0", "hub-2") for id_ in lost}


@pytest.mark.parametrize("strategy", ["RoundRobin", "LeastLoaded"])
def test_a_new_member_gets_children_of_the_fullest_until_it_has_its_share(strategy: str) -> None:
    hub = hub_of(strategy, members=2)
    hub.want(children_of(30))
    hub.rest()

    hub.change("hub-2", joining=True)
    plans = hub.rest(budget=3)

    assert counts(hub) == {"hub-0": 10, "hub-1": 10, "hub-2": 10}
    moves = [move for step in plans for move in step.moves]
    assert {move.target for move in moves} == {"hub-2"}
    assert len(moves) == 10
    assert all(len(step.moves) <= 3 for step in plans)


# Modulo


def test_modulo_places_by_number_regardless_of_the_cap() -> None:
    hub = hub_of("Modulo")

    places = one_by_one(hub, [child(str(number)) for number in (1, 4, 7, 10, 3, 2, 12345678901234567890123)])

    assert places == ["hub-1"] * 4 + ["hub-0", "hub-2", f"hub-{12345678901234567890123 % 3}"]


def test_modulo_places_ids_without_a_number_by_hash() -> None:
    hub = hub_of("Modulo")
    children = [child("a"), child("-1"), child("1.5"), child("٣")]

    assert one_by_one(hub, children) == [NAMES[each.key % 3] for each in children]


def test_modulo_places_by_hash_while_the_member_is_away() -> None:
    hub = hub_of("Modulo", cap_percent=1000)
    hub.want(child(str(number)) for number in range(9))
    hub.rest()

    hub.change("hub-1", phase=Phase.GONE)
    hub.rest()
    away = {str(number) for number in (1, 4, 7)}
    assert {id_: hub.where()[id_] for id_ in away} == {id_: by_hash(id_, "hub-0", "hub-2") for id_ in away}

    hub.change("hub-1", phase=Phase.LIVE)
    plans = hub.rest()

    assert {id_: hub.where()[id_] for id_ in hub.children} == {str(n): f"hub-{n % 3}" for n in range(9)}
    assert {move.id for step in plans for move in step.moves} == away


def test_modulo_of_a_scaled_hub_moves_each_child_once_to_its_new_member() -> None:
    hub = hub_of("Modulo")
    hub.want(child(str(number)) for number in range(20))
    hub.rest()

    hub.change("hub-3", joining=True, phase=Phase.HELD)  # its pod has not started yet
    hub.resettle()
    early = hub.rest()
    hub.change("hub-3", phase=Phase.LIVE)
    late = hub.rest(budget=2)

    moved = Counter(move.id for step in (*early, *late) for move in step.moves)
    assert hub.where() == {str(number): f"hub-{number % 4}" for number in range(20)}
    assert set(moved.values()) == {1}
    assert moved.keys() == {str(number) for number in range(20) if number % 3 != number % 4}


# Local, NotLocal


def test_local_places_on_the_origin_regardless_of_the_cap_and_else_by_hash() -> None:
    hub = hub_of("Local", cap_percent=100)
    children = [child(f"at/{number}", origin="hub-2") for number in range(8)]

    assert one_by_one(hub, children) == ["hub-2"] * 8

    hub.spec = hub_spec(strategy="Local", cap_percent=1000)
    strangers = [child("none"), child("gone", origin="hub-7")]
    assert one_by_one(hub, strangers) == [by_hash("none", *NAMES), by_hash("gone", *NAMES)]


def test_local_children_move_back_when_their_origin_joins() -> None:
    hub = hub_of("Local", cap_percent=1000)
    hub.want(child(f"c{number}", origin=f"hub-{number % 3}") for number in range(30))
    hub.rest()
    before = hub.where()

    hub.change("hub-1", phase=Phase.GONE)
    hub.rest()
    assert not hub.on("hub-1")
    hub.change("hub-1", phase=Phase.LIVE)
    hub.rest()

    assert hub.where() == before


def test_not_local_places_by_the_hash_of_the_others_regardless_of_the_cap() -> None:
    hub = hub_of("NotLocal", members=2)
    children = [child(f"c{number}", origin="hub-0") for number in range(10)]

    assert one_by_one(hub, children) == ["hub-1"] * 10

    hub = hub_of("NotLocal", cap_percent=1000)
    hub.want([*children, child("any")])
    hub.rest()
    assert hub.where() == {
        **{each.id: by_hash(each.id, "hub-1", "hub-2") for each in children},
        "any": hub.where()["any"],
    }
    assert hub.where()["any"] == by_hash("any", *NAMES)


def test_with_not_local_a_child_waits_while_only_its_origin_is_left() -> None:
    hub = hub_of("NotLocal", members=1)
    hub.want([child("a", origin="hub-0")])

    (why,) = hub.step().unplaced.values()

    assert why.reason is Reason.NO_MEMBERS
    assert why.message == (
        "only hub-0, its origin, is ready and has room, and the strategy is NotLocal; placed when another member is, "
        "or write spec.distribution.notLocalFallback: Local in the hub"
    )


def test_not_local_with_fallback_places_on_the_origin_until_another_member_joins() -> None:
    hub = PlannedHub(1, hub_spec(strategy="NotLocal", notLocalFallback="Local"))
    hub.want(child(f"c{number}", origin="hub-0") for number in range(6))
    hub.rest()
    assert counts(hub) == {"hub-0": 6}

    hub.change("hub-1", joining=True)
    hub.rest()

    assert counts(hub) == {"hub-0": 0, "hub-1": 6}


# LeastLoaded


def slots(**usage: tuple[int, int, int]) -> PlacementView:
    """Members a, b, … with CPU, memory and children as reported, and the children that they have."""
    return PlacementView(
        spec=hub_spec(),
        slots=tuple(
            MemberSlot(
                name=name,
                children=children,
                room=100,
                space=100,
                usage=Usage(cpu=cpu, memory=memory, children=children),
            )
            for name, (cpu, memory, children) in usage.items()
        ),
    )


def test_least_loaded_counts_children_if_nothing_is_reported() -> None:
    hub = hub_of("LeastLoaded")

    assert Counter(one_by_one(hub, children_of(9))) == dict.fromkeys(NAMES, 3)


def test_least_loaded_prefers_the_member_that_uses_less() -> None:
    hub = hub_of("LeastLoaded", cap_percent=1000)
    hub.want(children_of(9))
    hub.rest()
    for name, cpu in (("hub-0", 3000), ("hub-1", 3000), ("hub-2", 300)):
        hub.change(name, usage=Usage(cpu=cpu, memory=500, children=3))

    assert one_by_one(hub, [child("a"), child("b")]) == ["hub-2", "hub-2"]


def test_least_loaded_counts_the_children_placed_in_the_same_round() -> None:
    view = slots(a=(2000, 100, 10), b=(1000, 100, 10), c=(1000, 100, 10))

    chosen = LeastLoaded().place(children_of(12), view).tolist()

    assert Counter(chosen) == {0: 2, 1: 5, 2: 5}  # the loads are equal then
    assert chosen[:2] == [1, 2]


def test_the_noise_of_idle_members_is_ignored() -> None:
    view = slots(a=(60, 20, 5), b=(10, 40, 5))

    assert LeastLoaded().place(children_of(4), view).tolist() == [0, 1, 0, 1]
    assert LeastLoaded().imbalance(view) is None


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"a": (4000, 100, 10), "b": (400, 100, 10)}, ("a", "b")),
        ({"a": (1100, 100, 10), "b": (1000, 100, 10)}, None),
        ({"a": (0, 0, 30), "b": (0, 0, 10)}, ("a", "b")),
        ({"a": (4000, 100, 1), "b": (400, 100, 1)}, None),  # the child is the only load
        ({"a": (4000, 100, 10)}, None),
    ],
)
def test_only_an_imbalance_that_a_move_would_reduce_counts(
    usage: dict[str, tuple[int, int, int]], found: tuple[str, str] | None
) -> None:
    assert LeastLoaded().imbalance(slots(**usage)) == found


def test_a_target_gets_children_until_it_is_balanced_and_returns_none() -> None:
    hub = PlannedHub(
        [
            MemberView(name="a", usage=Usage(cpu=4000, memory=100, children=10)),
            MemberView(name="b", usage=Usage(cpu=400, memory=100, children=10)),
        ],
        hub_spec(strategy="LeastLoaded"),
    )
    hub.want(children_of(20))
    hub.rest()
    before = counts(hub)
    hub.change("b", joining=True)

    moves = [move for step in hub.rest(budget=1) for move in step.moves]

    assert 0 < len(moves) < before["a"]
    assert {move.target for move in moves} == {"b"}
    hub.change("a", joining=True)
    assert not [move for step in hub.rest() for move in step.moves]


def test_usage_is_written_and_read_alike() -> None:
    usage = Usage(cpu=250, memory=128, children=12)

    assert format_usage(usage) == "cpu=250m memory=128Mi children=12"
    assert parse_usage(format_usage(usage)) == usage
    assert parse_usage("") is None
    assert parse_usage("cpu=much") is None
