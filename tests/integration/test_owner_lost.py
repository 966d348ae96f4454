"""``onDemand.onOwnerLost: Local``, with default timeouts: the member that gets the request starts the child itself.

The effect of ``Wait``, the default, is tested in test_requests.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from agentharness import token_of
from hubcalls import Caller, Reply
from livehub import Live, live
from waiting import eventually

from localcluster.cluster import Cluster
from localcluster.faults import Faults
from processhub.api.child import Child
from processhub.api.hub import Hub as HubObject
from processhub.api.hub import MemberStatus
from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILDREN, HUBS, untyped

EVENTS = untyped("v1", "events")


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as running:
        await running.actors()
        yield running


class Scene:
    """A hub of three members and an on-demand child on one of them; ``asked`` and ``third`` are the others."""

    def __init__(self, product: Live, caller: Caller, hub: HubObject, child: Child) -> None:
        self._product, self._caller = product, caller
        self.id, self.first = child.id, child
        self.owner = next(member for member in hub.status.members if member.name == child.status.member)
        self.asked, self.third = (member for member in hub.status.members if member.name != self.owner.name)

    async def call(self, member: MemberStatus, request: dict[str, Any]) -> Reply:
        return await self._caller.call(member.pod_ip, self.id, request)

    async def child(self) -> Child:
        found: Child = await self._product.api.get(CHILDREN, self._product.namespace, self.first.metadata.name)
        return found

    async def on_record(self) -> Child:
        """Return the child once it is recorded elsewhere with a newer epoch, and runs there."""

        async def so() -> Child | None:
            child = await self.child()
            (node, *_) = child.status.nodes
            newer = node.epoch > self.first.status.nodes[0].epoch
            return child if newer and node.name != self.owner.name and node.state == "Running" else None

        return await eventually(so, "on record elsewhere", within=60)

    async def moved(self) -> list[str] | None:
        """Return the Events about its moves, once there are any."""
        items, _ = await self._product.api.list(
            EVENTS, self._product.namespace, fields=f"involvedObject.name={self.first.metadata.name},reason=Moved"
        )
        return [item["message"] for item in items if isinstance(item, dict)] or None


@pytest_asyncio.fixture
async def scene(product: Live) -> AsyncIterator[Scene]:
    name = await product.hub(
        replicas=3,
        onDemand={"python": {"target": "sample_actors:Worker"}, "onOwnerLost": "Local"},
        members={"python": {"configMap": "actors"}},
    )
    hub: HubObject = await product.api.get(HUBS, product.namespace, name)
    async with Caller(await token_of(product.api, product.namespace, f"processhub-{name}")) as caller:
        assert (await caller.call(hub.status.members[0].pod_ip, name, {})).status == 200

        async def known() -> Child | None:
            child = (await product.children(name))[name]
            return child if child.status.state == "Running" else None

        found = Scene(product, caller, hub, await eventually(known, "its status"))
        for member in (found.asked, found.third):
            assert (await found.call(member, {})).status == 200  # the route to the child is known
        yield found
    await product.api.delete(HUBS, product.namespace, name)


async def test_the_member_that_gets_the_request_starts_the_child_at_once_and_the_record_follows(
    scene: Scene, faults: Faults
) -> None:
    await faults.kill_node(scene.owner.node)
    try:
        reply = await scene.call(scene.asked, {})
        assert (reply.status, reply.value["member"], reply.value["served"]) == (200, scene.asked.name, 1), reply

        assert (await scene.on_record()).status.member == scene.asked.name
        assert await eventually(scene.moved, "the Event") == [
            f"from {scene.owner.name} to {scene.asked.name}: {scene.asked.name} was asked for it and could not reach "
            f"{scene.owner.name}"
        ]
        reply = await scene.call(scene.third, {})
        assert (reply.value["member"], reply.value["served"]) == (scene.asked.name, 2), reply
    finally:
        await faults.heal_node(scene.owner.node)


async def test_an_owner_that_returns_ends_its_own_copy(scene: Scene, product: Live, faults: Faults) -> None:
    pod = f"{product.namespace}/{scene.owner.name}"
    await faults.pause_pod(pod)
    try:
        reply = await scene.call(scene.asked, {})
        assert (reply.status, reply.value["member"]) == (200, scene.asked.name), reply
    finally:
        await faults.resume_pod(pod)

    child = await scene.on_record()
    assert (child.status.member, child.status.nodes[0].restarts) == (scene.asked.name, 0)

    async def ended() -> Reply | None:
        """Return the response once the owner has ended its own copy and forwards the request."""
        reply = await scene.call(scene.owner, {})
        assert reply.status in (200, 502), reply  # 502: the owner's own copy ends
        return reply if reply.status == 200 and reply.value["member"] == scene.asked.name else None

    assert (await eventually(ended, "the owner's copy ended")).value["served"] == 2


async def test_nothing_is_started_while_a_request_may_still_be_running(scene: Scene, faults: Faults) -> None:
    late = await scene.call(scene.asked, {"sleep": 60})
    assert (late.status, late.code) == (504, "timeout"), late
    await faults.kill_node(scene.owner.node)
    try:
        reply = await scene.call(scene.asked, {})

        assert reply.status == 200, reply
        assert await eventually(scene.moved, "the Event") == [
            f"from {scene.owner.name} to {reply.value['member']}: {scene.owner.name} was lost"
        ]
    finally:
        await faults.heal_node(scene.owner.node)


async def test_members_that_get_requests_at_the_same_time_agree_on_one_owner(scene: Scene, faults: Faults) -> None:
    await faults.kill_node(scene.owner.node)
    try:
        replies = await asyncio.gather(
            *(scene.call(member, {}) for _ in range(20) for member in (scene.asked, scene.third))
        )

        assert {reply.status for reply in replies} <= {200, 502}, replies
        child = await scene.on_record()

        async def agree() -> bool:
            """Assert that all responses are the owner's once the other copy has ended, with 502 only during that."""
            replies = [await scene.call(member, {}) for member in (scene.asked, scene.third)]
            assert {reply.status for reply in replies} <= {200, 502}, replies
            return all(reply.status == 200 and reply.value["member"] == child.status.member for reply in replies)

        await eventually(agree, "one owner")
    finally:
        await faults.heal_node(scene.owner.node)
