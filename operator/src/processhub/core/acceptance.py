"""Acceptance of Hubs and Children: an ordered chain of small checks, each of which gives a reason and a message."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.hooks import Hook
from processhub.api.hub import HubSpec, OnDemand
from processhub.api.reasons import Reason
from processhub.core.listing import MemberNames, counted
from processhub.core.model.podshape import wrong_shape
from processhub.core.strategies import BUILT_IN
from processhub.core.strategies.migration import BUILT_IN as WAYS

STRATEGIES = tuple(BUILT_IN)
REDUNDANCIES = ("Singularity", "Replication")
MIGRATIONS = tuple(WAYS)
PARTITIONS = ("Divergence", "StaticQuorum", "DynamicQuorum", "MajorityQuorum")
MAX_WORKLOAD_BYTES = 128 * 1024
# Which restart policies a Pod may have under each policy of a child. Kubernetes must not restart a Pod whose child is
# not to be restarted.
_POD_RESTARTS = {
    "Permanent": ("Always", "OnFailure", "Never"),
    "Transient": ("OnFailure", "Never"),
    "Temporary": ("Never",),
}


class Refusal(msgspec.Struct, frozen=True):
    """Why a Hub or a Child is not accepted, and what to write instead."""

    reason: Reason
    message: str


def invalid(message: str) -> Refusal:
    """The refusal of an object that is not valid. The message names the field and what to write."""
    return Refusal(Reason.INVALID, message)


HubCheck = Callable[[HubSpec], Refusal | None]
ChildCheck = Callable[[ChildSpec, HubSpec], Refusal | None]


def refuse_hub(
    spec: HubSpec,
    distributions: Collection[str] = (),
    redundancies: Collection[str] = (),
    partitions: Collection[str] = (),
    migrations: Collection[str] = (),
) -> Refusal | None:
    """Check a Hub; returns the refusal of the first check that fails, or None if the Hub is accepted.

    The other arguments are the names of the users' own strategies.
    """
    refusal = (
        _known("distribution", spec.distribution.strategy, STRATEGIES, distributions)
        or _known("redundancy", spec.redundancy.strategy, REDUNDANCIES, redundancies)
        or _known("migration", spec.migration.strategy, MIGRATIONS, migrations)
        or _known("partitionTolerance", spec.partition_tolerance.strategy, PARTITIONS, partitions)
    )
    return refusal or next((refusal for check in _HUB_CHECKS if (refusal := check(spec))), None)


def refuse_child(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    """Check a Child of a hub with this spec; returns the refusal of the first check that fails, or None."""
    return next((refusal for check in _CHILD_CHECKS if (refusal := check(spec, hub))), None)


def unreadable(error: str) -> Refusal:
    """The refusal of an object whose present version can't be read."""
    return invalid(f"this version of it can't be read: {error}"[:1000])


def spec_on_demand(template: OnDemand) -> ChildSpec:
    """The spec of each child that is started on demand."""
    return ChildSpec(
        exec=template.exec,
        python=template.python,
        pod=template.pod,
        ttl_seconds=template.ttl_seconds,
        idle_seconds=template.idle_seconds,
    )


def of_demand(refusal: Refusal) -> Refusal:
    """The refusal of a child on demand as that of its Hub: its workload is in spec.onDemand."""
    return Refusal(refusal.reason, refusal.message.replace("spec.pod", "spec.onDemand.pod"))


def _known(field: str, strategy: str, built_in: tuple[str, ...], own: Collection[str]) -> Refusal | None:
    if strategy in built_in or strategy in own:
        return None
    return Refusal(
        Reason.UNKNOWN_STRATEGY,
        f"spec.{field}.strategy {strategy!r} is not known; there are {', '.join((*built_in, *sorted(own)))}",
    )


def _redundancy(spec: HubSpec) -> Refusal | None:
    redundancy, strategy = spec.redundancy, spec.distribution.strategy
    if strategy == "Guided" and redundancy.strategy not in REDUNDANCIES:
        return invalid(
            f"spec.redundancy.strategy {redundancy.strategy} can't be combined with the distribution strategy Guided, "
            "where each child names its members; use Replication with a replicationFactor"
        )
    if strategy == "Guided" and redundancy.strategy == "Replication" and redundancy.replication_factor == "ClusterSize":
        return invalid(
            "spec.redundancy.replicationFactor ClusterSize can't be combined with the distribution strategy Guided, "
            "where each child names its members; give a number, or use the strategy ForEach"
        )
    return None


def _partitions(spec: HubSpec) -> Refusal | None:
    tolerance, field = spec.partition_tolerance, "spec.partitionTolerance"
    if tolerance.strategy == "StaticQuorum" and (tolerance.quorum_size or 0) < 1:
        return invalid(f"{field}.strategy StaticQuorum needs quorumSize, for example quorumSize: 2")
    if tolerance.strategy == "DynamicQuorum":
        if not 1 <= tolerance.quorum_percent <= 100:
            return invalid(f"{field}.quorumPercent is {tolerance.quorum_percent}; write 1 to 100")
        if tolerance.threshold_seconds < 1:
            return invalid(f"{field}.thresholdSeconds is {tolerance.threshold_seconds}; write 1 or more")
    return None


def _on_demand(spec: HubSpec) -> Refusal | None:
    template = spec.on_demand
    if template is None:
        return None
    if spec.distribution.strategy == "Guided":
        return invalid(
            "spec.onDemand: a Guided hub places a child where its spec.nodes say, and what a request starts has none;"
            " leave onDemand out, or use another distribution strategy"
        )
    if template.on_owner_lost == "Local" and spec.partition_tolerance.strategy != "Divergence":
        return invalid(
            "spec.onDemand.onOwnerLost Local needs partitionTolerance.strategy Divergence; write Wait, or leave it out"
        )
    if template.exec is None and template.python is None and template.pod is None:
        return invalid("spec.onDemand names no workload; give one of exec, python or pod")
    refusal = _pod(spec_on_demand(template), spec)
    return refusal and of_demand(refusal)


