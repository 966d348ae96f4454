"""The names of the simulated cluster: its hub, its nodes, and the members of the hub."""

from __future__ import annotations

from memoryapi import Json
from memoryrequests import Key

HUB, LEADER = Key("hubs", "ns", "hub"), Key("leases", "ns", "processhub-operator")
NODES = ("node-0", "node-1", "node-2", "node-3")


def is_per_node(hub: Json) -> bool:
    """Whether each node has a member of the hub."""
    return hub["spec"]["members"].get("mode") == "PerNode"


def members_of(hub: Json) -> tuple[str, ...]:
    """Return the names of the members that a hub is to have."""
    return (
        NODES if is_per_node(hub) else tuple(f"hub-{ordinal}" for ordinal in range(hub["spec"]["members"]["replicas"]))
    )
