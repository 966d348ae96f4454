"""The commands by which users install ProcessHub on their own cluster use existing names."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusterfolder import ROOT
from readmes import Block, blocks

from kind.cluster import default_image

README, QUICK_START = ROOT / "README.md", ROOT / "docs" / "quick-start.md"
COVERED = "tests/e2e/test_own_cluster.py"
THIS = Path(__file__).relative_to(ROOT).as_posix()


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command, without comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].split() for line in lines]


@pytest.fixture
def own_cluster() -> list[list[str]]:
    (block,) = (block for block in blocks(README) if block.covered_by == COVERED)
    return commands(block)


def test_the_image_that_is_built_and_loaded_is_the_charts(own_cluster: list[list[str]]) -> None:
    build, load, install = own_cluster

    assert build == ["docker", "build", "--tag", default_image(), "operator"]
    assert load == ["kind", "load", "docker-image", default_image()]
    assert install[:4] == ["helm", "install", "processhub", "charts/processhub"]
    assert (ROOT / "operator" / "Dockerfile").is_file()
    assert (ROOT / "charts" / "processhub" / "Chart.yaml").is_file()


def test_a_hub_is_the_fourth_command(own_cluster: list[list[str]]) -> None:
    anywhere = [block.code for block in blocks(README) if not block.comment and not block.code.startswith("make ")]

    assert len(own_cluster) == 3
    assert anywhere[0].startswith("kubectl apply -f - <<'YAML'\n")


def test_the_commands_for_minikube_differ_only_in_loading_the_image(own_cluster: list[list[str]]) -> None:
    (block,) = (block for block in blocks(QUICK_START) if block.covered_by == THIS)
    build, load, install = commands(block)

    assert [build, install] == [own_cluster[0], own_cluster[2]]
    assert load == ["minikube", "image", "load", default_image()]
    assert " ".join(load) in README.read_text()
