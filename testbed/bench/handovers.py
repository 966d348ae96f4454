"""The figure of moves with state: all children of one member move to another while they get requests all the time."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.lab import BenchError, Lab
from bench.measure import Value
from bench.starts import all_ready, stop
from processhub.api.reasons import State
from processhub.client.errors import HubError
from processhub.client.hub import Hub
from processhub.client.session import Session
from processhub.cluster.client import Client
from processhub.cluster.kinds import HUBS

_STATE_BYTES = 1024
_CALLERS = 8
_MODULE = '''
from processhub import Actor

class Keeper(Actor):
    """Counts the requests that it was sent; its state has a size."""

    async def init(self, args):
        self.state = {"count": 0, "blob": "x" * args["size"]}

    async def handle_call(self, request):
        self.state["count"] += 1
        return self.state["count"]
'''


async def hand_over(lab: Lab, count: int) -> Sequence[Value]:
    """Swap the weights of two members: every child moves with its state.

    Each response is the number of requests that its child has answered. So a lost state shows, and so does a request
    that was run twice.
    """
    async with lab.connected() as client, lab.namespace() as namespace:
        code = ("-n", namespace, "create", "configmap", "code", f"--from-literal=keeper.py={_MODULE}")
        await asyncio.to_thread((await lab.cluster()).kubectl, *code)
        await lab.make_hub(
            client,
            namespace,
            "bench",
            members={"replicas": 2, "weights": {"bench-1": 0}, "python": {"configMap": "code"}},
            distribution={"loadCapPercent": 1000, "rebalance": {"maxMovesPerSecond": count}},
            migration={"strategy": "HotSwap"},
        )
        async with lab.following(namespace, "bench") as (hub, session):
            python = {"target": "keeper:Keeper", "args": {"size": _STATE_BYTES}}
            ids = [f"k{number}" for number in range(count)]
            specs = [{"id": child_id, "python": python} for child_id in ids]
            result = await hub.start_children(specs, wait=True, timeout=600)
            if result.errors:
                raise BenchError(f"{len(result.errors)} children did not start")
            await lab.hub_ready(client, namespace, "bench")
            await all_ready(client, namespace, count)  # else statuses of the start are written during the moves
            took, answers, failures = await _moved_while_asked(client, namespace, hub, session, ids)
            lost = [child_id for child_id in ids if await hub.call(child_id, {}) != answers[child_id] + 1]
            await stop(hub, ids)
            await hub.close_requests()
    return [
        Value(
            name=f"{count:,} children with {_STATE_BYTES} bytes of state moved",
            unit="s",
            samples=(took,),
            goal=0.8,
        ),
        Value(name="states lost", unit="", samples=(float(len(lost)),), goal=0.0),
        Value(name="requests answered meanwhile", unit="", samples=(float(sum(answers.values())),)),
        Value(name="requests failed meanwhile", unit="", samples=(float(sum(failures.values())),), goal=0.0),
    ]


async def _moved_while_asked(
    client: Client, namespace: str, hub: Hub, session: Session, ids: list[str]
) -> tuple[float, Counter[str], Counter[str]]:
    answers, failures = Counter[str](), Counter[str]()
    done = asyncio.Event()

    async def ask(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 which child is called, no secret
        while not done.is_set():
            child_id = chance.choice(ids)
            try:
                await hub.call(child_id, {}, timeout=30)
                answers[child_id] += 1
            except HubError as error:
                failures[str(error)[:60]] += 1

    async with asyncio.TaskGroup() as group:
        for seed in range(_CALLERS):
            group.create_task(ask(seed))
        await asyncio.sleep(0.5)
        begun = time.perf_counter()
        weights: dict[str, Any] = {"spec": {"members": {"weights": {"bench-0": 0, "bench-1": 1}}}}
        await client.patch(HUBS, namespace, "bench", weights)
        try:
            await _all_on(session, ids, "bench-1")
        finally:
            done.set()
        took = time.perf_counter() - begun
    return took, answers, failures


async def _all_on(session: Session, ids: list[str], member: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        records = (session.registry.records.get(child_id) for child_id in ids)
        places = [record.nodes if record else () for record in records]
        if all(len(nodes) == 1 and (nodes[0].name, nodes[0].state) == (member, State.RUNNING) for nodes in places):
            return
        if time.monotonic() > deadline:
            raise BenchError(f"not all children are on {member} after 120 s")
        await asyncio.sleep(0.02)
