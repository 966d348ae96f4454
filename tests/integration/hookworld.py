"""Reads and waits for tests of hooks: the objects of a hub on the API server."""

from __future__ import annotations

from typing import Any

from livehub import Live
from waiting import eventually

from processhub.api.child import NodeStatus
from processhub.api.hooks import PRE_EVENTS, HookEvent
from processhub.api.meta import Condition, find_condition
from processhub.cluster.kinds import CHILDREN, HUBS, untyped

EVENTS = untyped("v1", "events")
TOLD = sorted(set(HookEvent) - PRE_EVENTS)
SHORT = {"leaseSeconds": 6, "stopSeconds": 3, "startSeconds": 10}


async def ready(product: Live, *names: str) -> dict[str, NodeStatus]:
    """Return the pid and epoch of each child once it runs."""

    async def look() -> dict[str, NodeStatus] | None:
        found = {}
        for name in names:
            child = await product.api.get(CHILDREN, product.namespace, name)
            condition = find_condition(child.status.conditions, "Ready")
            if condition is None or condition.status != "True":
                return None
            found[name] = child.status.nodes[0]
        return found

    return await eventually(look, f"{names} ready")


async def edit(product: Live, name: str, **spec: Any) -> None:
    """Edit a Hub and wait until its operator has observed the edit."""
    edited = await product.api.patch(HUBS, product.namespace, name, {"spec": spec})

    async def seen() -> bool:
        hub = await product.api.get(HUBS, product.namespace, name)
        return hub.status.observed_generation >= edited.metadata.generation

    await eventually(seen, f"hub {name} observed")


async def delete_child(product: Live, name: str) -> None:
    await product.api.delete(CHILDREN, product.namespace, name)


async def warnings(product: Live, name: str) -> list[str]:
    items, _ = await product.api.list(
        EVENTS, product.namespace, fields=f"involvedObject.name={name},reason=HookFailed,type=Warning"
    )
    return [item["message"] for item in items if isinstance(item, dict)]


async def condition(product: Live, name: str, kind: str, reason: str) -> Condition:
    """Return the Child's condition once it has this reason for the current spec."""

    async def look() -> Condition | None:
        child = await product.api.get(CHILDREN, product.namespace, name)
        found = find_condition(child.status.conditions, kind)
        current = found is not None and found.observed_generation == child.metadata.generation
        return found if found is not None and current and found.reason == reason else None

    return await eventually(look, f"{name}: {kind} {reason}")
