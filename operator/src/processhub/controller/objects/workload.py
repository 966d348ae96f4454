"""The StatefulSet (mode Replicas) or DaemonSet (mode PerNode) that runs the members."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import headless_service
from processhub.controller.objects.owned import owned_metadata, selector_labels


def workload(hub: Hub, template: dict[str, Any], replicas: int) -> dict[str, Any]:
    """The workload with ``replicas`` members of this pod template; PerNode ignores the number."""
    if hub.spec.members.mode == "PerNode":
        return _daemon_set(hub, template)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": owned_metadata(hub, hub.metadata.name),
        "spec": {
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "serviceName": headless_service(hub.metadata.name),
            "selector": {"matchLabels": selector_labels(hub)},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": template,
        },
    }


def _daemon_set(hub: Hub, template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": owned_metadata(hub, hub.metadata.name),
        "spec": {
            "selector": {"matchLabels": selector_labels(hub)},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": template,
        },
    }
