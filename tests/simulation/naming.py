"""The names of the simulated cluster: its hub, its nodes, and the members of the hub."""

from __future__ import annotations

from memoryapi import Json
from memoryrequests import Key

HUB, LEADER = Key("hubs", "ns", "hub"), Key("leases", "ns", "processhub-operator")
NODES = ("node-0", "node-1", "node-2", "node-3")
CHILDREN = tuple(f"c{number}" for number in range(8))  # the names of Children
DEMANDED = tuple(f"d{number}" for number in range(10))  # ids that requests start


def is_per_node(hub: Json) -> bool:
    """Whether each node has a member of the hub."""
    return hub["spec"]["members"].get("mode") == "PerNode"


def members_of(hub: Json) -> tuple[str, ...]:
    """Return the names of the members that a hub is to have."""
    return (
        NODES if is_per_node(hub) else tuple(f"hub-{ordinal}" for ordinal in range(hub["spec"]["members"]["replicas"]))
    )


def is_member(pod: Json) -> bool:
    """Whether the hub's workload has made this Pod."""
    owners = pod["metadata"].get("ownerReferences", ())
    return any(owner["kind"] in ("StatefulSet", "DaemonSet") for owner in owners)


def pod_workload(command: str) -> Json:
    """The workload of a child that is a Pod, which runs this command."""
    return {"pod": {"template": {"spec": {"containers": [{"name": "main", "image": "i", "command": [command]}]}}}}


def command_of(workload: Json) -> list[str]:
    """The command of a workload."""
    holder = workload.get("exec") or workload["pod"]["template"]["spec"]["containers"][0]
    command: list[str] = holder["command"]
    return command


def _drained(hub: Json) -> dict[str, str]:
    """How each member is drained that users have drained: "force", or ""."""
    names = hub["metadata"].get("annotations", {}).get("processhub.dev/drained", "").split(",")
    return {name: way for name, _, way in (each.partition("=") for each in names) if name}


def taking(hub: Json) -> set[str]:
    """Return the members that a hub is to have and that take children."""
    weights = hub["spec"]["members"].get("weights", {})
    return {name for name in members_of(hub) if weights.get(name) != 0 and name not in _drained(hub)}


def stopped_by_force(hub: Json) -> set[str]:
    """Return the members that are to run no child, not even one that is bound to them."""
    return {name for name, way in _drained(hub).items() if way == "force"}


def is_bound(item: Json) -> bool:
    """Whether a Child or a ChildSet says that children stay with their member."""
    spec = item.get("spec", {})
    return bool(spec.get("template", spec).get("pinned"))
