"""The figures of a lost member: from the end of its Lease until the registry is right, or passive copies are active."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bench.lab import BenchError, Lab
from bench.measure import Value
from bench.starts import Kind, specs, stop
from localcluster.rollout import NAMESPACE as OPERATOR_NAMESPACE
from processhub.api.hub import Hub as HubObject
from processhub.api.kubernetes import Pod
from processhub.api.naming import lease_name
from processhub.api.reasons import Role, State
from processhub.client.session import Session
from processhub.cluster.client import Client
from processhub.cluster.kinds import LEASES, PODS
from processhub.core.model.membership import LEASE_GRACE_SECONDS

_STANDBY = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}


async def lose_member(lab: Lab, count: int, kind: Kind) -> Sequence[Value]:
    """Cut the power of a member's node; its children must run on the other two.

    Detection is the earliest moment at which the operator may take the member for lost: its last renewal, leaseSeconds
    and the grace second later. The registry is right when each of its children is reported Running elsewhere.
    """
    return await _lose(
        lab, count, kind, f"detection to registry right (about {round(count / 3, -2):,.0f} children lost)", 2
    )


async def promote(lab: Lab, count: int, kind: Kind) -> Sequence[Value]:
    """Cut the power of a member's node, where each child has a passive copy; ends when active ones run elsewhere."""
    name = f"detection to promoted (about {round(count / 3, -2):,.0f} active copies lost)"
    return await _lose(lab, count, kind, name, 1, redundancy=_STANDBY)


async def _lose(lab: Lab, count: int, kind: Kind, name: str, goal: float, **spec: Any) -> Sequence[Value]:
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench", **spec)
        async with lab.following(namespace, "bench") as (hub, session):
            wanted = specs(count, kind)
            result = await hub.start_children(wanted, wait=True, timeout=600)
            if result.errors:
                raise BenchError(f"{len(result.errors)} children did not start")
            present = await lab.hub_ready(client, namespace, "bench")
            member, node = await victim(client, present)
            faults = await lab.faults()
            right = asyncio.create_task(_right_again(session, member))
            await asyncio.sleep(0)
            killed = time.time()
            await faults.kill_node(node)
            try:
                at = await right
                lease = await client.get(LEASES, namespace, lease_name("bench", member))
            finally:
                await faults.heal_node(node)
            await lab.hub_ready(client, namespace, "bench", within=300)
            await stop(hub, [spec["id"] for spec in wanted])
    renewed = datetime.fromisoformat(lease.spec.renew_time or "").timestamp()
    limit = (lease.spec.lease_duration_seconds or 0) + LEASE_GRACE_SECONDS
    return [
        Value(
            name=name,
            unit="s",
            samples=(at - renewed - limit,),
            goal=goal,
            topic="moves",
        ),
        Value(
            name=f"kill to that (leaseSeconds {limit - LEASE_GRACE_SECONDS:g})",
            unit="s",
            samples=(at - killed,),
            topic="moves",
        ),
    ]


async def victim(client: Client, hub: HubObject) -> tuple[str, str]:
    """A member and its node. The node runs no operator, because the loss of an operator is another figure."""
    pods, _ = await client.list(PODS, OPERATOR_NAMESPACE)
    taken = {pod.spec.node_name for pod in pods if isinstance(pod, Pod)}
    for member in hub.status.members:
        if member.node and member.node not in taken:
            return member.name, member.node
    raise BenchError("each member shares its node with an operator pod; more nodes are needed")


async def _right_again(session: Session, member: str) -> float:
    """The wall-clock time at which all children active on ``member`` were reported Running elsewhere."""
    records = session.registry.records
    missing = {child_id for child_id, record in records.items() if record.nodes[0].name == member}
    lost = len(missing)
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def look(changed: set[str]) -> None:
        for child_id in changed & missing:
            node = records[child_id].nodes[0] if child_id in records else None
            if node is not None and node.name != member and (node.role, node.state) == (Role.ACTIVE, State.RUNNING):
                missing.discard(child_id)
        if not missing and not done.done():
            done.set_result(time.time())

    unlisten = session.registry.listen(look)
    try:
        async with asyncio.timeout(300):
            return await done
    except TimeoutError:
        raise BenchError(f"{len(missing)} of {lost} children of {member} do not run after 300 s") from None
    finally:
        unlisten()
