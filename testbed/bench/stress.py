"""Combinations of strategies by number of members and children: how long they take to start, recover and share.

The results are for docs/operations.md: the settings of a Hub must leave room for what is measured here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.lab import BenchError, Lab
from bench.losses import victim
from bench.measure import Value
from bench.processes import highest_rss
from bench.starts import specs, stop
from localcluster.faults import Faults
from processhub.api.hub import Hub as HubObject
from processhub.api.reasons import State
from processhub.client.records import Record
from processhub.client.session import Session
from processhub.cluster.client import Client
from processhub.cluster.kinds import HUBS

# Short names, as in the figures and the table, and the Hub's spec for each.
COMBINATIONS: dict[str, dict[str, Any]] = {
    "hash": {},
    "handover": {"migration": {"strategy": "HotSwap"}, "partitionTolerance": {"strategy": "MajorityQuorum"}},
    "load": {
        "distribution": {"strategy": "LeastLoaded"},
        "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 2},
    },
    "copies": {
        "distribution": {"strategy": "RoundRobin"},
        "redundancy": {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"},
        "partitionTolerance": {"strategy": "MajorityQuorum"},
    },
}
SIZES = ((3, 100), (3, 1000), (10, 1000), (10, 5000))
_PATIENCE_SECONDS = 600.0


async def stress(lab: Lab, members: int, count: int, combination: str) -> Sequence[Value]:
    """Start ``count`` python children on ``members`` members, lose a node, get it back, add a member."""
    spec = COMBINATIONS[combination]
    copies = spec.get("redundancy", {}).get("replicationFactor", 1)
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench", members={"replicas": members}, **spec)
        async with lab.following(namespace, "bench") as (hub, session):
            wanted = specs(count, "python")
            begun = time.perf_counter()
            result = await hub.start_children(wanted, wait=True, timeout=_PATIENCE_SECONDS)
            await _settled(session, count, copies, lambda _: True)
            started = time.perf_counter() - begun
            present = await lab.hub_ready(client, namespace, "bench", within=_PATIENCE_SECONDS)
            lost = await _lose(lab, client, session, present, count, copies)
            await lab.hub_ready(client, namespace, "bench", within=_PATIENCE_SECONDS)
            joined = await _join(lab, client, namespace, members)
            memory = await _highest_member(await lab.faults(), namespace)
            await stop(hub, [spec["id"] for spec in wanted])
    return [
        Value(name="all run", unit="s", samples=(started,)),
        Value(name="StartTimeout and other errors", unit="", samples=(float(len(result.errors)),)),
        Value(name="a node lost, until all run", unit="s", samples=(lost,)),
        Value(name="a member joins, until Balanced", unit="s", samples=(joined,)),
        Value(name="highest RSS of a member", unit="MiB", samples=(memory,)),
    ]


async def _lose(lab: Lab, client: Client, session: Session, present: HubObject, count: int, copies: int) -> float:
    """Seconds from a node's loss until every child has its copies on the others; the node is back then."""
    _, node = await victim(client, present)
    gone = {member.name for member in present.status.members if member.node == node}
    faults = await lab.faults()
    begun = time.perf_counter()
    await faults.kill_node(node)
    try:
        await _settled(session, count, copies, lambda member: member not in gone)
        return time.perf_counter() - begun
    finally:
        await faults.heal_node(node)


async def _join(lab: Lab, client: Client, namespace: str, members: int) -> float:
    begun = time.perf_counter()
    await client.patch(HUBS, namespace, "bench", {"spec": {"members": {"replicas": members + 1}}})
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        hub = await lab.hub_ready(client, namespace, "bench", within=_PATIENCE_SECONDS)
        if len(hub.status.members) == members + 1:
            return time.perf_counter() - begun
        if time.monotonic() > deadline:
            raise BenchError(f"hub bench has {len(hub.status.members)} members")
        await asyncio.sleep(0.1)


async def _settled(session: Session, count: int, copies: int, welcome: Callable[[str], bool]) -> None:
    """Wait until ``count`` children have ``copies`` running copies on welcome members, one of them active."""
    missing: set[str] = set()
    done = asyncio.Event()

    def right(record: Record | None) -> bool:
        nodes = record.nodes if record is not None else ()
        running = [node for node in nodes if node.state == State.RUNNING and welcome(node.name)]
        return len(running) == len(nodes) == copies and sum(node.role == "Active" for node in nodes) == 1

    def look(changed: set[str]) -> None:
        for child_id in changed:
            if right(session.registry.records.get(child_id)):
                missing.discard(child_id)
            else:
                missing.add(child_id)
        if not missing and len(session.registry.records) == count:
            done.set()

    unlisten = session.registry.listen(look)
    try:
        look(set(session.registry.records))
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await done.wait()
    except TimeoutError:
        raise BenchError(
            f"{len(missing)} of {count} children are not as they should be: {sorted(missing)[:3]}"
        ) from None
    finally:
        unlisten()


async def _highest_member(faults: Faults, namespace: str) -> float:
    """The most memory in MiB that the processes of one member had together."""
    pods = [pod["pod"] for pod in await faults.pods() if pod["pod"].startswith(f"{namespace}/")]
    return max([sum(highest_rss(pid) for pid in await faults.pids(pod)) for pod in pods])
