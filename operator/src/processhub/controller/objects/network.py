"""The Service that reaches any member, and the headless one that gives members their DNS names."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import headless_service
from processhub.controller.objects.owned import SERVICE_PORT, owned_metadata, selector_labels


def services(hub: Hub) -> list[dict[str, Any]]:
    """Both Services of a hub."""
    # By name: while members.port is rolled out, members have different ports.
    port = {"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}
    plain = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(hub, hub.metadata.name),
        "spec": {"selector": selector_labels(hub), "ports": [port]},
    }
    headless = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(hub, headless_service(hub.metadata.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector_labels(hub),
            "ports": [port],
        },
    }
    return [plain, headless]
