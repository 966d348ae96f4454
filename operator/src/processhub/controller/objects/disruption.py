"""The PodDisruptionBudget: one member at a time is evicted, the next when the first is back and ready."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.controller.objects.owned import owned_metadata, selector_labels


def disruption_budget(hub: Hub) -> dict[str, Any]:
    """The PodDisruptionBudget of a hub's members."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owned_metadata(hub, hub.metadata.name),
        "spec": {
            "maxUnavailable": 1,
            # A member that is not ready anyway keeps no node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector_labels(hub)},
        },
    }
