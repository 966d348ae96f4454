"""The chart on its own cluster: install, test, upgrade, uninstall; what is kept and what is removed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import render_manifests
from localcluster import cluster as local
from localcluster import guard
from localcluster.cluster import Cluster
from localcluster.layout import ClusterError, Layout

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "hubs-system"
CRDS = [f"{plural}.processhub.dev" for plural in ("children", "childsets", "hubs", "registryslices")]
KINDS = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,flowschemas"
MEMBERS_NEED = {
    *("processhub-agent", "processhub-agents", "processhub-member-leases"),
    *("processhub-slice-status", "processhub-member-lease"),
}
Helm = Callable[..., subprocess.CompletedProcess[str]]
HUB = json.dumps(
    {
        "apiVersion": "processhub.dev/v1alpha1",
        "kind": "Hub",
        "metadata": {"name": "kept", "annotations": {"processhub.dev/paused": "true"}},
        "spec": {},
    }
)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A second cluster: the release has cluster-wide names, so it can't share a cluster with another release."""
    layout = Layout(tmp_path_factory.mktemp("chart"))
    watcher = guard.start(layout)
    try:
        yield local.up(layout, nodes=1)
    finally:
        local.down(layout)
        watcher.terminate()
        watcher.wait()


@pytest.fixture
def helm(own: Cluster) -> Iterator[Helm]:
    """Run helm on that cluster; releases that a test leaves are uninstalled, except for the CRDs and members' roles.

    The CRDs stay because the API server may take minutes to delete a CRD that was created a moment ago.
    """
    program = render_manifests.helm()

    def run(*arguments: str, check: bool = True, namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
        command = [program, *arguments, "--namespace", namespace]
        answer = subprocess.run(command, env=own.environment(), capture_output=True, text=True, timeout=120)
        assert not check or answer.returncode == 0, answer.stdout + answer.stderr
        return answer

    yield run
    run("uninstall", "processhub", "--ignore-not-found", "--wait")
    own.kubectl("delete", "hubs,children", "--all", "-n", "default")
    own.kubectl("-n", NAMESPACE, "delete", "lease", "processhub-operator", "--ignore-not-found")


CHART = str(ROOT / "charts" / "processhub")
# Without operator pods: only the release itself is tested here.
BARE = (CHART, "--create-namespace", "--set", "replicas=0", "--wait")


def install(helm: Helm, *options: str) -> str:
    """Install the chart without operator pods."""
    return helm("install", "processhub", *BARE, *options).stdout


def names(cluster: Cluster, *what: str) -> list[str]:
    return cluster.kubectl("get", *what, "-o", "jsonpath={.items[*].metadata.name}").split()


def until(holds: Callable[[], bool], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.2)


def may(cluster: Cluster, *what: str) -> bool:
    try:
        cluster.kubectl("auth", "can-i", *what)
    except ClusterError:
        return False
    return True


def until_allowed(cluster: Cluster, *what: str) -> None:
    """Wait until a role and its binding are in effect, a moment after they were created."""
    until(lambda: may(cluster, *what), " ".join(what))


def leader_lease(cluster: Cluster, renewed: datetime, **spec: Any) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "processhub-operator", "namespace": NAMESPACE},
        "spec": {
            "holderIdentity": "operator-1",
            "leaseDurationSeconds": 3600,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        | spec,
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(lease))


def test_install_prints_the_next_steps(helm: Helm, own: Cluster) -> None:
    notes = install(helm)

    assert "serves all namespaces" in notes
    assert f"kubectl -n {NAMESPACE} rollout status deployment/processhub-operator" in notes
    for name in CRDS:
        own.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=10s")


