"""helm install, test and upgrade with default values; helm uninstall at the very end."""

from __future__ import annotations

import pytest
from kube import SYSTEM, Kube, Release, World, moved, settles

IDS = [f"c{number}" for number in range(12)]


def test_the_release_is_ready_and_passes_helm_test(kube: Kube, release: Release) -> None:
    release.ready()

    said = kube.helm("test", "processhub", "--namespace", SYSTEM, "--timeout", "60s")

    assert "Succeeded" in said
    nodes = {
        item["spec"]["nodeName"]
        for item in kube.items("pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator")
    }
    assert len(nodes) == 2, "the two replicas are spread"


def test_an_upgrade_and_a_changed_template_move_no_child(kube: Kube, release: Release, world: World) -> None:
    world.hub()
    world.children(*IDS)
    before = world.running(IDS)
    uids = {name: world.get("pod", name)["metadata"]["uid"] for name in world.nodes_of()}

    release.upgrade("--set", "logLevel=debug", "--timeout", "120s")
    release.ready()
    assert world.running(IDS) == before
    assert set(world.starts().values()) == {1}, "an upgrade of the operator restarts no child"

    world.kubectl(
        *("patch", "hub", "hub", "--type=merge", "-p"),
        '{"spec": {"members": {"template": {"metadata": {"annotations": {"release": "2"}}}}}}',
    )

    def rolled() -> None:
        assert all(world.get("pod", name)["metadata"]["uid"] != uid for name, uid in uids.items())

    settles(rolled, within=180)
    world.hub_ready()
    assert moved(before, world.running(IDS)) == set()
    assert set(world.starts().values()) == {2}
    assert world.watch.overlaps() == []
    release.upgrade("--timeout", "120s")
    release.ready()


@pytest.mark.last
def test_uninstall_leaves_the_crds_and_what_members_need(kube: Kube, release: Release) -> None:
    kube.helm("uninstall", "processhub", "--namespace", SYSTEM, "--wait")

    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,flowschemas"
    left = {f"{item['kind']} {item['metadata']['name']}" for item in kube.items(kinds)}
    # The kind cluster's own network plug-in has the same name.
    assert {name for name in left if "processhub" in name and "processhub-kind-" not in name} == {
        "ClusterRole processhub-agent",
        "ClusterRole processhub-agents",
        "ClusterRoleBinding processhub-agents",
        "FlowSchema processhub-member-leases",
        *(f"ValidatingAdmissionPolicy{binding} processhub-{name}"
          for binding in ("", "Binding") for name in ("slice-status", "member-lease")),
    }  # fmt: skip

    def empty() -> None:
        found = kube.items("all,configmaps,serviceaccounts,roles,rolebindings,leases", "-n", SYSTEM)
        assert [
            i["metadata"]["name"] for i in found if i["metadata"]["name"] not in ("default", "kube-root-ca.crt")
        ] == []

    settles(empty)
    crds = {item["metadata"]["name"] for item in kube.items("crds") if "processhub" in item["metadata"]["name"]}
    assert crds == {f"{plural}.processhub.dev" for plural in ("hubs", "children", "childsets", "registryslices")}
    kube("delete", "crds", *sorted(crds))  # it returns when they are deleted
    kube("delete", kinds, "--selector", "app.kubernetes.io/name=processhub")
