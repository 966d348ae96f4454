"""The StatefulSet (mode Replicas) or DaemonSet (mode PerNode) that makes the members."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import headless_service
from processhub.operator.objects.owned import owned_metadata, selector_labels
from processhub.operator.objects.template import pod_template
from processhub.operator.settings import OperatorSettings


def workload(hub: Hub, settings: OperatorSettings, replicas: int) -> dict[str, Any]:
    """The workload with ``replicas`` members; PerNode ignores the number."""
    if hub.spec.members.mode == "PerNode":
        return _daemon_set(hub, settings)
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
            "template": pod_template(hub, settings),
        },
    }


def _daemon_set(hub: Hub, settings: OperatorSettings) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": owned_metadata(hub, hub.metadata.name),
        "spec": {
            "selector": {"matchLabels": selector_labels(hub)},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": pod_template(hub, settings),
        },
    }