def _hooks(spec: HubSpec) -> Refusal | None:
    """Check the hooks. The schema refuses the same, but some specs have not been through an API server."""
    names: set[str] = set()
    for hook in spec.hooks:
        if hook.name in names:
            return invalid(f"spec.hooks names {hook.name!r} twice; give each hook a name of its own")
        names.add(hook.name)
        if why := _unfit_hook(hook):
            return invalid(f"spec.hooks {hook.name!r}: {why}")
    return None


def refuse_registered_hook(hook: Hook) -> str:
    """Why a hook of the Hub's annotation can't be called, or "". No schema checks that annotation."""
    if not 1 <= len(hook.name) <= 63:
        return "name must have 1 to 63 characters"
    if why := _unfit_hook(hook):
        return why
    seconds = hook.receiver.timeout_seconds
    return "" if 1 <= seconds <= 30 else f"timeoutSeconds is {seconds}; write 1 to 30"


def _unfit_hook(hook: Hook) -> str:
    if (hook.webhook is None) == (hook.python is None):
        return "give exactly one of webhook and python"
    if hook.webhook is not None and not hook.webhook.url.startswith(("http://", "https://")):
        return f"webhook.url {hook.webhook.url!r} must begin with http:// or https://"
    return ""


def _static_children(spec: HubSpec) -> Refusal | None:
    for child in spec.children:
        for field, value in (("ttlSeconds", child.ttl_seconds), ("idleSeconds", child.idle_seconds)):
            if value is not None:
                return invalid(
                    f"spec.children {child.id!r}: {field}: the hub would start it again at once; leave it out, or"
                    " create a Child of its own"
                )
        if not child.id:
            return invalid("an entry of spec.children has no id; each static child needs one")
        if child.hub:
            return invalid(f"spec.children {child.id!r}: leave hub out, it is this hub")
    return None


def _workload(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    if spec.exec is None and spec.python is None and spec.pod is None:
        return invalid("spec names no workload; give one of exec, python or pod")
    return None


def _pod(spec: ChildSpec, hub: HubSpec) -> Refusal | None:
    """Check a Pod template for errors that the API server would report only when the Pod is created, or never."""
    if spec.pod is None:
        return None
    field = "spec.pod.template"
    pod = spec.pod.template.get("spec")
    containers = pod.get("containers") if isinstance(pod, dict) else None
    if not isinstance(pod, dict) or not isinstance(containers, list) or not containers:
        return invalid(f"{field} has no spec.containers; give at least one container with an image")
    if why := wrong_shape(spec.pod.template, field):
        return invalid(why)
    if pod.get("nodeName"):
        return invalid(
            f"{field}.spec.nodeName: a pod child runs on its member's node; leave nodeName out (spec.nodes of a Guided "
            "hub chooses the member)"
        )
    allowed = _POD_RESTARTS[spec.restart_policy]
    if (pod.get("restartPolicy") or allowed[0]) not in allowed:
        return invalid(
            f"{field}.spec.restartPolicy {pod['restartPolicy']} contradicts the child's restartPolicy "
            f"{spec.restart_policy}; leave it out or use {' or '.join(allowed)}"
        )
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
    redundancy = hub.redundancy
    copies = redundancy.replication_factor if redundancy.strategy == "Replication" else 1
    if len(spec.nodes) != copies:
        return Refusal(
            Reason.CHILD_REPLICATION_MISMATCH,
            f"spec.nodes names {counted(len(spec.nodes), 'member', 'members')}, but the hub keeps "
            f"{copies} {'copy' if copies == 1 else 'copies'} of a child; name exactly {copies}",
        )
    if len(set(spec.nodes)) < len(spec.nodes):
        return Refusal(
            Reason.INVALID_CHILD_MAPPING, "spec.nodes names a member twice; each copy needs a member of its own"
        )
    return None


def refuse_size(workload: str) -> Refusal | None:
    """Refuse a workload (as its canonical JSON) that would take too much room in a slice."""
    size = len(workload.encode())
    if size <= MAX_WORKLOAD_BYTES:
        return None
    return invalid(
        f"the workload has {size} bytes of JSON, the limit is {MAX_WORKLOAD_BYTES}; "
        "keep large data in a ConfigMap or a volume of the members"
    )


def unknown_member(spec: ChildSpec, members: MemberNames, field: str = "spec.nodes") -> Refusal | None:
    """Refuse a Child whose nodes, which are those of ``field``, name a member that the hub does not have."""
    for node in spec.nodes:
        if node not in members:
            return Refusal(
                Reason.INVALID_CHILD_MAPPING,
                f"{field}: the hub has no member {node!r}; its members are {members.some or 'none yet'}",
            )
    return None


def unknown_origin(spec: ChildSpec, hub: HubSpec, members: Collection[str]) -> str:
    """A sentence about an origin that is no member, where the hub's strategy goes by it; "" if there is nothing to say.

    It is no refusal: the member that asked for the child may be gone since, or come back.
    """
    if hub.distribution.strategy not in ("Local", "NotLocal") or not spec.origin or spec.origin in members:
        return ""
    return f"spec.origin names {spec.origin!r}, and the hub has no such member now: the hash decides"


_HUB_CHECKS: tuple[HubCheck, ...] = (_redundancy, _partitions, _on_demand, _hooks, _static_children)
_CHILD_CHECKS: tuple[ChildCheck, ...] = (_workload, _pod, _mapping)
