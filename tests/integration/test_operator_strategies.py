"""Each distribution strategy on running members, and the children that move when the strategy or weights change."""

from __future__ import annotations

import pytest
from operatorworld import World, members_of, moved, never_two, untouched
from settling import settles

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(24)]


@pytest.mark.nightly
async def test_round_robin_takes_turns_also_after_the_leader_was_killed(world: World) -> None:
    await world.hub(distribution={"strategy": "RoundRobin"})
    for number in range(4):
        await world.child(f"c{number}")
        await world.running(IDS[: number + 1])

    await world.operators.kill_leader()
    await world.child("c4")

    places = await world.running(IDS[:5])
    assert [places[child_id].member for child_id in IDS[:5]] == ["hub-0", "hub-1", "hub-2", "hub-0", "hub-1"]
    never_two(world.watch)


async def test_modulo_follows_the_number_of_members(world: World) -> None:
    ids = [str(number) for number in range(1, 9)]
    await world.hub(distribution={"strategy": "Modulo"})
    for child_id in ids:
        await world.child(f"n{child_id}", id=child_id)
    before = await world.running(ids)
    assert {child_id: before[child_id].member for child_id in ids} == {each: f"hub-{int(each) % 3}" for each in ids}

    await world.edit_hub(members={"replicas": 4})

    async def follows() -> None:
        after = await world.running(ids)
        assert {child_id: after[child_id].member for child_id in ids} == {each: f"hub-{int(each) % 4}" for each in ids}

    await settles(follows)
    never_two(world.watch)


async def test_local_and_not_local_place_by_the_origin(world: World) -> None:
    await world.hub(distribution={"strategy": "Local"})
    await world.children(IDS[:6], origin="hub-2")
    assert members_of(await world.running(IDS[:6])) == {"hub-2": 6}

    await world.edit_hub(distribution={"strategy": "NotLocal"})

    async def off() -> None:
        assert "hub-2" not in members_of(await world.running(IDS[:6]))

    await settles(off)
    never_two(world.watch)


async def test_with_not_local_a_child_waits_while_only_its_origin_is_left(world: World) -> None:
    await world.hub(members={"replicas": 1}, distribution={"strategy": "NotLocal"})
    await world.child("a", origin="hub-0")
    refused = await world.condition("a", "Placed", "False", "NoMembers")
    assert "NotLocal" in refused.message

    await world.edit_hub(distribution={"notLocalFallback": "Local"})

    assert (await world.running(["a"]))["a"].member == "hub-0"


async def test_a_changed_strategy_moves_children_once(world: World) -> None:
    await world.hub(distribution={"strategy": "RoundRobin", "rebalance": {"maxMovesPerSecond": 5}})
    ids = [str(number) for number in range(12)]
    for child_id in ids:
        await world.child(f"n{child_id}", id=child_id)
    await world.running(ids)

    await world.edit_hub(distribution={"strategy": "Modulo"})

    async def changed() -> None:
        places = await world.running(ids)
        assert {each: places[each].member for each in ids} == {each: f"hub-{int(each) % 3}" for each in ids}

    await settles(changed)
    await world.hub_condition("Balanced", "True")
    assert all(len(runs) <= 2 for runs in world.watch.runs().values()), "each moved at most once"
    never_two(world.watch)


async def test_with_on_join_false_changed_weights_and_strategy_move_no_child(world: World) -> None:
    await world.hub(distribution={"rebalance": {"onJoin": False}})
    await world.children(IDS[:12])
    before = await world.running(IDS[:12])

    await world.edit_hub(members={"weights": {"hub-0": 0}}, distribution={"strategy": "RoundRobin"})
    await world.hub_observed()
    await world.children(IDS[12:])

    after = await world.running(IDS)
    untouched(before, after, before.keys())
    assert "hub-0" not in {after[child_id].member for child_id in IDS[12:]}


async def test_changed_weights_move_children_at_run_time(world: World) -> None:
    await world.hub(distribution={"loadCapPercent": 1000})
    await world.children(IDS)
    before = await world.running(IDS)

    await world.edit_hub(members={"weights": {"hub-1": 0}})

    async def left() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == {child_id for child_id in IDS if before[child_id].member == "hub-1"}

    await settles(left)

    await world.edit_hub(members={"weights": {"hub-1": 1}})

    async def back() -> None:
        after = await world.running(IDS)
        assert {each: after[each].member for each in IDS} == {each: before[each].member for each in IDS}

    await settles(back)
    never_two(world.watch)


async def test_by_number_one_copy_runs_on_the_member_of_that_number(world: World) -> None:
    await world.hub(
        distribution={"strategy": "Modulo"},
        redundancy={"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"},
    )
    for number in range(3, 6):
        await world.child(f"n{number}", id=str(number))

    async def placed() -> None:
        record = await world.record()
        for number in range(3, 6):
            places = {place.member for place in record[str(number)] if place.state == "Running"}
            assert len(places) == 2
            assert f"hub-{number % 3}" in places
            assert (await world.get_child(f"n{number}")).status.member == f"hub-{number % 3}"

    await settles(placed)
