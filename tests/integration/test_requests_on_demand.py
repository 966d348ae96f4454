"""Children on demand: the first request for an id starts one, and ``onOwnerLost: Local``, with default timeouts.

The effect of ``onOwnerLost: Wait``, the default, is tested in test_requests.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agentharness import token_of
from hubcalls import Caller, Reply
from hubcli import Cli
from livehub import Live, live, places, shared
from podworld import nodes_ready
from waiting import alive, eventually, until

from localcluster.cluster import Cluster
from localcluster.faults import Faults
from processhub import Hub
from processhub.api.hub import Hub as HubObject
from processhub.api.hub import MemberStatus
from processhub.client.errors import OutcomeUnknown
from processhub.cluster.client import Client
from processhub.cluster.kinds import HUBS, untyped

EVENTS = untyped("v1", "events")
WORKER = "sample_actors:Worker"


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live")) as running:
        await running.actors()
        yield running


async def test_a_thousand_callers_of_one_unknown_id_start_one_child(product: Live, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    template = {"python": {"target": WORKER, "args": {"starts": str(starts)}}}
    name = await product.hub(
        onDemand={**template, "max": 3}, members={"python": {"configMap": "actors"}, "template": shared(tmp_path)}
    )
    ips, token = await product.addresses(name), await token_of(product.api, product.namespace, f"processhub-{name}")
    async with product.connect(name) as hub, Caller(token) as caller:
        replies = await asyncio.gather(*(caller.call(ips[number % 2], "one", {"n": number}) for number in range(1000)))

        assert Counter(reply.status for reply in replies) == {200: 1000}
        assert sorted(reply.value["served"] for reply in replies) == list(range(1, 1001)), "one child served them all"
        assert len(starts.read_text().splitlines()) == 1

        # Both members have a share of onDemand.max: of ids of both, the hub starts as many as it has room for.
        more = {f"more-{at}": await caller.call(ips[at % 2], f"more-{at}", {}) for at in range(12)}
        assert Counter(reply.status for reply in more.values()) == {200: 2, 429: 10}
        refused, reply = next((child, reply) for child, reply in more.items() if reply.status == 429)
        assert reply.code == "busy"
        assert "onDemand.max" in reply.value["detail"]
        assert reply.headers["Retry-After"] == "1"
        assert (await caller.call(ips[0], "one", {})).status == 200

        # A burst beyond onDemand.max: a rejected request starts nothing later, when another child ends.
        await product.kubectl("patch", "hub", name, "--type=merge", '--patch={"spec": {"onDemand": {"max": 8}}}')

        async def raised() -> bool:
            return [(await caller.call(ip, refused, {})).status for ip in ips] == [200, 200]

        await eventually(raised, "both members have their new share")
        replies = await asyncio.gather(*(caller.call(ips[at % 2], f"burst-{at}", {}) for at in range(24)))
        assert Counter(reply.status for reply in replies) == {200: 4, 429: 20}
        served = {f"burst-{at}" for at, reply in enumerate(replies) if reply.status == 200}
        served |= {"one", refused} | {child for child, reply in more.items() if reply.status == 200}
        await until(lambda: places(hub).keys() == served, "all that were served are on record, and no others")
    assert await product.children(name) == {}


async def test_a_hub_without_a_view_places_the_child_on_the_member_that_was_asked(product: Live) -> None:
    """With the strategy Local, only the operator knows which member was asked first."""
    name = await product.hub(
        distribution={"strategy": "Local"},
        onDemand={"python": {"target": WORKER}, "max": 3},
        members={"python": {"configMap": "actors"}},
    )
    ips = await product.addresses(name)
    async with Caller(await token_of(product.api, product.namespace, f"processhub-{name}")) as caller:
        for at, ip in enumerate(ips):
            replies = await asyncio.gather(*(caller.call(ip, f"near-{at}", {}) for _ in range(50)))
            assert {(reply.status, reply.value.get("member")) for reply in replies} == {(200, f"{name}-{at}")}
            assert sorted(reply.value["served"] for reply in replies) == list(range(1, 51)), "one child served them all"

        assert (await caller.call(ips[0], "third", {})).status == 200
        reply = await caller.call(ips[1], "fourth", {})
        assert (reply.status, reply.code) == (429, "busy")
        assert "onDemand.max" in reply.value["detail"]
    assert await product.children(name) == {}


async def test_the_ttl_ends_a_child_despite_restarts_and_the_next_request_starts_another(product: Live) -> None:
    name = await product.hub(
        onDemand={"python": {"target": WORKER}, "ttlSeconds": 4}, members={"python": {"configMap": "actors"}}
    )
    async with product.connect(name) as hub:
        await hub.call("t", {})
        await until(lambda: "t" in places(hub), "on record")
        first = epoch_of(hub, "t")
        with pytest.raises(OutcomeUnknown):
            await hub.call("t", {"crash": True})  # a restart does not reset the time
        assert (await hub.call("t", {}))["served"] == 1

        served: list[int] = []

        async def another() -> bool:
            served.append((await hub.call("t", {}))["served"])
            return 1 in served and epoch_of(hub, "t") > first  # the record follows the answer

        await eventually(another, "another child when the ttlSeconds of the first are over", within=30)

        # The request at hand is completed, although the time ends during it.
        assert (await hub.call("u", {"sleep": 4.5}))["served"] == 1


async def test_the_command_line_handles_a_child_that_a_request_has_started(product: Live) -> None:
    name = await product.hub(onDemand={"python": {"target": "processhub.examples:Counter"}, "ttlSeconds": 600})
    cli = Cli(product, name)

    async def expected() -> str | None:
        found: str | None = (await cli("explain cart/7 -o json")).json["wouldStartOn"]
        return found

    member = await eventually(expected, "a view is open")
    asked = await cli("call cart/7", '{"op": "add"}')
    assert asked.code == 0, asked.err

    async def recorded() -> bool:
        return bool((await cli("explain cart/7 -o json")).json["onRecord"])

    await eventually(recorded, "on record")
    ((found, here, pod, _, _, state, pid, on_demand),) = (await cli("where cart/7")).rows
    assert (found, here, pod, state, on_demand) == ("cart/7", member, member, "Running", "True")
    assert alive(int(pid))
    assert [row[0] for row in (await cli("list")).rows] == ["cart/7"]
    assert (await cli("list -o name")).out == f"hub/{name}\n"
    explained = (await cli("explain cart/7")).out
    assert f"has {member} for its id by the hash" in explained
    assert "600 s after its first start (spec.onDemand.ttlSeconds)" in explained
    assert (await cli("exec cart/7 -- sh -c", "echo $HUB_CHILD_ID")).out == "cart/7\n"
    assert (await cli("logs cart/7")).code == 0
    assert (await cli("await cart/7")).out == f"cart/7 running on {member} (pid {pid})\n"

    other = ({f"{name}-0", f"{name}-1"} - {member}).pop()
    moved = await cli(f"move cart/7 {other} --wait")
    assert (moved.code, moved.out) == (0, f"cart/7 running on {other}\n"), moved.err
    (row,) = (await cli("where cart/7")).rows
    assert row[1] == other
    stopped = await cli("stop cart/7 --wait")
    assert (stopped.code, stopped.out) == (0, "cart/7 stopped; the next request starts it again\n"), stopped.err
    assert (await cli("list")).rows == []
    assert (await cli("explain cart/7 -o json")).json["member"] is None
    assert (await cli("call cart/7", '{"op": "add"}')).out == asked.out, "it starts anew"
    assert await product.children(name) == {}


def epoch_of(hub: Hub, child_id: str) -> int:
    """Return the epoch under which the child is on record; -1 if it is not."""
    nodes = hub.registry_dump().get(child_id, {}).get("nodes", [])
    return max((node["epoch"] for node in nodes), default=-1)


class Scene:
    """A hub of three members and an on-demand child on one of them; ``asked`` and ``third`` are the others."""

    def __init__(self, product: Live, caller: Caller, client: Hub, hub: HubObject, first: dict[str, Any]) -> None:
        self._product, self._caller, self._client = product, caller, client
        self.id, self._first = hub.metadata.name, first
        self.owner = next(member for member in hub.status.members if member.name == first["name"])
        self.asked, self.third = (member for member in hub.status.members if member.name != self.owner.name)

    async def call(self, member: MemberStatus, request: dict[str, Any]) -> Reply:
        return await self._caller.call(member.pod_ip, self.id, request)

    async def on_record(self) -> dict[str, Any]:
        """Return the child's place once it is recorded elsewhere with a newer epoch, and runs there."""

        async def so() -> dict[str, Any] | None:
            node = place(self._client, self.id)
            if node is None or node["name"] == self.owner.name or node["epoch"] <= self._first["epoch"]:
                return None
            return node if node["state"] == "Running" else None

        return await eventually(so, "on record elsewhere", within=60)

    async def events(self, reason: str) -> list[str] | None:
        """Return the messages of the Hub's Events for this reason, once there are any."""
        fields = f"involvedObject.name={self.id},reason={reason}"
        items, _ = await self._product.api.list(EVENTS, self._product.namespace, fields=fields)
        return [item["message"] for item in items if isinstance(item, dict)] or None