def test_an_install_limited_to_namespaces_has_rights_only_there(helm: Helm, own: Cluster) -> None:
    for name in ("team-a", "team-b"):
        own.kubectl("create", "namespace", name)

    notes = install(helm, "--set", "watchNamespaces={team-a,team-b}")

    operator = f"--as=system:serviceaccount:{NAMESPACE}:processhub-operator"
    assert "serves the namespaces team-a, team-b" in notes
    until_allowed(own, "create", "statefulsets", "-n", "team-a", operator)
    until_allowed(own, "list", "nodes", operator)
    until_allowed(own, "update", "lease/processhub-operator", "-n", NAMESPACE, operator)
    for verb, resource, namespace in (
        ("create", "statefulsets", "default"),
        ("list", "children.processhub.dev", "default"),
        ("get", "secrets", "team-a"),
    ):
        with pytest.raises(ClusterError):
            own.kubectl("auth", "can-i", verb, resource, "-n", namespace, operator)


def test_helm_test_sees_a_leader(helm: Helm, own: Cluster) -> None:
    install(helm)

    with ThreadPoolExecutor(1) as pool:
        tested = pool.submit(helm, "test", "processhub", "--logs")
        while not tested.done():
            leader_lease(own, datetime.now(UTC))  # as a leader renews it
            wait([tested], timeout=1)
    answer = tested.result()

    assert "processhub is ready: operator-1 leads and 4 CRDs are served" in answer.stdout + answer.stderr
    assert "processhub-selftest" not in names(own, "pods,serviceaccounts", "-n", NAMESPACE), "it leaves nothing behind"


@pytest.mark.nightly
def test_upgrade_keeps_the_accounts_of_the_hubs(helm: Helm, own: Cluster) -> None:
    install(helm)
    subject = {"kind": "ServiceAccount", "name": "processhub-my-hub", "namespace": "default"}
    operator = f"--as=system:serviceaccount:{NAMESPACE}:processhub-operator"
    until_allowed(own, "patch", "clusterrolebinding/processhub-agents", operator)
    until_allowed(own, "bind", "clusterrole/processhub-agents", operator)
    own.kubectl(
        *("patch", "clusterrolebinding", "processhub-agents", "--type=merge", operator),
        *("-p", json.dumps({"subjects": [subject]})),
    )

    helm("upgrade", "processhub", str(ROOT / "charts" / "processhub"), "--set", "replicas=0", "--set", "logLevel=debug")

    subjects = own.kubectl("get", "clusterrolebinding", "processhub-agents", "-o", "jsonpath={.subjects}")
    assert json.loads(subjects) == [subject]


def test_the_operator_can_grant_only_the_rights_of_members(helm: Helm, own: Cluster) -> None:
    install(helm)
    operator = f"--as=system:serviceaccount:{NAMESPACE}:processhub-operator"
    bind = ["create", "rolebinding", "--serviceaccount=default:default", "-n", "default", operator]
    until_allowed(own, "create", "rolebindings", "-n", "default", operator)
    until_allowed(own, "bind", "clusterrole/processhub-agent", "-n", "default", operator)

    own.kubectl(*bind, "allowed", "--clusterrole=processhub-agent")
    own.kubectl("delete", "rolebinding", "allowed", "-n", "default")

    with pytest.raises(ClusterError, match="clusterrolebindings"):
        own.kubectl("create", "clusterrolebinding", "refused", "--clusterrole=processhub-agents", operator)
    for role in ("admin", "view", "processhub-edit"):
        with pytest.raises(ClusterError, match="attempting to grant RBAC permissions not currently held"):
            own.kubectl(*bind, "refused", f"--clusterrole={role}")


def test_an_uninstall_keeps_the_users_objects(helm: Helm, own: Cluster) -> None:
    install(helm)
    own.kubectl("apply", "-n", "default", "-f", "-", stdin=HUB)

    helm("uninstall", "processhub", "--wait")

    assert names(own, "hubs", "-n", "default") == ["kept"]
    ours = "-l=app.kubernetes.io/name=processhub"
    assert set(names(own, KINDS, ours)) == MEMBERS_NEED
    namespaced = "all,serviceaccounts,roles,rolebindings,poddisruptionbudgets"
    until(lambda: names(own, namespaced, "-n", NAMESPACE, ours) == [], "garbage collection of what the deployment had")


