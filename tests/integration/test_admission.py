"""What the account of a hub's members may write, and what nobody else may: the chart's roles and admission policies.

Each write uses a real token of that account, bound to a pod as the kubelet binds it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import render_manifests
from localcluster.cluster import Cluster
from localcluster.layout import ClusterError

RUN = secrets.token_hex(3)
NAMESPACE, NODE = f"admission-{RUN}", f"admission-{RUN}"
NODE_POD = "left-vx2kq"  # of the DaemonSet of hub left
SHARED = "shared"  # a user's own account, which both hubs name
OPERATOR = f"{render_manifests.NAMESPACE}:processhub-operator"
SLEEP = {"command": ["sleep", "infinity"]}
Write = Callable[..., str]


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    cluster.kubectl("-n", NAMESPACE, "apply", "--server-side", "-f", "-", stdin=text)


def account_of(hub: str) -> str:
    return hub if hub == SHARED else f"processhub-{hub}"


def pod(name: str, hub: str, **spec: Any) -> dict[str, Any]:
    # The pod is never scheduled: a token needs only the object.
    base = {
        "serviceAccountName": account_of(hub),
        "schedulerName": "nobody",
        "containers": [{"name": "agent", "image": "none"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": base | spec}


def registry_slice(hub: str, member: str, mode: str = "Replicas") -> dict[str, Any]:
    return {
        "apiVersion": "processhub.dev/v1alpha1",
        "kind": "RegistrySlice",
        "metadata": {"name": f"{hub}.{member}.0"},
        "spec": {"hub": hub, "hubUid": "u", "member": member, "mode": mode, "term": 1},
    }


def lease(hub: str, member: str, mode: str = "Replicas") -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": f"{hub}.{member}",
            "labels": {"processhub.dev/hub": hub, "processhub.dev/member": member},
            "annotations": {"processhub.dev/mode": mode},
        },
        "spec": {"leaseDurationSeconds": 15},
    }


def child(hub: str, name: str = "new", **spec: Any) -> str:
    body = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Child", "metadata": {"name": name}}
    return json.dumps({**body, "spec": {"hub": hub, **spec}})


def status_patch(name: str) -> list[str]:
    patch = json.dumps({"status": {"observedGeneration": 1, "holder": secrets.token_hex(4)}})
    return ["patch", "registryslice", name, "--subresource=status", "--type=merge", "-p", patch]


def lease_patch(name: str, **metadata: Any) -> list[str]:
    patch = json.dumps({"metadata": metadata, "spec": {"holderIdentity": secrets.token_hex(4)}})
    return ["patch", "lease", name, "--type=merge", "-p", patch]


@pytest.fixture(scope="module")
def hubs(cluster: Cluster) -> Iterator[None]:
    """Accounts, pods, slices and Leases of two hubs as the operator creates them; the chart's rules are in force."""
    rules = render_manifests.render("-s", "templates/admission.yaml", "-s", "templates/rbac-agent.yaml")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rules)
    cluster.kubectl("create", "namespace", NAMESPACE)
    objects: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}]
    for account in ("processhub-left", "processhub-right", SHARED):
        objects += [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": account},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "processhub-agent"},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
            },
        ]
    apply(cluster, *objects)
    apply(
        cluster,
        *(pod(f"{hub}-{ordinal}", hub) for hub in ("left", "right") for ordinal in (0, 1)),
        pod(NODE_POD, "left", nodeName=NODE),
        pod("left-0123456789abcdef", "left", nodeName=NODE),
        pod("other-vx2kq", "left", nodeName=NODE),
        *(pod(f"{hub}-7", SHARED) for hub in ("left", "right")),
        *(registry_slice(hub, f"{hub}-7") for hub in ("left", "right")),
        *(lease(hub, f"{hub}-7") for hub in ("left", "right")),
        *(registry_slice(hub, f"{hub}-{ordinal}") for hub in ("left", "right") for ordinal in (0, 1)),
        *(lease(hub, f"{hub}-{ordinal}") for hub in ("left", "right") for ordinal in (0, 1)),
        registry_slice("left", NODE, "PerNode"),
        lease("left", NODE, "PerNode"),
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "somebody-elses"}, "spec": {}},
    )
    yield
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cluster.kubectl("delete", "node", NODE)
    cluster.kubectl("delete", "-f", "-", stdin=rules)  # Where all tests share a cluster, others write statuses.


