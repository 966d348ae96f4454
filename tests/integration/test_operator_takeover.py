"""Leadership: a standby takes over in time, whatever was under way, and a deposed leader changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from operatorworld import World, members_of, never_two, started_once, untouched
from settling import settles, stays

from processhub.cluster.errors import InvalidError
from processhub.cluster.kinds import PODS, SLICES, untyped

pytest_plugins = ("operatorworld",)


@pytest.mark.nightly
async def test_a_leader_killed_during_a_thousand_starts_loses_and_duplicates_no_child(world: World) -> None:
    await world.hub(timeouts={"leaseSeconds": 20})
    ids = [f"c{number}" for number in range(1000)]
    creating = asyncio.create_task(world.children(ids, at_once=24, command=["sleep", "100000"]))

    async def amid() -> None:
        assert len(world.watch.live()) >= 150

    await settles(amid, within=90)
    runs_out = await world.operators.runs_out()
    holder = await world.operators.kill_leader()
    await world.operators.leader_after(holder)
    led_since = await world.operators.led_since()
    early = {child_id: runs[0].pid for child_id, runs in world.watch.runs().items()}
    await creating

    places = await world.running(ids, within=90)

    assert led_since < runs_out, "1 to 2 s after the kill on an idle machine"
    assert len(early) < 1000, "it was not in the midst"
    started_once(world.watch.runs())
    never_two(world.watch)
    assert {child_id: places[child_id].pid for child_id in early} == early
    assert max(members_of(places).values()) <= 1000 / 3 * 1.25 + 1


async def test_after_a_clean_stop_a_standby_leads_at_once_and_restarts_nothing(world: World) -> None:
    await world.hub(members={"replicas": 2})
    ids = await world.children(f"c{number}" for number in range(12))
    before = await world.running(ids)
    holder = await world.operators.holder()

    runs_out = await world.operators.runs_out()
    await world.api.delete(PODS, world.operators.namespace, holder.rpartition("_")[0])
    await world.operators.leader_after(holder)
    led_since = await world.operators.led_since()
    await world.child("after")
    after = await world.running([*ids, "after"])

    assert led_since < runs_out, "3 s after the deletion on an idle machine"
    untouched(before, after, ids)
    started_once(world.watch.runs())
    assert after["after"].epoch // 10**9 > max(place.epoch for place in before.values()) // 10**9


async def test_a_standby_does_not_wait_for_the_lease_of_a_killed_leader(world: World) -> None:
    await world.hub(members={"replicas": 2})
    ids = await world.children(f"c{number}" for number in range(12))
    before = await world.running(ids)

    runs_out = await world.operators.runs_out()
    holder = await world.operators.kill_leader()
    await world.child("after")
    await world.operators.leader_after(holder)
    after = await world.running([*ids, "after"])

    assert await world.operators.led_since() < runs_out, "1 to 2 s after the kill on an idle machine"
    untouched(before, after, ids)
    started_once(world.watch.runs())


async def test_the_api_server_rejects_a_deposed_leaders_write(world: World) -> None:
    await world.hub(members={"replicas": 1})
    await world.child("a")
    before = await world.running(["a"])
    (item,) = await world.slices()

    late = {"spec": {"term": item.spec.term - 1, "entries": {}}}
    with pytest.raises(InvalidError, match="term") as refused:
        await world.api.patch(SLICES, world.namespace, item.metadata.name, late)

    assert refused.value.status == 422
    untouched(before, await world.running(["a"]))


async def test_a_stopped_leader_exits_and_changes_nothing_when_it_resumes(world: World) -> None:
    await world.hub(members={"replicas": 2})
    ids = await world.children(f"c{number}" for number in range(8))
    await world.running(ids)
    holder = await world.operators.holder()
    pod = f"{world.operators.namespace}/{holder.rpartition('_')[0]}"
    restarts = await restarts_of(world, pod)

    await world.faults.pause_pod(pod)
    try:
        # The deletions that it has not seen when it resumes: the new leader has acted on them long before.
        await world.delete_children("c0", "c1")
        successor = await world.operators.leader_after(holder)
        before = await world.running(ids[2:])
        generations = await settles(lambda: slice_generations(world))
    finally:
        await world.faults.resume_pod(pod)

    async def exited() -> None:
        assert await restarts_of(world, pod) > restarts

    await settles(exited)
    assert await world.operators.holder() == successor
    assert await slice_generations(world) == generations
    untouched(before, await world.running(ids[2:]))
    started_once(world.watch.runs())


async def test_members_keep_children_running_while_no_operator_runs(world: World) -> None:
    await world.hub(members={"replicas": 2})
    ids = await world.children(f"c{number}" for number in range(4))
    before = await world.running(ids)
    await world.scale_operators(0)

    (run,) = world.watch.live()["c0"]
    os.kill(run.pid, signal.SIGKILL)

    async def restarted() -> None:
        again = [live.pid for live in world.watch.live().get("c0", ())]  # none between two incarnations
        assert len(again) == 1
        assert again != [run.pid]

    await settles(restarted)
    await world.child("late")

    async def nothing_new() -> None:
        assert "late" not in world.watch.live()

    await stays(nothing_new, 2)
    await world.scale_operators(2)
    after = await world.running([*ids, "late"])

    untouched(before, after, ids[1:])
    assert (after["c0"].member, after["c0"].epoch) == (before["c0"].member, before["c0"].epoch)
    never_two(world.watch)


async def test_the_leader_lease_is_deleted_with_the_operators_deployment(world: World) -> None:
    """Nothing remains after an uninstall; the term is kept in the slices."""
    deployments = untyped("apps/v1", "deployments")
    deployment = await world.api.get(deployments, world.operators.namespace, "processhub-operator")

    (owner,) = (await world.operators.lease()).metadata.owner_references

    assert (owner.kind, owner.uid) == ("Deployment", deployment["metadata"]["uid"])


async def restarts_of(world: World, pod: str) -> int:
    """Return how often the pod's container was restarted."""
    namespace, name = pod.split("/")
    (status,) = (await world.api.get(PODS, namespace, name)).status.container_statuses
    return status.restart_count


async def slice_generations(world: World) -> dict[str, int]:
    """Return the generation of each slice, which every write of a spec raises, once one leader has written all."""
    slices = await world.slices()
    assert len({item.spec.term for item in slices}) == 1
    return {item.metadata.name: item.metadata.generation for item in slices}
