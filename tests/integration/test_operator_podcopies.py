"""Pod children in several copies: one Pod each, and no two active at once, whatever happens to their members."""

from __future__ import annotations

import json
from signal import SIGTERM

import pytest
from operatorworld import World
from settling import settles, stays
from test_operator_pods import SLOW, pod
from test_operator_replicas import STANDBY, copies
from waiting import catches, until

from processhub.api.kubernetes import Pod
from processhub.api.naming import ANNOTATION_EPOCH, ANNOTATION_ROLE, GATE_SOLE, child_pod_name

pytest_plugins = ("operatorworld",)
# Prints its role whenever its annotations change.
TOLD = ["sh", "-c", "while :; do cat /told/role; echo; sleep 0.2; done"]
ROLE = {"path": "role", "fieldRef": {"fieldPath": "metadata.annotations['processhub.dev/role']"}}


def told() -> dict[str, object]:
    workload = pod(TOLD, volumes=[{"name": "told", "downwardAPI": {"items": [ROLE]}}])
    (container,) = workload["template"]["spec"]["containers"]
    container["volumeMounts"] = [{"name": "told", "mountPath": "/told"}]
    return workload


async def pod_of(world: World, member: str) -> Pod:
    hub = await world.get_hub()
    return await world.pod(child_pod_name("hub", hub.metadata.uid, "a", member))


def role_of(found: Pod) -> tuple[str, int]:
    annotations = found.metadata.annotations
    return annotations[ANNOTATION_ROLE], int(annotations[ANNOTATION_EPOCH])


@pytest.mark.nightly
async def test_the_passive_pod_becomes_active_only_when_the_active_one_is_gone(world: World) -> None:
    await world.hub(redundancy=STANDBY)
    await world.child("a", pod=told())
    first, second = await copies(world, "a", 2)
    one, other = await pod_of(world, first.name), await pod_of(world, second.name)
    assert role_of(one) == ("Active", first.epoch)
    assert role_of(other) == ("Passive", second.epoch)

    # The Pod keeps running without its member's agent, and keeps its role.
    await world.kill_agent(first.name)
    await world.hub_ready()
    assert [node.name for node in await copies(world, "a", 2)] == [first.name, second.name]
    assert (await pod_of(world, first.name)).metadata.uid == one.metadata.uid
    assert role_of(await pod_of(world, second.name)) == ("Passive", second.epoch)

    await world.kill_node(one.spec.node_name)

    async def replaced() -> None:
        places = {place.member: place for place in (await world.record())["a"]}
        assert first.name not in places
        assert len(places) == 2
        assert (await pod_of(world, first.name)).metadata.deletion_timestamp
        # Its node can't report that the Pod has ended: no other copy becomes active.
        assert {role_of(await pod_of(world, member))[0] for member in places} == {"Passive"}

    await settles(replaced)
    waiting = await world.condition("a", "Placed", "False", "AlreadyStarted")
    assert f"its pod {one.metadata.name} on {one.spec.node_name} is still there" in waiting.message

    await world.kubectl("delete", "pod", one.metadata.name, "--force", "--grace-period=0")

    now = await copies(world, "a", 2)
    assert now[0].name == second.name
    assert now[0].epoch > first.epoch

    async def is_told() -> None:
        found = await pod_of(world, second.name)
        assert found.metadata.uid == other.metadata.uid, "it runs on"
        assert role_of(found) == ("Active", now[0].epoch)
        assert (await world.kubectl("logs", found.metadata.name, "--tail=1")).split() == ["Active"]

    await settles(is_told)


async def test_with_for_each_a_child_has_a_pod_on_every_member(world: World) -> None:
    await world.hub(members={"replicas": 2}, distribution={"strategy": "ForEach"})
    await world.child("a", pod=pod())

    async def on(*members: str) -> dict[str, str]:
        nodes = (await world.get_child("a")).status.nodes
        assert {node.name: (node.role, node.state) for node in nodes} == dict.fromkeys(members, ("Active", "Running"))
        assert len(world.watch.live()["a"]) == len(members)
        return {name: (await pod_of(world, name)).metadata.uid for name in members}

    before = await settles(lambda: on("hub-0", "hub-1"))
    await world.edit_hub(members={"replicas": 3})
    after = await settles(lambda: on("hub-0", "hub-1", "hub-2"))
    assert before.items() <= after.items()