@pytest.fixture(scope="module")
def as_member(cluster: Cluster, hubs: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Write]:
    """Run kubectl with a pod's token: ``as_member("left-0")("get", "pods")``."""
    folder = tmp_path_factory.mktemp("accounts")
    base = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))

    def account(name: str, hub: str = "", bound: bool = True) -> Write:
        hub = hub or name.partition("-")[0]
        token = ["create", "token", account_of(hub), "-n", NAMESPACE, "--duration=1h"]
        if bound:
            uid = cluster.kubectl("-n", NAMESPACE, "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
            token += ["--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={uid}"]
        users = [{"name": each["name"], "user": {"token": cluster.kubectl(*token).strip()}} for each in base["users"]]
        path = folder / f"{name}-{secrets.token_hex(3)}"
        path.write_text(json.dumps({**base, "users": users}))

        def write(*arguments: str, stdin: str | None = None) -> str:
            return cluster.kubectl("--kubeconfig", str(path), "-n", NAMESPACE, *arguments, stdin=stdin)

        return write

    _until_in_force(cluster, account("left-0"))
    return account


def _until_in_force(cluster: Cluster, member: Write) -> None:
    """Wait until a new RoleBinding and new policies are in force: within a second or two, each at its own time."""

    for refused, sentence in (
        (lambda: cluster.kubectl("-n", NAMESPACE, *status_patch("left.left-1.0")), "may write the status of"),
        (lambda: member(*lease_patch("left.left-1")), "may write its own Lease only"),
    ):
        deadline = time.monotonic() + 60
        while not _is_refused(refused, sentence):
            assert time.monotonic() < deadline, f"the admission policies do not take effect: {sentence}"
            time.sleep(0.2)


def _is_refused(write: Callable[[], object], sentence: str) -> bool:
    try:
        write()
    except ClusterError as error:
        return sentence in str(error)
    return False


def test_a_member_may_write_its_own_slice_status_and_lease(as_member: Callable[..., Write]) -> None:
    member = as_member("left-0")

    assert "patched" in member(*status_patch("left.left-0.0"))
    assert "patched" in member(*lease_patch("left.left-0"))


def test_a_member_of_a_per_node_hub_is_identified_by_its_node(as_member: Callable[..., Write]) -> None:
    member = as_member(NODE_POD)

    assert "patched" in member(*status_patch(f"left.{NODE}.0"))
    assert "patched" in member(*lease_patch(f"left.{NODE}"))


@pytest.mark.parametrize(
    "name", ["left.left-1.0", "right.right-0.0", f"left.{NODE}.0"], ids=["member", "hub", "per node"]
)
def test_a_member_may_not_write_another_members_slice_status(as_member: Callable[..., Write], name: str) -> None:
    member = as_member("left-0")

    with pytest.raises(ClusterError, match=r"only member .* may write the status of this RegistrySlice"):
        member(*status_patch(name))


@pytest.mark.parametrize(
    "name",
    ["left.left-1", "right.right-0", f"left.{NODE}", "somebody-elses"],
    ids=["member", "hub", "per node", "unknown"],
)
def test_a_member_may_not_renew_another_members_lease(as_member: Callable[..., Write], name: str) -> None:
    member = as_member("left-0")

    with pytest.raises(ClusterError, match=f"a member of hub left may write its own Lease only, not {name}"):
        member(*lease_patch(name))


def test_hubs_that_share_an_account_are_distinguished_by_their_pods(as_member: Callable[..., Write]) -> None:
    member = as_member("left-7", hub=SHARED)

    assert "patched" in member(*status_patch("left.left-7.0"))
    assert "patched" in member(*lease_patch("left.left-7"))
    with pytest.raises(ClusterError, match="only member right-7 of hub right may write"):
        member(*status_patch("right.right-7.0"))
    with pytest.raises(ClusterError, match=r"may write its own Lease only, not right\.right-7"):
        member(*lease_patch("right.right-7"))


@pytest.mark.parametrize("name", ["left-0123456789abcdef", "other-vx2kq"], ids=["pod child", "other hub"])
def test_another_pod_of_the_same_node_and_account_is_no_member(as_member: Callable[..., Write], name: str) -> None:
    member = as_member(name, hub="left")

    with pytest.raises(ClusterError, match=f"only member {NODE} of hub left may write"):
        member(*status_patch(f"left.{NODE}.0"))
    with pytest.raises(ClusterError, match="may write its own Lease only"):
        member(*lease_patch(f"left.{NODE}"))


def test_a_member_may_not_renew_a_lease_that_it_has_relabelled(as_member: Callable[..., Write]) -> None:
    member = as_member("left-0")

    with pytest.raises(ClusterError, match="may write its own Lease only"):
        member(*lease_patch("somebody-elses", labels={"processhub.dev/hub": "left"}))


def test_a_token_that_is_bound_to_no_pod_may_write_nothing(as_member: Callable[..., Write]) -> None:
    account = as_member("unbound", hub="left", bound=False)

    with pytest.raises(ClusterError, match="only member left-0 of hub left may write"):
        account(*status_patch("left.left-0.0"))
    with pytest.raises(ClusterError, match="may write its own Lease only"):
        account(*lease_patch("left.left-0"))


def test_an_administrator_may_not_write_a_members_status(cluster: Cluster, as_member: Callable[..., Write]) -> None:
    with pytest.raises(ClusterError, match="only member left-0 of hub left may write"):
        cluster.kubectl("-n", NAMESPACE, *status_patch("left.left-0.0"))


def test_a_member_may_not_write_the_spec_of_its_slice(as_member: Callable[..., Write]) -> None:
    member = as_member("left-0")

    with pytest.raises(ClusterError, match=r"cannot patch resource .registryslices"):
        member("patch", "registryslice", "left.left-0.0", "--type=merge", "-p", '{"spec":{"term":9}}')


@pytest.mark.parametrize(
    "command", [["get", "secrets"], ["delete", "pods", "--all"], ["get", "configmaps"], ["create", "token", "default"]]
)
def test_a_member_may_only_read_and_report(as_member: Callable[..., Write], command: list[str]) -> None:
    member = as_member("left-0")

    with pytest.raises(ClusterError, match="is forbidden"):
        member(*command)


@pytest.mark.parametrize("hub", ["left", "right"], ids=["its own hub", "another hub"])
def test_a_member_may_create_no_child(as_member: Callable[..., Write], hub: str) -> None:
    member = as_member("left-0")

    with pytest.raises(ClusterError, match=r"cannot create resource .children."):
        member("create", "-f", "-", stdin=child(hub, exec=SLEEP))


def test_a_member_may_not_change_a_child(cluster: Cluster, as_member: Callable[..., Write]) -> None:
    member = as_member("left-0")
    cluster.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=child("left", "users", exec=SLEEP))

    with pytest.raises(ClusterError, match="is forbidden"):
        member("patch", "child", "users", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    with pytest.raises(ClusterError, match="is forbidden"):
        member("delete", "child", "users")


def test_the_operator_is_not_mistaken_for_a_member_with_its_account_name(
    cluster: Cluster, as_member: Callable[..., Write]
) -> None:
    operator = ["-n", NAMESPACE, f"--as=system:serviceaccount:{OPERATOR}", "--as-group=system:masters"]

    cluster.kubectl(*operator, *lease_patch("left.left-1"))
    with pytest.raises(ClusterError, match="may write the status of this RegistrySlice"):
        cluster.kubectl(*operator, *status_patch("left.left-1.0"))


def test_policies_are_type_correct(cluster: Cluster, as_member: Callable[..., Write]) -> None:
    policies = json.loads(cluster.kubectl("get", "validatingadmissionpolicies", "-o", "json"))["items"]

    ours = [each for each in policies if each["metadata"]["name"].startswith("processhub-")]
    assert len(ours) == 2
    for policy in ours:
        assert not policy.get("status", {}).get("typeChecking", {}).get("expressionWarnings"), policy["metadata"][
            "name"
        ]
