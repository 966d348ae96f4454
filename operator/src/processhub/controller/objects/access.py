"""The members' ServiceAccount and its rights: the ClusterRole processhub-agent in the hub's namespace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import member_account
from processhub.controller.objects.owned import owned_metadata

AGENT_ROLE = "processhub-agent"


def accounts(hub: Hub) -> tuple[str, ...]:
    """The ServiceAccounts that have the rights of the hub's members: its own, and the one that its spec names."""
    given = hub.spec.members.service_account.name
    return tuple(dict.fromkeys((member_account(hub.metadata.name), *((given,) if given else ()))))


def access(hub: Hub, former: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The hub's own ServiceAccount, and the RoleBinding of its members.

    ``former`` are accounts that the spec named before, and that some members' pods still use. The hub's own account
    always exists: the client requests its tokens, and members go back to it when the spec names no other.
    """
    name, annotations = member_account(hub.metadata.name), hub.spec.members.service_account.annotations
    metadata = owned_metadata(hub, name) | ({"annotations": annotations} if annotations else {})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": owned_metadata(hub, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENT_ROLE},
        "subjects": [
            {"kind": "ServiceAccount", "name": each, "namespace": hub.metadata.namespace}
            for each in (*accounts(hub), *sorted(former))
        ],
    }
    return [account, binding]
