"""The figure of a lost leader: the time until a child that is declared at its end runs, and what the others do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

from bench.lab import BenchError, Lab
from bench.measure import Point, Value
from bench.starts import specs, stop
from localcluster.faults import Faults
from localcluster.rollout import NAMESPACE
from processhub.api.kubernetes import Pod
from processhub.client.hub import Hub
from processhub.client.session import Session
from processhub.cluster.client import Client
from processhub.cluster.kinds import LEASES, PODS

KILLS = 20
_PAUSES = 2
_OTHERS = 100  # children that run all the time
_PATIENCE_SECONDS = 120.0
_OPERATORS = "app.kubernetes.io/component=operator"


async def fail_over(lab: Lab, kills: int = KILLS) -> Sequence[Value]:
    """Kill the leader again and again, and pause it, with a child declared at that moment each time.

    A replica that was killed is replaced before the next kill: the kubelet would restart its container later each time.
    """
    faults = await lab.faults()
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench")
        async with lab.following(namespace, "bench") as (hub, session):
            others = [spec["id"] for spec in specs(_OTHERS, "python", "other")]
            await hub.start_children(specs(_OTHERS, "python", "other"), wait=True, timeout=120)
            before = _lives(session, others)
            killed = [await _lost(client, faults, hub, f"killed-{number}", faults.kill_pod) for number in range(kills)]
            paused = [
                await _lost(client, faults, hub, f"paused-{number}", faults.pause_pod) for number in range(_PAUSES)
            ]
            disturbed = sum(_lives(session, [other])[0] != life for other, life in zip(others, before, strict=True))
            await stop(hub, list(session.registry.records))
    return [
        Value(
            name="killed, until a new child runs",
            unit="s",
            samples=tuple(killed),
            percent=95,
            goal=3.0,
            topic="failover",
            point=Point(series="leader killed"),
        ),
        Value(name="killed, until a new child runs: median", unit="s", samples=(median(killed),), topic="failover"),
        Value(name="paused, until a new child runs: slowest", unit="s", samples=(max(paused),), topic="failover"),
        Value(
            name="other children moved or restarted", unit="", samples=(float(disturbed),), goal=0.0, topic="failover"
        ),
    ]


def _lives(session: Session, ids: Sequence[str]) -> list[object]:
    return [session.registry.records[child_id].nodes for child_id in ids]


async def _lost(client: Client, faults: Faults, hub: Hub, name: str, lose: Callable[[str], Awaitable[object]]) -> float:
    """Seconds from the leader's loss until the child ``name``, declared right then, runs."""
    holder = await _settled(client)
    pod = holder.rpartition("_")[0]
    begun = time.perf_counter()
    await lose(f"{NAMESPACE}/{pod}")
    try:
        result = await hub.start_children(specs(1, "python", name), wait=True, timeout=_PATIENCE_SECONDS)
        took = time.perf_counter() - begun
        if result.errors:
            raise BenchError(f"{name} did not start: {result.errors}")
        return took
    finally:
        await faults.resume_pod(f"{NAMESPACE}/{pod}")
        await client.delete(PODS, NAMESPACE, pod)


async def _settled(client: Client) -> str:
    """The holder of the leader's Lease, once two replicas are ready and one of them leads."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        pods, _ = await client.list(PODS, NAMESPACE, labels=_OPERATORS)
        ready = {
            pod.metadata.name
            for pod in pods
            if isinstance(pod, Pod) and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
        }
        holder = (await client.get(LEASES, NAMESPACE, "processhub-operator")).spec.holder_identity or ""
        if len(pods) == len(ready) == 2 and holder.rpartition("_")[0] in ready:
            await asyncio.sleep(2.5)
            return holder
        if time.monotonic() > deadline:
            raise BenchError(f"no two replicas of the operator are ready: {sorted(ready)}, the leader is {holder!r}")
        await asyncio.sleep(0.2)
