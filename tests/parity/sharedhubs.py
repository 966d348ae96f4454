"""Changes to shared hubs, undone when the test ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hookworld import edit
from leases import past_the_second_of_its_lease
from livehub import Live, started
from waiting import eventually, until

from localcluster.faults import Faults
from processhub import Hub
from processhub.api.meta import find_condition
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.kinds import HUBS

NEVER_UP = {"target": "sample_actors:SlowInit", "args": {"seconds": 600}}
WITHOUT_QUORUM = {"partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 3}}


async def kill_member(product: Live, faults: Faults, member: str) -> None:
    """Kill the member's agent with SIGKILL, at a time at which the kubelet notices it."""
    await past_the_second_of_its_lease(product.api, product.namespace, member)
    await faults.kill_pod(f"{product.namespace}/{member}")


@asynccontextmanager
async def edited(product: Live, hub: Hub, **spec: Any) -> AsyncIterator[None]:
    """Merge this into the hub's spec; at the end, restore the spec and wait until the hub is at rest."""
    before = json.loads(await product.kubectl("get", "hub", hub.name, "-o", "json"))["spec"]
    try:
        await edit(product, hub.name, **spec)
        yield
    finally:
        whole = [{"op": "replace", "path": "/spec", "value": before}]
        await product.api.patch(HUBS, product.namespace, hub.name, whole, content_type=JSON_PATCH)
        await at_rest(product, hub, before["members"]["replicas"])


async def at_rest(product: Live, hub: Hub, members: int = 2) -> None:
    """Wait until this many members are ready, the hub has a quorum and no child moves."""
    await product.ready(hub.name, members)
    await until(lambda: not hub.is_partitioned(), f"a quorum of hub {hub.name}")

    async def balanced() -> bool:
        found = await product.api.get(HUBS, product.namespace, hub.name)
        condition = find_condition(found.status.conditions, "Balanced")
        current = condition is not None and condition.observed_generation == found.metadata.generation
        return current and condition.status == "True"

    await eventually(balanced, f"hub {hub.name} balanced")


@asynccontextmanager
async def without_quorum(product: Live, hub: Hub) -> AsyncIterator[None]:
    """Scale the hub's quorum above its number of members until the block ends."""
    async with edited(product, hub, **WITHOUT_QUORUM):
        await until(hub.is_partitioned, f"hub {hub.name} partitioned")
        yield


async def placed_by(product: Live, hub: Hub, strategy: str, children: list[dict[str, Any]]) -> dict[str, str]:
    """Return the member of each of these children when the hub places by ``strategy``, and stop the children again."""
    ids = [child["id"] for child in children]
    async with edited(product, hub, distribution={"strategy": strategy}):
        try:
            return await started(hub, children)
        finally:
            await hub.stop_children(ids, wait=True)
