"""The ConfigMap with the certificates by which a hub's members are verified, for programs that mount it."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import authorities_config_map
from processhub.controller.objects.owned import owned_metadata

AUTHORITIES_KEY = "ca.crt"


def authorities_map(hub: Hub, authorities: str) -> dict[str, Any]:
    """The ConfigMap. The kubelet updates the file in a Pod that mounts it when an authority is replaced."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owned_metadata(hub, authorities_config_map(hub.metadata.name)),
        "data": {AUTHORITIES_KEY: authorities},
    }
