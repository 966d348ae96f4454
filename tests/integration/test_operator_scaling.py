"""Members that join and leave, and the number of children that each of them takes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from operatorworld import Place, World, members_of, moved, never_two, untouched
from settling import settles, stays
from waiting import alive

from processhub.cluster.kinds import LEASES
from processhub.core.model.placement import Candidate, rank

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(40)]


def drawn_to(joiner: str, places: Mapping[str, Place]) -> set[str]:
    """Return the ids whose rendezvous hash is higher for the joining member than for their current one."""
    return {
        child_id
        for child_id, place in places.items()
        if rank(child_id, [Candidate(joiner), Candidate(place.member)])[0][0] == joiner
    }


async def test_a_join_moves_only_the_new_members_share_and_only_onto_it(world: World) -> None:
    await world.hub()
    await world.children(IDS)
    before = await world.running(IDS)
    share = drawn_to("hub-3", before)
    assert 4 <= len(share) <= 13, "else the cap would keep some"

    await world.kubectl("scale", "hub/hub", "--replicas=4")
    await world.hub_ready(members=4)

    async def share_taken() -> dict[str, Place]:
        after = await world.running(IDS)
        assert moved(before, after) == share
        return after

    after = await settles(share_taken)
    assert {after[child_id].member for child_id in share} == {"hub-3"}
    untouched(before, after, set(IDS) - share)
    await world.hub_condition("Balanced", "True")
    never_two(world.watch)


async def test_with_on_join_false_a_new_member_takes_only_new_children(world: World) -> None:
    await world.hub(members={"replicas": 2}, distribution={"rebalance": {"onJoin": False}})
    await world.children(IDS[:20])
    before = await world.running(IDS[:20])

    await world.edit_hub(members={"replicas": 3})
    await world.hub_ready(members=3)
    await world.children(IDS[20:])

    after = await world.running(IDS)
    untouched(before, after, before.keys())
    assert members_of(after)["hub-2"] > 0
    never_two(world.watch)


@pytest.mark.nightly
async def test_moves_are_spread_over_time_by_max_moves_per_second(world: World) -> None:
    await world.hub(members={"replicas": 1}, distribution={"rebalance": {"maxMovesPerSecond": 2}})
    await world.children(IDS)
    before = await world.running(IDS)
    share = drawn_to("hub-1", before)

    await world.edit_hub(members={"replicas": 2})
    rebalancing = await world.hub_condition("Balanced", "False", "Rebalancing")

    async def share_taken() -> None:
        assert moved(before, await world.running(IDS)) == share

    await settles(share_taken)
    assert "to be moved" in rebalancing.message
    starts = sorted(world.watch.runs()[child_id][1].started for child_id in share)
    # The moves of the first second go at once. The first start on a new member may be seconds late, the last is not
    # early: half of the time is left for that. Without the limit, all of them would start within one second.
    assert starts[-1] - starts[0] >= (len(share) - 2) / 2 * 0.5
    never_two(world.watch)


async def test_a_scale_down_drains_members_before_they_end(world: World) -> None:
    await world.hub()
    await world.children(IDS)
    before = await world.running(IDS)
    leaving = {child_id for child_id, place in before.items() if place.member == "hub-2"}

    await world.kubectl("scale", "hub/hub", "--replicas=2")

    async def gone() -> dict[str, Place]:
        after = await world.running(IDS)
        assert moved(before, after) == leaving
        hub = await world.get_hub()
        assert [member.name for member in hub.status.members] == ["hub-0", "hub-1"]
        items, _ = await world.api.list(LEASES, world.namespace, labels="processhub.dev/hub=hub")
        assert len(items) == 2, "its Lease goes too"
        assert {item.spec.member for item in await world.slices()} == {"hub-0", "hub-1"}
        return after

    after = await settles(gone)
    untouched(before, after, set(IDS) - leaving)
    assert not [line for line in await world.events("hub", "MemberLost") if "hub-2" in line], "it left in order"

    async def pods_gone() -> None:
        pods = json.loads(await world.kubectl("get", "pods", "-o", "json"))["items"]
        assert sorted(pod["metadata"]["name"] for pod in pods) == ["hub-0", "hub-1"]

    await settles(pods_gone)
    never_two(world.watch)


async def test_scaling_down_and_up_during_moves_loses_and_duplicates_no_child(world: World) -> None:
    await world.hub(members={"replicas": 3})
    await world.children(IDS)
    before = await world.running(IDS)

    await world.edit_hub(members={"replicas": 1})

    async def moving() -> None:
        assert any(len(places) > 1 or places[0].wait for places in (await world.record()).values())

    await settles(moving, every=0.01)
    await world.edit_hub(members={"replicas": 3})

    await world.hub_ready(members=3)

    async def spread_again() -> None:
        assert members_of(await world.running(IDS)).keys() == members_of(before).keys()

    await settles(spread_again)
    never_two(world.watch)


async def test_a_guided_child_blocks_the_scale_down_of_its_member_until_it_is_forced(world: World) -> None:
    await world.hub(members={"replicas": 2}, distribution={"strategy": "Guided"})
    await world.child("bound", nodes=["hub-1"])
    await world.child("other", nodes=["hub-0"])
    before = await world.running(["bound", "other"])

    await world.edit_hub(members={"replicas": 1})

    blocked = await world.hub_condition("Balanced", "False", "Stranded")
    assert blocked.message == (
        "hub-1 can't be emptied: 1 child is bound to it (bound); delete or rebind them, or annotate the hub with "
        "processhub.dev/force-scale-down=true"
    )

    async def runs_on() -> None:
        untouched(before, await world.running(["bound", "other"]))

    await stays(runs_on, 2)

    await world.edit_hub(annotations={"processhub.dev/force-scale-down": "true"})

    async def forced() -> None:
        hub = await world.get_hub()
        assert [member.name for member in hub.status.members] == ["hub-0"]
        assert not alive(before["bound"].pid)

    await settles(forced)
    refused = await world.condition("bound", "Placed", "False")
    assert "hub-1" in refused.message
    untouched(before, await world.running(["other"]), ["other"])


async def test_a_scale_down_to_zero_names_its_children_and_needs_force(world: World) -> None:
    await world.hub(members={"replicas": 1})
    await world.child("a")
    before = await world.running(["a"])

    await world.kubectl("scale", "hub/hub", "--replicas=0")

    blocked = await world.hub_condition("Balanced", "False", "Stranded")
    assert blocked.message == (
        "hub-0 can't be emptied: no member is left to take its 1 child (a); stop them with spec.suspend: true, or "
        "annotate the hub with processhub.dev/force-scale-down=true"
    )
    untouched(before, await world.running(["a"]))

    await world.edit_hub(annotations={"processhub.dev/force-scale-down": "true"})

    async def gone() -> None:
        assert not (await world.get_hub()).status.members
        assert not alive(before["a"].pid)

    await settles(gone)
    await world.condition("a", "Placed", "False", "NoMembers")

    await world.kubectl("scale", "hub/hub", "--replicas=1")
    await world.running(["a"])


async def test_members_get_shares_by_their_weights(world: World) -> None:
    await world.hub(members={"weights": {"hub-0": 3, "hub-2": 0}}, distribution={"loadCapPercent": 110})
    await world.children(IDS)

    places = await world.running(IDS)

    counts = members_of(places)
    assert counts["hub-2"] == 0
    assert 26 <= counts["hub-0"] <= 33  # its share is 30 of 40; the cap allows 33
    weights = {member.name: member.weight for member in (await world.get_hub()).status.members}
    assert weights == {"hub-0": 3, "hub-1": 1, "hub-2": 0}


async def test_the_load_cap_bounds_the_children_of_a_member(world: World) -> None:
    await world.hub(distribution={"loadCapPercent": 100})
    await world.children(IDS[:30])

    places = await world.running(IDS[:30])

    assert members_of(places) == {"hub-0": 10, "hub-1": 10, "hub-2": 10}


async def test_children_over_the_capacity_wait_until_it_is_raised(world: World) -> None:
    await world.hub(members={"replicas": 2, "maxChildren": 3})
    ids = IDS[:8]
    await world.children(ids)

    async def six_run() -> list[str]:
        running = sorted(world.watch.live())
        assert len(running) == 6
        return running

    running = await settles(six_run)
    waiting = [child_id for child_id in ids if child_id not in running]
    for child_id in waiting:
        refused = await world.condition(child_id, "Placed", "False", "CapacityExceeded")
        assert refused.message == (
            "each ready member has its 3 children (spec.members.maxChildren); add members or raise it"
        )

    async def counted() -> None:
        summary = (await world.get_hub()).status.summary
        assert summary is not None
        assert summary.children == "6/8"

    await settles(counted)

    await world.edit_hub(members={"maxChildren": 4})

    assert members_of(await world.running(ids)) == {"hub-0": 4, "hub-1": 4}