@pytest.mark.nightly
def test_a_second_install_adopts_the_kept_crds(helm: Helm, own: Cluster) -> None:
    install(helm)
    own.kubectl("apply", "-n", "default", "-f", "-", stdin=HUB)
    helm("uninstall", "processhub", "--wait")

    install(helm)

    assert names(own, "hubs", "-n", "default") == ["kept"]


@pytest.mark.nightly
def test_kept_crds_are_adopted_by_a_release_of_another_name_and_namespace(helm: Helm, own: Cluster) -> None:
    install(helm)
    own.kubectl("apply", "-n", "default", "-f", "-", stdin=HUB)
    helm("uninstall", "processhub", "--wait")

    refused = helm("install", "ph", *BARE, namespace="elsewhere", check=False)
    helm("install", "ph", *BARE, "--take-ownership", namespace="elsewhere")

    assert "invalid ownership metadata" in refused.stderr
    assert names(own, "hubs", "-n", "default") == ["kept"]
    helm("uninstall", "ph", "--wait", namespace="elsewhere")
    assert names(own, "hubs", "-n", "default") == ["kept"]
    # As the chart's README has it for a helm without that option.
    kept = (f"crd,{KINDS}", "-l", "app.kubernetes.io/name=processhub", "--overwrite")
    of_release = (f"meta.helm.sh/release-{name}" for name in ("name=processhub", f"namespace={NAMESPACE}"))
    own.kubectl("annotate", *kept, *of_release)
    own.kubectl("label", *kept, "app.kubernetes.io/managed-by=Helm")
    install(helm)


@pytest.mark.nightly
def test_the_plain_manifest_installs_without_helm_and_helm_adopts_its_objects(helm: Helm, own: Cluster) -> None:
    manifest = str(ROOT / "manifests" / "install.yaml")

    own.kubectl("apply", "--server-side", "--force-conflicts", "-f", manifest)
    own.kubectl("apply", "-f", manifest, "--dry-run=server")

    assert "processhub-operator" in names(own, "deployments", "-n", render_manifests.NAMESPACE)
    namespace = render_manifests.NAMESPACE
    refused = helm("install", "processhub", *BARE, namespace=namespace, check=False)
    assert "invalid ownership metadata" in refused.stderr
    helm("install", "processhub", *BARE, "--take-ownership", "--force-conflicts", namespace=namespace)
    helm("uninstall", "processhub", "--wait", namespace=namespace)
    assert names(own, "crds", "-l", "app.kubernetes.io/name=processhub") == CRDS
    install(helm, "--take-ownership", "--force-conflicts")
    own.kubectl("delete", "namespace", render_manifests.NAMESPACE, "--wait=false")
    own.kubectl("delete", KINDS, "-l=app.kubernetes.io/name=processhub")


def test_the_roles_edit_and_view_include_the_products_objects(helm: Helm, own: Cluster) -> None:
    install(helm)
    for user, role in (("ed", "edit"), ("vi", "view")):
        own.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", "default")

    def user_may(user: str, verb: str, resource: str) -> bool:
        return may(own, verb, resource, f"--as={user}", "-n", "default")

    def aggregated() -> bool:
        return user_may("vi", "list", "hubs.processhub.dev") and user_may("ed", "create", "hubs.processhub.dev")

    until(aggregated, "the controller aggregates the roles")
    assert user_may("ed", "create", "hubs.processhub.dev/call")
    assert user_may("ed", "patch", "hubs.processhub.dev/scale")
    assert user_may("ed", "delete", "children.processhub.dev")
    assert user_may("vi", "list", "registryslices.processhub.dev")
    assert not user_may("ed", "update", "registryslices.processhub.dev")
    assert not user_may("vi", "create", "children.processhub.dev")
    assert not user_may("vi", "create", "hubs.processhub.dev/call")


