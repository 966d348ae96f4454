"""Children that members start at the first request for their id: with joins, losses, and without an operator."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator

import aiohttp
from agentharness import token_of
from hubcalls import Caller
from operatorworld import World, members_of, never_two, started_once, untouched
from settling import settles

from processhub.api.slice import Activation
from processhub.cluster.kinds import CHILDREN

pytest_plugins = ("operatorworld",)
# Answers each request with its own pid. Its modules are few, so that hundreds of them start in some seconds.
SERVER = """
import os, socket
server = socket.socket(socket.AF_UNIX)
server.bind(os.environ["HUB_SOCKET"])
server.listen(64)
pid = str(os.getpid())
head = f"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: {len(pid)}\\r\\n\\r\\n"
answer = (head + pid).encode()
while True:
    caller, _ = server.accept()
    sent = b""
    while (part := caller.recv(65536)):
        sent += part
        if sent.endswith(b"\\r\\n\\r\\n{}"):
            caller.sendall(answer)
            break
    caller.close()
"""
ON_DEMAND = {"exec": {"command": [sys.executable, "-SIc", SERVER]}}


class Load:
    """Callers that ask for one new id after the other, each id at all members at the same time.

    ``answered``: the ids of which every caller got an answer.
    """

    def __init__(self, world: World, caller: Caller) -> None:
        self._world, self._caller = world, caller
        self._numbers = itertools.count()
        self.addresses: list[str] = []
        self.answered: set[str] = set()

    async def learn(self) -> None:
        """Ask at the members that the Hub has now."""
        self.addresses = [member.pod_ip for member in (await self._world.get_hub()).status.members]

    async def more(self, count: int) -> None:
        """Wait until this many more ids were answered."""
        wanted = len(self.answered) + count

        async def check() -> None:
            assert len(self.answered) >= wanted

        await settles(check)

    async def run(self, over: asyncio.Event) -> None:
        """Ask until it is over; the requests that are under way are completed."""
        while not over.is_set():
            child_id = f"asked/{next(self._numbers)}"
            await asyncio.gather(*(self.ask(address, child_id) for address in self.addresses))
            self.answered.add(child_id)

    async def ask(self, address: str, child_id: str) -> int:
        """Ask a member for the child, again if the member or the owner is lost meanwhile; returns the child's pid.

        A request that has waited in vain for an owner fails the test: it is answered 503 no_owner.
        """
        while True:
            try:
                reply = await self._caller.call(address, child_id, {})
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)  # the member is starting again
                continue
            if reply.status == 200:
                return int(reply.value)
            assert reply.code in ("outcome_unknown", "not_ready"), (child_id, address, reply)
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def asking(world: World) -> AsyncIterator[Load]:
    """Yield callers at the members of the hub, once these may start ids by themselves."""

    async def may_start() -> None:
        orders = [item.spec.activation for item in await world.slices() if item.metadata.name.endswith(".0")]
        assert all(isinstance(order, Activation) and order.phase == "Open" for order in orders), orders

    await settles(may_start)
    async with Caller(await token_of(world.api, world.namespace, "processhub-hub")) as caller:
        load = Load(world, caller)
        await load.learn()
        yield load


async def on_record(world: World) -> set[str]:
    """Return the ids that are on record, once those are all that run."""

    async def check() -> set[str]:
        found = set(await world.record())
        assert found == world.watch.live().keys()
        return found

    return await settles(check)


async def no_child_objects(world: World) -> None:
    """Assert that no Child object was made."""
    items, _ = await world.api.list(CHILDREN, world.namespace)
    assert items == []


async def test_no_id_runs_twice_while_a_member_joins_and_a_member_and_a_leader_are_killed(world: World) -> None:
    await world.hub(onDemand=ON_DEMAND)
    over = asyncio.Event()
    async with asking(world) as load:
        async with asyncio.TaskGroup() as callers:
            for _ in range(4):
                callers.create_task(load.run(over))
            await load.more(20)
            await world.kubectl("scale", "hub/hub", "--replicas=4")
            await world.hub_ready(members=4)
            await load.learn()
            await load.more(20)

            await world.kill_agent("hub-1")
            await load.more(20)
            holder = await world.operators.kill_leader()
            await load.more(20)
            await world.operators.leader_after(holder)
            await world.hub_ready(members=4)
            await load.more(20)
            over.set()

        # If its member was killed before the child was on record, the next request starts it anew, and nothing else.
        lost = load.answered - await on_record(world)
        assert {run.member for child_id in lost for run in world.watch.runs()[child_id]} <= {"hub-1"}
        await asyncio.gather(*(load.ask(load.addresses[0], child_id) for child_id in lost))
    places = await world.running(load.answered, within=90)
    never_two(world.watch)
    assert len(members_of(places)) == 4, "the member that joined starts ids too"
    await no_child_objects(world)


async def test_members_start_new_ids_while_no_operator_runs(world: World) -> None:
    await world.hub(members={"replicas": 2}, onDemand=ON_DEMAND)
    ids = [f"asked/{number}" for number in range(20)]
    async with asking(world) as load:
        await load.ask(load.addresses[0], "before")
        before = await world.running(["before"])
        await world.scale_operators(0)
        pids = await asyncio.gather(*(load.ask(address, child_id) for child_id in ids for address in load.addresses))
    found = {child_id: set(pids[2 * at : 2 * at + 2]) for at, child_id in enumerate(ids)}
    live = {child_id: {run.pid for run in runs} for child_id, runs in world.watch.live().items()}
    assert {child_id: live[child_id] for child_id in ids} == found

    await world.scale_operators(2)
    after = await world.running(["before", *ids])
    untouched(before, after)
    assert {child_id: {after[child_id].pid} for child_id in ids} == found
    assert set(members_of(after)) == {"hub-0", "hub-1"}

    async def in_status() -> None:
        status = (await world.get_hub()).status
        shown = {entry.id: [(node.name, node.pid) for node in entry.nodes] for entry in status.registry}
        assert shown == {child_id: [(place.member, place.pid)] for child_id, place in after.items()}
        assert (status.children.desired, status.children.running) == (21, 21)

    await settles(in_status)
    started_once(world.watch.runs())
    await no_child_objects(world)
