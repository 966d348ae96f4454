"""Hubs bound to nodes: one member on each (PerNode), or members in one region only."""

from __future__ import annotations

import asyncio
import itertools

from operatorworld import REGIONS, World, moved, never_two, untouched
from settling import settles, stays

from localcluster.layout import CHECKOUT
from processhub.api.kubernetes import Pod
from processhub.cluster.kinds import PODS

pytest_plugins = ("operatorworld",)
NODES = sorted(REGIONS)
IDS = [f"c{number}" for number in range(18)]


async def test_a_per_node_hub_has_a_member_on_each_node_and_a_cordon_drains_the_nodes_member(world: World) -> None:
    await world.hub(members={"mode": "PerNode"}, distribution={"rebalance": {"onJoin": False}})
    await world.children(IDS)
    before = await world.running(IDS)
    hub = await world.get_hub()
    assert [(member.name, member.node) for member in hub.status.members] == [(node, node) for node in NODES]
    assert {place.member for place in before.values()} == set(NODES)
    victims = {child_id for child_id, place in before.items() if place.member == "node-1"}

    await world.cordon("node-1")

    async def drained() -> None:
        after = await world.running(IDS)
        assert moved(before, after) == victims
        untouched(before, after, set(IDS) - victims)

    await settles(drained)
    assert [m.name for m in (await world.get_hub()).status.members] == NODES, "a DaemonSet's pod stays"
    never_two(world.watch)

    await world.cordon("node-1", False)
    waves = itertools.count()

    async def takes_children_again() -> None:
        # The operator may see some of them before it sees that the node is schedulable again.
        wave = next(waves)
        names = await world.children(f"new{wave}-{number}" for number in range(8))
        assert "node-1" in {child.status.member for child in (await world.ready(*names)).values()}

    await settles(takes_children_again)


async def test_a_cordoned_nodes_member_gets_its_share_back_when_it_is_uncordoned(world: World) -> None:
    await world.hub(members={"mode": "PerNode"})
    await world.children(IDS)
    await world.running(IDS)

    await world.cordon("node-2")

    async def drained() -> None:
        assert {place.member for place in (await world.running(IDS)).values()} == {"node-0", "node-1"}

    await settles(drained)
    before = await world.running(IDS)
    await world.cordon("node-2", False)

    async def shared() -> None:
        after = await world.running(IDS)
        assert moved(before, after), "nothing came back"
        assert {after[child_id].member for child_id in moved(before, after)} == {"node-2"}

    await settles(shared)
    never_two(world.watch)


async def test_a_node_that_no_longer_matches_loses_its_member_and_the_hub_is_ready(world: World) -> None:
    """This also happens when the Hub's own node selector excludes the node."""
    for node in NODES:
        await world.label_node(node, world.namespace, "yes")
    spec = {"nodeSelector": {world.namespace: "yes"}}
    await world.hub(members={"mode": "PerNode", "template": {"spec": spec}}, migration={"holdSeconds": 1})
    await world.children(IDS)
    await world.running(IDS)

    await world.label_node("node-1", world.namespace, None)

    await world.hub_ready(members=2)
    after = await world.running(IDS)
    assert {place.member for place in after.values()} == {"node-0", "node-2"}

    async def without_its_slices() -> None:
        assert {item.spec.member for item in await world.slices()} == {"node-0", "node-2"}

    await settles(without_its_slices)

    spec["nodeSelector"]["kubernetes.io/hostname"] = "node-2"
    await world.edit_hub(members={"template": {"spec": spec}})

    await world.hub_ready(members=1)
    assert {place.member for place in (await world.running(IDS)).values()} == {"node-2"}
    never_two(world.watch)


async def test_two_hubs_stay_in_their_two_regions(world: World) -> None:
    example = (CHECKOUT / "manifests" / "examples" / "09-regions.yaml").read_text()

    await world.kubectl("apply", "-f", "-", stdin=example)

    await asyncio.gather(world.hub_ready("hub-r1"), world.hub_ready("hub-r2"))
    await world.ready("worker-r1", "worker-r2")
    for region in ("r1", "r2"):
        items, _ = await world.api.list(PODS, world.namespace, labels=f"processhub.dev/hub=hub-{region}")
        nodes = {item.spec.node_name for item in items if isinstance(item, Pod)}
        assert nodes <= {node for node, its in REGIONS.items() if its == region}
        child = await world.get_child(f"worker-{region}")
        assert child.status.member.startswith(f"hub-{region}-")


async def test_each_pod_has_a_label_with_its_members_name(world: World) -> None:
    await world.hub(members={"replicas": 2})

    async def labelled() -> None:
        for member in ("hub-0", "hub-1"):
            items, _ = await world.api.list(PODS, world.namespace, labels=f"processhub.dev/member={member}")
            assert [item.metadata.name for item in items] == [member]

    await settles(labelled)


async def test_a_cordon_alone_drains_no_member_of_a_hub_with_replicas(world: World) -> None:
    await world.hub(members={"replicas": 2})
    await world.children(IDS)
    before = await world.running(IDS)

    await world.cordon((await world.pod("hub-0")).spec.node_name)

    async def unmoved() -> None:
        untouched(before, await world.running(IDS))

    await stays(unmoved, 1.5)


async def test_hubs_of_one_name_in_two_namespaces_are_independent(world: World, elsewhere: World) -> None:
    await asyncio.gather(world.hub(members={"replicas": 1}), elsewhere.hub(members={"replicas": 1}))
    await asyncio.gather(world.child("a"), elsewhere.child("a"))
    here, there = await asyncio.gather(world.running(["a"]), elsewhere.running(["a"]))
    assert here["a"].pid != there["a"].pid

    await world.delete_children("a")

    await world.no_process("a")
    untouched(there, await elsewhere.running(["a"]))
