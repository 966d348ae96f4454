"""What a member's account may not do, and what the namespaces and the chart enforce."""

from __future__ import annotations

import pytest
from kube import SYSTEM, CommandError, Kube, Release, World, run, settles


def as_member(world: World, member: str, *arguments: str) -> str:
    """Run kubectl with a token of the member's account that is bound to its pod, and with no other credentials."""
    token = world.kubectl(
        *("create", "token", "processhub-hub", "--bound-object-kind=Pod", f"--bound-object-name={member}")
    ).strip()
    cluster = world.kube.get_cluster()
    options = ("--kubeconfig=/dev/null", f"--server={cluster.server}", f"--certificate-authority={cluster.authority}")
    return run("kubectl", *options, f"--token={token}", "-n", world.namespace, *arguments)


def test_a_member_writes_its_own_slice_status_and_no_others(world: World) -> None:
    world.hub(members={"replicas": 2})
    slices = {
        item["spec"]["member"]: item["metadata"]["name"] for item in world.kube.items("rslice", "-n", world.namespace)
    }
    patch = '{"status": {"term": 1}}'
    write = ("patch", "rslice", "--subresource=status", "--type=merge", "-p", patch)

    as_member(world, "hub-0", *write, slices["hub-0"])
    with pytest.raises(CommandError, match="only member hub-1 of hub hub may write"):
        as_member(world, "hub-0", *write, slices["hub-1"])


def test_a_member_reads_no_secret_and_makes_no_pod(world: World) -> None:
    world.hub(members={"replicas": 1})
    world.kubectl("create", "secret", "generic", "hidden", "--from-literal=key=value")

    with pytest.raises(CommandError, match="forbidden"):
        as_member(world, "hub-0", "get", "secret", "hidden")
    with pytest.raises(CommandError, match="forbidden"):
        as_member(world, "hub-0", "get", "secrets")
    for verb, resource in (("create", "pods"), ("delete", "pods"), ("update", "hubs"), ("create", "pods/exec")):
        with pytest.raises(CommandError):
            as_member(world, "hub-0", "auth", "can-i", verb, resource)


def test_pod_security_restricted_is_enforced_and_met(kube: Kube, release: Release, world: World) -> None:
    for namespace in (SYSTEM, world.namespace):
        labels = kube.get("namespace", namespace)["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    world.hub(members={"replicas": 1})  # it would not be Ready if its pod had been rejected
    with pytest.raises(CommandError, match="violates PodSecurity"):
        world.kubectl("run", "root", "--image=processhub:0.1.0", "--restart=Never")


def test_the_network_policy_is_optional_and_admits_http_alone(kube: Kube, release: Release) -> None:
    assert kube.items("networkpolicies", "-n", SYSTEM) == []

    release.upgrade("--set", "networkPolicy.enabled=true")
    (policy,) = kube.items("networkpolicies", "-n", SYSTEM)
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    release.ready()

    release.upgrade()

    def gone() -> None:
        assert kube.items("networkpolicies", "-n", SYSTEM) == []

    settles(gone)
