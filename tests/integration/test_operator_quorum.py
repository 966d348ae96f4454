"""Partitions: the children that each strategy stops and starts when members are cut off, scaled down and return."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import commandforks
import pytest
from hubcalls import Caller
from operatorsite import ControlPlane
from operatorworld import Place, World, members_of, moved, never_two
from settling import settles, stays

from localcluster.layout import CHECKOUT
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.client.errors import Partitioned
from processhub.client.hub import Hub as Connection
from processhub.cluster.kinds import PODS

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(30)]
MAJORITY = {"strategy": "MajorityQuorum"}
STATIC = {"strategy": "StaticQuorum", "quorumSize": 2}
DYNAMIC = {"strategy": "DynamicQuorum", "quorumPercent": 60, "thresholdSeconds": 60}


async def hub_with_children(world: World, **tolerance: Any) -> dict[str, Place]:
    await world.hub(partitionTolerance=tolerance)
    await world.children(IDS)
    return await world.running(IDS)


async def nothing_runs(world: World, besides: Iterable[str] = ()) -> None:
    """Wait until no process of the hub runs, except on the members ``besides``."""
    others = set(besides)

    async def check() -> None:
        left = {run.id: run.member for runs in world.watch.live().values() for run in runs if run.member not in others}
        assert not left, left

    await settles(check)


async def still_stopped(world: World, seconds: float = 3) -> None:
    async def check() -> None:
        assert world.watch.live() == {}
        assert (await world.get_hub()).partitioned

    await stays(check, seconds)


async def quorum_of(world: World) -> tuple[int, int, int]:
    hub: Hub = await world.get_hub()
    assert hub.status.quorum is not None
    return hub.status.quorum.required, hub.status.quorum.live, hub.status.quorum.largest_seen


async def command(world: World, *words: str) -> tuple[str, str, int]:
    """Run ``kubectl hub``; return its output and exit code."""
    return await commandforks.run([*words, "-n", world.namespace], world.cluster.environment(), "")


@pytest.mark.parametrize(
    "tolerance",
    [
        pytest.param(MAJORITY, id="MajorityQuorum"),
        pytest.param(STATIC, id="StaticQuorum", marks=pytest.mark.nightly),
        pytest.param(DYNAMIC, id="DynamicQuorum", marks=pytest.mark.nightly),
    ],
)
async def test_children_stop_without_a_quorum_and_all_return_with_it(world: World, tolerance: dict[str, Any]) -> None:
    before = await hub_with_children(world, **tolerance)
    assert (await quorum_of(world))[:2] == (2, 3)
    away = ["hub-1", "hub-2"]

    for member in away:
        await world.faults.cut_pod(world.pod_key(member))
    lost = await world.hub_condition("Quorate", "False", "Partitioned")
    await nothing_runs(world)

    assert "1 member is live" in lost.message
    assert tolerance["strategy"] in lost.message
    record = await world.record()
    assert record.keys() == before.keys(), "all stay on record"
    await world.child("new")
    refused = await world.condition("new", "Placed", "False", "Partitioned")
    assert refused.message.startswith("the hub has lost its quorum: 1 member is live")
    assert (await world.condition("new", "Accepted", "True")).reason == "Accepted"
    async with Connection.connect("hub", namespace=world.namespace, kubeconfig=str(world.cluster.kubeconfig)) as client:
        assert client.is_partitioned()
        with pytest.raises(Partitioned, match="1 member is live"):
            await client.start_children([{"id": "more", "exec": {"command": ["sleep", "1"]}}])
    token = (await world.kubectl("create", "token", "default", "--audience=processhub")).strip()
    (address,) = [member.pod_ip for member in (await world.get_hub()).status.members if member.name == "hub-0"]
    async with Caller(token) as caller:
        reply = await caller.call(address, "c0", {})
    assert (reply.status, reply.code) == (503, "partitioned")
    await still_stopped(world)

    for member in away:
        await world.faults.heal_pod(world.pod_key(member))
    await world.hub_condition("Quorate", "True", "Quorate")
    after = await world.running([*IDS, "new"], within=90)

    # Which of the two was lost first is chance: its children may have moved to the other.
    assert all(place.member in {"hub-0", *away} for place in after.values())
    assert any(after[child_id].member == place.member == "hub-0" for child_id, place in before.items())
    assert len(await world.told("hub", "PartitionEntered")) == 1
    assert len(await world.told("hub", "PartitionHealed")) == 1
    await world.ready(*IDS, "new")
    never_two(world.watch)


@pytest.mark.nightly
async def test_a_partitioned_hub_stays_partitioned_under_a_new_leader(world: World) -> None:
    await hub_with_children(world, **MAJORITY)
    away = ["hub-1", "hub-2"]
    for member in away:
        await world.faults.cut_pod(world.pod_key(member))
    await world.hub_condition("Quorate", "False", "Partitioned")
    await nothing_runs(world)

    holder = await world.operators.kill_leader()
    await world.operators.leader_after(holder)

    # Longer than the Leases of the lost members, which a new leader takes for valid at first.
    await still_stopped(world, seconds=9)
    for member in away:
        await world.faults.heal_pod(world.pod_key(member))
    await world.running(IDS, within=90)
    never_two(world.watch)


@pytest.mark.nightly
async def test_pods_of_children_are_deleted_without_a_quorum_and_created_again_with_it(world: World) -> None:
    await world.hub(partitionTolerance=MAJORITY)
    container = {"name": "main", "image": "debian:bookworm-slim", "command": ["sleep", "100000"]}
    names = await world.children(IDS[:4], pod={"template": {"spec": {"containers": [container]}}})
    for name in names:
        await world.condition(name, "Ready", "True")

    async def pods() -> set[str]:
        found, _ = await world.api.list(PODS, world.namespace, labels="app.kubernetes.io/component=child")
        return {pod.metadata.uid for pod in found if isinstance(pod, Pod)}

    before = await pods()
    for member in ("hub-1", "hub-2"):
        await world.faults.cut_pod(world.pod_key(member))
    await world.hub_condition("Quorate", "False", "Partitioned")

    async def none_left() -> None:
        assert await pods() == set()

    await settles(none_left)
    for name in names:
        await world.condition(name, "Ready", "False", "Partitioned")
    for member in ("hub-1", "hub-2"):
        await world.faults.heal_pod(world.pod_key(member))

    for name in names:
        await world.condition(name, "Ready", "True", within=90)
    assert len(await pods()) == 4
    assert not await pods() & before


async def test_members_that_are_cut_off_end_their_children_themselves(world: World) -> None:
    """They receive no order: they fence themselves before their Leases expire. The remaining member gets the order."""
    before = await hub_with_children(world, **STATIC)

    for member in ("hub-1", "hub-2"):
        await world.faults.cut_pod(world.pod_key(member))
    await nothing_runs(world, besides=["hub-0"])
    await world.hub_condition("Quorate", "False", "Partitioned")
    await nothing_runs(world)
    for member in ("hub-1", "hub-2"):
        await world.faults.heal_pod(world.pod_key(member))

    after = await world.running(IDS, within=90)
    assert set(after) == set(before)
    never_two(world.watch)


async def test_an_api_server_outage_stops_all_children_and_they_restart_in_place(world: World) -> None:
    before = await hub_with_children(world, **MAJORITY)

    with world.stopped([ControlPlane(world.site).api_server()]):
        await nothing_runs(world)

    async def anew() -> None:
        after = await world.running(IDS, within=1)
        assert members_of(after) == members_of(before)
        assert all(after[child_id].pid != place.pid for child_id, place in before.items())

    await settles(anew, within=90)
    assert not moved(before, await world.running(IDS))
    assert await world.events("hub", "MemberLost") == []
    never_two(world.watch)


@pytest.mark.nightly
async def test_a_hub_scaled_below_its_quorum_stops_until_it_is_scaled_up(world: World) -> None:
    await hub_with_children(world, **STATIC)

    await world.kubectl("scale", "hub/hub", "--replicas=1")
    await world.hub_condition("Quorate", "False", "Partitioned")
    await nothing_runs(world)
    await world.kubectl("scale", "hub/hub", "--replicas=3")

    await world.hub_condition("Quorate", "True", "Quorate")
    await world.running(IDS, within=90)
    never_two(world.watch)


@pytest.mark.nightly
async def test_after_a_reset_the_remaining_members_are_the_whole_hub(world: World) -> None:
    await hub_with_children(world, **MAJORITY)
    await world.kubectl("scale", "hub/hub", "--replicas=1")
    await world.hub_condition("Quorate", "False", "Partitioned")
    await nothing_runs(world)

    out, err, code = await command(world, "quorum", "reset", "--wait")

    assert code == 0, err
    assert "1 member is live, 1 needed" in out
    after = await world.running(IDS, within=90)
    assert members_of(after) == {"hub-0": 30}
    assert await quorum_of(world) == (1, 1, 1)
    assert "processhub.dev/quorum-reset" not in (await world.get_hub()).metadata.annotations
    await world.kubectl(
        "patch", "hub", "hub", "--type=merge", "-p", json.dumps({"spec": {"partitionTolerance": STATIC}})
    )
    _, err, code = await command(world, "quorum", "reset")
    assert code == 2
    assert "partition strategy StaticQuorum, which remembers no size" in err
    never_two(world.watch)


async def test_a_new_hub_is_not_partitioned(world: World) -> None:
    await world.hub(ready=False, partitionTolerance={"strategy": "StaticQuorum", "quorumSize": 3})
    await world.children(IDS[:6])

    await world.hub_ready()
    await world.running(IDS[:6])

    await world.hub_condition("Quorate", "True", "Quorate")
    assert await world.events("hub", "PartitionEntered") == []
    assert await world.events("hub", "PartitionHealed") == []


async def test_after_divergence_one_copy_remains_and_an_event_names_the_one_that_ended(world: World) -> None:
    before = await hub_with_children(world, strategy="Divergence")
    (victim,) = {place.member for place in before.values() if place.member == "hub-1"}
    theirs = {child_id for child_id, place in before.items() if place.member == victim}

    await world.faults.cut_pod(world.pod_key(victim))

    async def two_copies() -> None:
        live = world.watch.live()
        assert {child_id for child_id, runs in live.items() if len(runs) == 2} == theirs

    await settles(two_copies)
    await world.faults.heal_pod(world.pod_key(victim))
    after = await world.running(IDS, within=60)

    assert set(after) == set(before)

    async def said() -> None:
        messages = await world.events("hub", "Healed")
        assert len(messages) == 1, messages
        message = messages[0]
        assert f"member {victim} is back and ends its copies of {len(theirs)} children" in message
        assert all(child_id in message for child_id in sorted(theirs)[:10])

    await settles(said)


async def test_the_example_runs_as_it_describes(world: World) -> None:
    example = (CHECKOUT / "manifests" / "examples" / "14-partition.yaml").read_text()
    await world.kubectl("apply", "-f", "-", stdin=example)
    await world.hub_ready("ledger")

    await world.running([f"account-{number}" for number in range(6)], hub="ledger")

    await world.hub_condition("Quorate", "True", "Quorate", hub="ledger")