def test_upgrade_and_uninstall_affect_no_running_child(helm: Helm, own: Cluster) -> None:
    chart, examples = str(ROOT / "charts" / "processhub"), ROOT / "manifests" / "examples"
    release = ["processhub", chart, "--create-namespace", "--wait", "--timeout=100s"]

    def running() -> dict[str, Any]:
        children = json.loads(own.kubectl("get", "children", "-n", "default", "-o", "json"))["items"]
        return {each["metadata"]["name"]: each["status"]["nodes"] for each in children}

    def pods() -> str:
        return own.kubectl("get", "pods", "-n", "default", "-o", "jsonpath={.items[*].metadata.uid}")

    def renewals() -> dict[str, str]:
        leases = json.loads(own.kubectl("get", "leases", "-n", "default", "-o", "json"))["items"]
        return {each["metadata"]["name"]: each["spec"]["renewTime"] for each in leases}

    helm("install", *release)
    for example in ("01-hub.yaml", "02-children.yaml"):
        own.kubectl("apply", "-n", "default", "-f", str(examples / example))
        # A member that becomes ready later would take its share of the children.
        own.kubectl(*("wait", "hub", "--all", "-n", "default"), "--for=condition=Ready", "--timeout=90s", timeout=100)
    own.kubectl(*("wait", "child", "--all", "-n", "default"), "--for=condition=Ready", "--timeout=60s", timeout=70)
    before = running(), pods()

    helm("upgrade", *release, "--set", "networkPolicy.enabled=true", "--set", "metrics.grafanaDashboard.enabled=true")
    policies = [f"processhub-{name}" for name in names(own, "hubs", "-n", "default")]
    until(lambda: names(own, "networkpolicies", "-n", "default") == policies, "the operator makes them")
    assert "processhub-dashboard" in names(own, "configmaps", "-n", NAMESPACE)
    answer = helm("test", "processhub", "--logs")

    assert "leads and 4 CRDs are served" in answer.stdout + answer.stderr
    assert (running(), pods()) == before
    helm("uninstall", "processhub", "--wait")
    renewed = renewals()
    until(lambda: all(renewals()[name] != time for name, time in renewed.items()), "the members renew their Leases")
    assert (running(), pods()) == before
    for node in (nodes[0] for nodes in before[0].values()):
        assert Path(f"/proc/{node['pid']}").exists(), "the process runs on"


@pytest.mark.nightly
def test_the_operator_leads_on_when_a_namespace_is_deleted(helm: Helm, own: Cluster) -> None:
    own.kubectl("create", "namespace", "team-gone")
    options = ("--set", "watchNamespaces={default,team-gone}", "--set", "replicas=1")
    helm("install", "processhub", CHART, "--create-namespace", "--wait", "--timeout=100s", *options)
    own.kubectl("delete", "namespace", "team-gone", timeout=100)

    own.kubectl("-n", NAMESPACE, "delete", "pods", "-l", "app.kubernetes.io/component=operator")
    hub = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "led"}, "spec": {}}
    own.kubectl("apply", "-n", "default", "-f", "-", stdin=json.dumps(hub))

    own.kubectl(*("wait", "hub/led", "-n", "default"), "--for=condition=Ready", "--timeout=90s", timeout=100)


# This test is last: CRDs that are being deleted would block the next installation.


def test_uninstall_without_keep_removes_the_crds(helm: Helm, own: Cluster) -> None:
    notes = install(helm, "--set", "crds.keep=false")

    helm("uninstall", "processhub")

    assert "ALL Hubs and Children" in notes
    left = json.loads(own.kubectl("get", "crds", "-o", "json"))["items"]
    assert all("deletionTimestamp" in crd["metadata"] for crd in left if crd["metadata"]["name"] in CRDS)