def place(client: Hub, child_id: str) -> dict[str, Any] | None:
    """Return where the child is on record, if it is on one member alone."""
    nodes = client.registry_dump().get(child_id, {}).get("nodes", [])
    return nodes[0] if len(nodes) == 1 else None


@pytest_asyncio.fixture
async def scene(product: Live) -> AsyncIterator[Scene]:
    await nodes_ready(product.api)  # else two members of three could be on the node that a test kills
    name = await product.hub(
        replicas=3,
        onDemand={"python": {"target": WORKER}, "onOwnerLost": "Local"},
        members={"python": {"configMap": "actors"}},
    )
    hub: HubObject = await product.api.get(HUBS, product.namespace, name)
    caller = Caller(await token_of(product.api, product.namespace, f"processhub-{name}"))
    async with product.connect(name) as client, caller:
        assert (await caller.call(hub.status.members[0].pod_ip, name, {})).status == 200

        async def known() -> dict[str, Any] | None:
            node = place(client, name)
            return node if node is not None and node["state"] == "Running" else None

        found = Scene(product, caller, client, hub, await eventually(known, "on record"))
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

        assert (await scene.on_record())["name"] == scene.asked.name
        assert await eventually(lambda: scene.events("Moved"), "the Event") == ["1 child on demand: moved"]
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

    node = await scene.on_record()
    assert (node["name"], node["restarts"]) == (scene.asked.name, 0)

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
        (lost,) = await eventually(lambda: scene.events("MemberLost"), "the Event")
        assert lost.endswith("1 child placed on others"), lost
    finally:
        await faults.heal_node(scene.owner.node)


async def test_members_that_get_requests_at_the_same_time_agree_on_one_owner(scene: Scene, faults: Faults) -> None:
    await faults.kill_node(scene.owner.node)
    try:
        replies = await asyncio.gather(
            *(scene.call(member, {}) for _ in range(20) for member in (scene.asked, scene.third))
        )

        assert {reply.status for reply in replies} <= {200, 502}, replies
        owner = (await scene.on_record())["name"]

        async def agree() -> bool:
            """Assert that all responses are the owner's once the other copy has ended, with 502 only during that."""
            replies = [await scene.call(member, {}) for member in (scene.asked, scene.third)]
            assert {reply.status for reply in replies} <= {200, 502}, replies
            return all(reply.status == 200 and reply.value["member"] == owner for reply in replies)

        await eventually(agree, "one owner")
    finally:
        await faults.heal_node(scene.owner.node)
