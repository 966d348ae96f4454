"""The common parts of all owned objects: labels and the owner reference."""

from __future__ import annotations

from typing import Any

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION
from processhub.api.naming import AUDIENCE, LABEL_COMPONENT, LABEL_HUB, LABEL_HUB_UID, LABEL_NAME

SERVICE_PORT = 8080  # of the hub's Services, whatever members.port says
# A token of the pod's account for requests to members. The API server does not accept it.
TOKEN_FILE = "/var/run/secrets/processhub/token"  # noqa: S105 a path
TOKEN_VOLUME: dict[str, Any] = {
    "name": "processhub-token",
    "projected": {
        "sources": [{"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}}]
    },
}
TOKEN_MOUNT: dict[str, Any] = {"name": "processhub-token", "mountPath": "/var/run/secrets/processhub", "readOnly": True}


def selector_labels(hub: Hub) -> dict[str, str]:
    """The labels that select the hub's member pods. They never change."""
    return {LABEL_NAME: "processhub", LABEL_COMPONENT: "agent", LABEL_HUB: hub.metadata.name}


def selector_of(hub: Hub) -> str:
    """The labels that select the hub's member pods, as text. Autoscalers read them in this form."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector_labels(hub).items()))


def owner_reference(owner: Hub | Child | ChildSet) -> dict[str, Any]:
    """The Hub, Child or ChildSet as the controlling owner: deleting it deletes the object."""
    return {
        "apiVersion": API_VERSION,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_metadata(hub: Hub, name: str, **labels: str) -> dict[str, Any]:
    """The metadata of an owned object in the hub's namespace."""
    return {
        "name": name,
        "namespace": hub.metadata.namespace,
        "labels": {**selector_labels(hub), LABEL_HUB_UID: hub.metadata.uid, **labels},
        "ownerReferences": [owner_reference(hub)],
    }
