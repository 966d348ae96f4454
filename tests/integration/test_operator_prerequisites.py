"""An operator whose account lacks rights is not ready and names the missing right."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import yaml
from agentharness import ACCOUNTS, BINDINGS, CLUSTER_BINDINGS, token_of, until

import render_manifests
from localcluster.cluster import Cluster
from processhub.cluster.client import Client
from processhub.controller.lead.prerequisites import Prerequisites


async def test_a_missing_right_is_named_until_the_operator_has_all_rights(
    cluster: Cluster, api: Client, namespace: str, tmp_path: Path
) -> None:
    roles = yaml.safe_load_all(render_manifests.render("-s", "templates/rbac-operator.yaml"))
    items = [each for each in roles if each["kind"] == "ClusterRole"]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    await api.create(ACCOUNTS, namespace, {"metadata": {"name": "operator"}})
    kubeconfig = tmp_path / "kubeconfig"
    base = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    token = await token_of(api, namespace, "operator", audiences=[])
    users = [{"name": each["name"], "user": {"token": token}} for each in base["users"]]
    kubeconfig.write_text(json.dumps({**base, "users": users}))

    async with await Client.connect(kubeconfig=str(kubeconfig)) as client:
        needed = Prerequisites(client, (namespace,))
        assert await needed.check() == (
            f"this operator's account may not list hubs.processhub.dev in namespace {namespace}; the chart's"
            " ClusterRoles processhub-operator and processhub-operator-cluster have that right"
        )

        await api.create(BINDINGS, namespace, _binding("operator", "processhub-operator", namespace))

        async def only_what_is_in_no_namespace() -> bool:
            return (await needed.check()).startswith("this operator's account may not list nodes; ")

        await until(only_what_is_in_no_namespace)
        name = f"operator-{secrets.token_hex(4)}"
        await api.create(CLUSTER_BINDINGS, None, _binding(name, "processhub-operator-cluster", namespace))
        try:

            async def all_there() -> bool:
                return await needed.check() == ""

            await until(all_there)
        finally:
            await api.delete(CLUSTER_BINDINGS, None, name)


def _binding(name: str, role: str, namespace: str) -> dict[str, object]:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