async def test_a_copy_that_steps_back_has_the_active_role_until_its_pod_is_gone(world: World) -> None:
    await world.hub(members={"replicas": 2}, redundancy={**STANDBY, "replicationModel": "ActiveActive"})
    await world.child("a", pod=pod(SLOW, grace=20))

    async def both() -> list[str]:
        nodes = (await world.get_child("a")).status.nodes
        assert [(node.role, node.state) for node in nodes] == [("Active", "Running")] * 2
        return [node.name for node in nodes]

    pods = {name: await pod_of(world, name) for name in await settles(both)}
    await until(lambda: all(catches(run.pid, SIGTERM) for run in world.watch.live()["a"]), "they would take their time")
    await world.edit_hub(redundancy=STANDBY)

    async def stepping_back() -> str:
        first, second = (await world.get_child("a")).status.nodes
        assert [(first.role, first.state), (second.role, second.state)] == [
            ("Active", "Running"),
            ("Passive", "Pending"),
        ]
        old = await pod_of(world, second.name)
        assert old.metadata.uid == pods[second.name].metadata.uid
        assert old.metadata.deletion_timestamp
        assert role_of(old)[0] == "Active"
        return second.name

    name = await settles(stepping_back, every=0.05)
    waiting = await world.condition("a", "Placed", "False", "AlreadyStarted")
    assert pods[name].metadata.name in waiting.message

    first, second = await copies(world, "a", 2)
    assert second.name == name
    assert (await pod_of(world, first.name)).metadata.uid == pods[first.name].metadata.uid, "it runs on"
    after = await pod_of(world, name)
    assert after.metadata.uid != pods[name].metadata.uid
    assert role_of(after) == ("Passive", second.epoch)
    await world.condition("a", "Placed", "True")


async def test_a_hub_changes_to_one_pod_for_each_child_and_back(world: World) -> None:
    await world.hub(members={"replicas": 2}, redundancy=STANDBY)
    await world.child("a", pod=pod())
    first, second = await copies(world, "a", 2)
    uid = (await pod_of(world, first.name)).metadata.uid

    await world.edit_hub(redundancy={"strategy": "Singularity", "replicationModel": None, "redundancySignal": None})

    async def on_one() -> None:
        assert [node.name for node in (await world.get_child("a")).status.nodes] == [first.name]
        assert [run.member for run in world.watch.live()["a"]] == [first.name]

    await settles(on_one)
    assert (await pod_of(world, first.name)).metadata.uid == uid, "it runs on"

    await world.edit_hub(redundancy=STANDBY)
    assert [node.name for node in await copies(world, "a", 2)] == [first.name, second.name]
    assert (await pod_of(world, first.name)).metadata.uid == uid


async def test_a_delayed_creation_of_a_second_pod_starts_nothing_when_the_hub_keeps_one_copy(world: World) -> None:
    await world.hub(members={"replicas": 2}, distribution={"strategy": "ForEach"})
    await world.child("a", pod=pod())

    async def run_on(*members: str) -> dict[str, int]:
        live = {run.member: run.pid for run in world.watch.live()["a"]}
        assert sorted(live) == sorted(members)
        return live

    await settles(lambda: run_on("hub-0", "hub-1"))
    # As their creations were sent: one of them is carried out when the other's member alone has the child.
    names = {member: (await pod_of(world, member)).metadata.name for member in ("hub-0", "hub-1")}
    sent = {member: json.loads(await world.kubectl("get", "pod", name, "-o", "json")) for member, name in names.items()}
    await world.edit_hub(distribution={"strategy": "ConsistentHashing", "rebalance": {"onJoin": False}})

    async def one() -> str:
        places = (await world.record())["a"]
        assert len(places) == 1
        await run_on(places[0].member)
        return places[0].member

    keeper = await settles(one)
    other = ({"hub-0", "hub-1"} - {keeper}).pop()
    alone = await run_on(keeper)
    late = sent[other]
    late["metadata"] = {key: late["metadata"][key] for key in ("name", "labels", "annotations", "ownerReferences")}
    late["spec"]["schedulingGates"] = [{"name": GATE_SOLE}]
    del late["status"], late["spec"]["nodeName"]
    await world.operators.scale(0)
    await world.kubectl("create", "-f", "-", stdin=json.dumps(late))

    async def nothing_started() -> None:
        assert (await pod_of(world, other)).spec.node_name == ""
        await run_on(keeper)

    await stays(nothing_started, 2)
    await world.operators.scale(2)

    async def gone() -> None:
        found = await world.kubectl("get", "pods", "-l", "processhub.dev/child", "-o", "name")
        assert found.split() == [f"pod/{names[keeper]}"]

    await settles(gone)
    assert await run_on(keeper) == alone
