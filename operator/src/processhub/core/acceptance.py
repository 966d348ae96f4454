"""Whether a Hub or a Child can be served as it is: an ordered chain of small checks, each with reason and sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.hub import HubSpec
from processhub.api.reasons import Reason

STRATEGIES = ("ConsistentHashing", "Guided")
MAX_WORKLOAD_BYTES = 128 * 1024
# What a Pod's own restart policy may be under a child's: Kubernetes must not restart what the child's policy lets rest.
_POD_RESTARTS = {
    "Permanent": ("Always", "OnFailure", "Never"),
    "Transient": ("OnFailure", "Never"),
    "Temporary": ("Never",),
}
LATER_STRATEGIES = ("RoundRobin", "LeastLoaded", "Modulo", "Local", "NotLocal", "ForEach")


class Refusal(msgspec.Struct, frozen=True):
    """Why something is not accepted, and what to write instead."""

    reason: Reason
    message: str


HubCheck = Callable[[HubSpec], Refusal | None]
ChildCheck = Callable[[ChildSpec, HubSpec], Refusal | None]


def refuse_hub(spec: HubSpec) -> Refusal | None:
    """The first check that the Hub fails, None where it is accepted."""
    return next((refusal for check in _HUB_CHECKS if (refusal := check(spec))), None)


def refuse_child(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    """The first check that the Child fails in a hub with this spec, None where it is accepted."""
    return next((refusal for check in _CHILD_CHECKS if (refusal := check(spec, hub))), None)


def _later(field: str, instead: str) -> Refusal:
    return Refusal(Reason.NOT_SUPPORTED_YET, f"{field} is not supported yet; {instead}")


def _distribution(spec: HubSpec) -> Refusal | None:
    strategy = spec.distribution.strategy
    if strategy in STRATEGIES:
        return None
    if strategy in LATER_STRATEGIES:
        return _later(f"spec.distribution.strategy {strategy}", f"use one of {_listed(STRATEGIES)}")
    return Refusal(
        Reason.UNKNOWN_STRATEGY,
        f"spec.distribution.strategy {strategy!r} is not known; there are {_listed(STRATEGIES + LATER_STRATEGIES)}",
    )


def _redundancy(spec: HubSpec) -> Refusal | None:
    if spec.redundancy.strategy != "Singularity":
        return _later(f"spec.redundancy.strategy {spec.redundancy.strategy}", "use Singularity")
    if spec.redundancy.redundancy_signal != "None":
        return _later(f"spec.redundancy.redundancySignal {spec.redundancy.redundancy_signal}", "use None")
    return None


def _migration(spec: HubSpec) -> Refusal | None:
    if spec.migration.strategy != "ColdSwap":
        return _later(f"spec.migration.strategy {spec.migration.strategy}", "use ColdSwap")
    return None


def _partitions(spec: HubSpec) -> Refusal | None:
    if spec.partition_tolerance.strategy != "Divergence":
        return _later(f"spec.partitionTolerance.strategy {spec.partition_tolerance.strategy}", "use Divergence")
    return None


def _on_demand(spec: HubSpec) -> Refusal | None:
    return _later("spec.onDemand", "leave it out") if spec.on_demand is not None else None


def _hooks(spec: HubSpec) -> Refusal | None:
    return _later("spec.hooks", "leave it out") if spec.hooks else None


def _static_children(spec: HubSpec) -> Refusal | None:
    for child in spec.children:
        if not child.id:
            return Refusal(Reason.INVALID, "an entry of spec.children has no id; each static child needs one")
        if child.hub:
            return Refusal(Reason.INVALID, f"spec.children {child.id!r}: leave hub out, it is this hub")
    return None


def _workload(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    if spec.on_demand:
        return _later("spec.onDemand", "use exec, python or pod")
    if spec.exec is None and spec.python is None and spec.pod is None:
        return Refusal(Reason.INVALID, "spec names no workload; give one of exec, python or pod")
    return None


def _pod(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    """What no API server would refuse, or only when the Pod is made."""
    if spec.pod is None:
        return None
    field = "spec.pod.template"
    pod = spec.pod.template.get("spec")
    containers = pod.get("containers") if isinstance(pod, dict) else None
    if not isinstance(pod, dict) or not isinstance(containers, list) or not containers:
        return Refusal(Reason.INVALID, f"{field} has no spec.containers; give at least one container with an image")
    if pod.get("nodeName"):
        return Refusal(
            Reason.INVALID,
            f"{field}.spec.nodeName: a pod child runs on its member's node; leave nodeName out (spec.nodes of a Guided "
            "hub chooses the member)",
        )
    allowed = _POD_RESTARTS[spec.restart_policy]
    if (pod.get("restartPolicy") or allowed[0]) not in allowed:
        return Refusal(
            Reason.INVALID,
            f"{field}.spec.restartPolicy {pod['restartPolicy']} contradicts the child's restartPolicy "
            f"{spec.restart_policy}; leave it out or use {' or '.join(allowed)}",
        )
    return None


def _lifetimes(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    if spec.ttl_seconds is not None:
        return _later("spec.ttlSeconds", "leave it out")
    if spec.idle_seconds is not None:
        return _later("spec.idleSeconds", "leave it out")
    return None


def _mapping(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    guided = hub.distribution.strategy == "Guided"
    if not guided:
        if not spec.nodes:
            return None
        return Refusal(
            Reason.INVALID_CHILD_MAPPING,
            f"spec.nodes is for hubs with distribution strategy Guided, this hub's is {hub.distribution.strategy};"
            " leave nodes out, or change the hub",
        )
    if not spec.nodes:
        return Refusal(
            Reason.MISSING_CHILD_MAPPING,
            "the hub's distribution strategy is Guided; give spec.nodes with the name of a member",
        )
    if len(spec.nodes) != 1:
        return Refusal(
            Reason.CHILD_REPLICATION_MISMATCH,
            f"spec.nodes names {len(spec.nodes)} members, but the hub keeps 1 copy of a child; name exactly 1",
        )
    return None


def refuse_size(workload: str) -> Refusal | None:
    """Where the workload (its canonical JSON) would not leave a slice room for others."""
    size = len(workload.encode())
    if size <= MAX_WORKLOAD_BYTES:
        return None
    return Refusal(
        Reason.INVALID,
        f"the workload is {size} bytes of JSON, at most {MAX_WORKLOAD_BYTES} are possible; "
        "keep large data in a ConfigMap or a volume of the members",
    )


def unknown_member(spec: ChildSpec, members: Iterable[str]) -> Refusal | None:
    """Where spec.nodes names a member that the hub does not have."""
    names = set(members)
    for node in spec.nodes:
        if node not in names:
            return Refusal(
                Reason.INVALID_CHILD_MAPPING,
                f"spec.nodes: the hub has no member {node!r}; its members are {_listed(sorted(names)) or 'none yet'}",
            )
    return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


_HUB_CHECKS: tuple[HubCheck, ...] = (
    _distribution,
    _redundancy,
    _migration,
    _partitions,
    _on_demand,
    _hooks,
    _static_children,
)
_CHILD_CHECKS: tuple[ChildCheck, ...] = (_workload, _pod, _lifetimes, _mapping)
