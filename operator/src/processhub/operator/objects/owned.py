"""What every owned object has in common: labels and the owner reference."""

from __future__ import annotations

from typing import Any

from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION
from processhub.api.naming import LABEL_COMPONENT, LABEL_HUB, LABEL_HUB_UID, LABEL_NAME

AGENT_PORT = 8080


def selector_labels(hub: Hub) -> dict[str, str]:
    """What selects the hub's member pods; never changes."""
    return {LABEL_NAME: "processhub", LABEL_COMPONENT: "agent", LABEL_HUB: hub.metadata.name}


def owner_reference(owner: Hub | Child) -> dict[str, Any]:
    """The Hub or Child as controlling owner: deleting it deletes the object."""
    return {
        "apiVersion": API_VERSION,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_metadata(hub: Hub, name: str, **labels: str) -> dict[str, Any]:
    """Metadata of an owned object in the hub's namespace; further labels by keyword are not needed so far."""
    return {
        "name": name,
        "namespace": hub.metadata.namespace,
        "labels": {**selector_labels(hub), LABEL_HUB_UID: hub.metadata.uid, **labels},
        "ownerReferences": [owner_reference(hub)],
    }
