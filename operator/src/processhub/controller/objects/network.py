"""The Service that reaches any member, the headless one that gives members their DNS names, and their NetworkPolicy."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import LABEL_HUB, LABEL_NAME, headless_service
from processhub.controller.objects.owned import SERVICE_PORT, owned_metadata, selector_labels
from processhub.controller.settings import MemberNetwork


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


def network_policy_name(hub: Hub) -> str:
    """The name of the NetworkPolicy. It has a prefix, because policies of users often have the name of a workload."""
    return f"processhub-{hub.metadata.name}"


def network_policy(hub: Hub, network: MemberNetwork) -> dict[str, Any]:
    """The NetworkPolicy of the members: the agent's port is open to the hub's own pods and to the peers.

    Only connections to members are limited, not those that children open. Policies add up: one of the user's own opens
    another port of a child.
    """
    ingress: dict[str, Any] = {"ports": [{"port": "http", "protocol": "TCP"}]}
    if network.peers:
        # Members, and the Pods of pod children, which have another component.
        own = {"podSelector": {"matchLabels": {LABEL_NAME: "processhub", LABEL_HUB: hub.metadata.name}}}
        ingress["from"] = [own, *network.peers]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(hub, network_policy_name(hub)),
        "spec": {
            "podSelector": {"matchLabels": selector_labels(hub)},
            "policyTypes": ["Ingress"],
            "ingress": [ingress],
        },
    }
