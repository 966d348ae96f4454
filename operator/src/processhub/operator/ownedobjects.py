"""Make the objects that a Hub owns what they should be; adopt nothing that it does not own (PROTOCOL.md 14)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from processhub.api.hub import Hub
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import Kind, untyped
from processhub.operator.objects.access import access
from processhub.operator.objects.disruption import disruption_budget
from processhub.operator.objects.network import services
from processhub.operator.objects.workload import workload
from processhub.operator.settings import OperatorSettings

MANAGER = "processhub-operator"
_PLURALS = {
    "StatefulSet": "statefulsets",
    "DaemonSet": "daemonsets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "RoleBinding": "rolebindings",
    "PodDisruptionBudget": "poddisruptionbudgets",
}


class NameConflictError(Exception):
    """An object of the name that the hub needs belongs to somebody else; the message names it."""


def desired_objects(hub: Hub, settings: OperatorSettings, replicas: int) -> list[dict[str, Any]]:
    """All owned objects, in the order in which they are made; the workload is the last."""
    return [*access(hub), *services(hub), disruption_budget(hub), workload(hub, settings, replicas)]


def fingerprint(manifests: Iterable[dict[str, Any]]) -> str:
    """Equal for equal manifests."""
    return hashlib.sha256(msgspec.json.encode(list(manifests), order="sorted")).hexdigest()


async def ensure(client: Client, hub: Hub, manifests: Iterable[dict[str, Any]]) -> None:
    """Apply the manifests. Raises NameConflictError before anything of another owner is touched, ApiError."""
    for manifest in manifests:
        kind = kind_of(manifest)
        name = manifest["metadata"]["name"]
        try:
            present = await client.get(kind, hub.metadata.namespace, name)
        except NotFoundError:
            pass
        else:
            _check_owner(hub, manifest["kind"], present)
        await client.apply(kind, hub.metadata.namespace, name, manifest, manager=MANAGER)


def kind_of(manifest: dict[str, Any]) -> Kind[dict[str, Any]]:
    """The kind of a manifest."""
    return untyped(manifest["apiVersion"], _PLURALS[manifest["kind"]])


def _check_owner(hub: Hub, kind: str, present: dict[str, Any]) -> None:
    metadata = present["metadata"]
    if metadata.get("deletionTimestamp"):
        raise NameConflictError(f"{kind} {metadata['name']} is still being deleted; made again when it is gone")
    owners = metadata.get("ownerReferences") or []
    if any(owner["uid"] == hub.metadata.uid for owner in owners):
        return
    if any((owner["kind"], owner["name"]) == (hub.kind, hub.metadata.name) for owner in owners):
        # Garbage collection takes it; where the CRDs were installed just before, only after half a minute.
        raise NameConflictError(
            f"{kind} {metadata['name']} of an earlier hub of this name is still being deleted; made again when it is"
            " gone"
        )
    raise NameConflictError(
        f"{kind} {metadata['name']} exists and is not this hub's; delete or rename it, or give the hub another name"
    )
