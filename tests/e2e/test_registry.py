"""Members whose image is in a registry that asks for a password."""

from __future__ import annotations

from pathlib import Path

from kube import SYSTEM, Kube, Release, World, settles
from registry import NAME, PASSWORD, USER, private_registry


def test_members_images_come_from_a_private_registry_by_the_charts_pull_secret(
    kube: Kube, release: Release, world: World, tmp_path: Path
) -> None:
    deployment = kube.get("deployment", "processhub-operator", "-n", SYSTEM)
    ours = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    with private_registry(kube, tmp_path) as registry:
        image = registry.push(ours)
        members = {"replicas": 2, "image": image}
        hub = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub"}}
        kube.apply({**hub, "spec": {"members": members}}, namespace=world.namespace)

        def refused() -> None:
            conditions = world.get("hub", "hub")["status"]["conditions"]
            (ready,) = (each for each in conditions if each["type"] == "Ready")
            assert ready["status"] == "False"
            assert "ImagePull" in ready["message"]
            assert image in ready["message"]
            assert "authoriz" in ready["message"].lower(), ready["message"]

        settles(refused)

        secret = (f"--docker-server={NAME}", f"--docker-username={USER}", f"--docker-password={PASSWORD}")
        world.kubectl("create", "secret", "docker-registry", "registry", *secret)
        try:
            release.upgrade("--set", "imagePullSecrets[0].name=registry", "--timeout", "120s")
            release.ready()
            world.hub_ready(timeout=240)
            world.children("a", "b")
            world.running(["a", "b"])
            specs = [world.get("pod", name)["spec"] for name in world.nodes_of()]
            assert [spec["containers"][0]["image"] for spec in specs] == [image, image]
            assert [spec["imagePullSecrets"] for spec in specs] == [[{"name": "registry"}]] * 2
        finally:
            release.upgrade("--timeout", "120s")
            release.ready()
