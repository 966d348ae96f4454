"""The members' ServiceAccount and its rights: the ClusterRole processhub-agent in the hub's namespace."""

from __future__ import annotations

from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import member_account
from processhub.controller.objects.owned import owned_metadata

AGENT_ROLE = "processhub-agent"


def access(hub: Hub) -> list[dict[str, Any]]:
    """The ServiceAccount and the RoleBinding of a hub's members."""
    name = member_account(hub.metadata.name)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": owned_metadata(hub, name)}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": owned_metadata(hub, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENT_ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": hub.metadata.namespace}],
    }
    return [account, binding]
