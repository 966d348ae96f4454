"""The README's quick start on a user's own cluster: its commands as they are written, with the user's own tools."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterfolder import ROOT
from kube import SYSTEM, CommandError, Kube, docker, run
from readmes import Block, Reader, blocks

from image.base import PUBLIC, choose
from image.build import wheels
from kind.cluster import default_image
from localcluster import tools

HERE = Path(__file__).relative_to(ROOT).as_posix()
_BLOCK_SECONDS = 600.0  # the longest command builds the image and loads it into all nodes
_KIND = "kind-"  # kind puts this before the cluster's name in the name of its context


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout whose image can be built, also without access to an image registry.

    Without one, the base image is the one that was built on this machine, tagged with the name in the Dockerfile, and
    the wheels are in the build context.
    """
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "operator", root / "operator", ignore=ignored)
    (root / "charts").symlink_to(ROOT / "charts")
    base = choose("")
    if base == PUBLIC:
        yield root
        return
    shutil.copytree(wheels(), root / "operator" / ".wheels")
    docker("tag", base, PUBLIC)
    try:
        yield root
    finally:
        docker("image", "rm", PUBLIC)


@pytest.fixture
def nothing_installed(kube: Kube) -> Iterator[None]:
    """Remove the release and its image from Docker and the nodes: the README's commands must create them."""
    nodes = docker("ps", "--quiet", "--filter", f"label=io.x-k8s.kind.cluster={_cluster(kube)}").split()
    _uninstall(kube)
    with contextlib.suppress(CommandError):
        docker("image", "rm", default_image())
    for node in nodes:
        images = ("exec", node, "ctr", "--namespace", "k8s.io", "images")
        for name in docker(*images, "ls", "--quiet").split():
            if name.endswith(f"/{default_image()}"):
                docker(*images, "rm", name)
    yield
    _uninstall(kube)


@pytest.mark.last
@pytest.mark.timeout(900)
def test_the_readmes_commands_install_and_uninstall_the_operator(
    kube: Kube, nothing_installed: None, checkout: Path, tmp_path: Path
) -> None:
    reader = Reader(_environment(kube, tmp_path), tmp_path, checkout, _BLOCK_SECONDS)

    for block in _for_this_cluster(ROOT / "README.md"):
        reader.follow(block)

    assert docker("image", "inspect", "--format", "{{.Config.User}}", default_image()).strip() == "65532:65532"
    images = {
        container["image"]
        for namespace, selector in ((SYSTEM, "app.kubernetes.io/component=operator"), ("default", "processhub.dev/hub"))
        for pod in kube.items("pods", "-n", namespace, "-l", selector)
        for container in pod["spec"]["containers"]
    }
    assert images == {default_image()}, "operators and members run what was built"
    hub = kube.get("hub", "shop", "-n", "default")["status"]
    assert {entry["id"] for entry in hub["registry"]} == {"poller-1", "counter"}

    (taking_away,) = (block for block in blocks(ROOT / "docs" / "quick-start.md") if block.covered_by == HERE)
    reader.follow(taking_away)

    assert [item for item in kube.items("crds") if "processhub" in item["metadata"]["name"]] == []
    assert kube.items("deployments,statefulsets", "-n", SYSTEM) == []


def _for_this_cluster(page: Path) -> list[Block]:
    """Return the blocks that this test covers and those that run anywhere; ``make`` is for the local cluster."""
    found = [
        block
        for block in blocks(page)
        if block.covered_by == HERE or not (block.comment or block.code.startswith("make "))
    ]
    assert [block.covered_by for block in found][:2] == [HERE, ""], "the image and the chart, then a hub"
    return found


def _environment(kube: Kube, folder: Path) -> dict[str, str]:
    """Return a user's environment: kind on PATH, and a kubeconfig with this cluster alone."""
    kubeconfig = folder / "kubeconfig"
    options = ("--kubeconfig", str(kube.kubeconfig), "--context", kube.context)
    kubeconfig.write_text(run("kubectl", *options, "config", "view", "--minify", "--flatten", "--raw"))
    kubeconfig.chmod(0o600)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "kind").symlink_to(tools.ensure(("kind",))["kind"])
    return {
        **os.environ,
        "PATH": f"{programs}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "KUBECONFIG": str(kubeconfig),
        "KIND_CLUSTER_NAME": _cluster(kube),
        "KIND_EXPERIMENTAL_PROVIDER": "docker",
    }


def _cluster(kube: Kube) -> str:
    """Return kind's name for the cluster; the README's command has the default name."""
    if not kube.context.startswith(_KIND):
        pytest.skip(f"context {kube.context} is no kind cluster")
    return kube.context.removeprefix(_KIND)


def _uninstall(kube: Kube) -> None:
    """Remove the hubs and the release, if they exist."""
    with contextlib.suppress(CommandError):
        kube("delete", "hubs,children,childsets", "--all", "--all-namespaces")
    kube.helm("uninstall", "processhub", "--namespace", SYSTEM, "--wait", "--ignore-not-found")
