"""The README of each example, followed on a hub of its own: its commands print what it shows."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from clusterfolder import ROOT
from livehub import Live, live
from readmes import Reader, blocks, check_form

from localcluster.cluster import Cluster
from localcluster.ports import free_port
from ownstrategy import installed
from processhub.cluster.client import Client

EXAMPLES = ROOT / "examples"
NAMES = ["python-code", "choke-point", "own-strategy"]
# These take longer.
FURTHER = ["program", "guided", "replicated", "handover", "hooks", "partition"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def path(folder: Path) -> str:
    """PYTHONPATH with the example's strategies."""
    return os.pathsep.join((installed(folder), *filter(None, [os.environ.get("PYTHONPATH")])))


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, folder: Path, path: str) -> AsyncIterator[Live]:
    async with live(cluster, api, folder, PYTHONPATH=path) as running:
        yield running


@pytest.fixture(scope="module")
def environment(product: Live, folder: Path, path: str) -> dict[str, str]:
    """A reader's environment: the kubeconfig names the namespace."""
    kubeconfig = folder / "kubeconfig"
    shutil.copy(product.kubeconfig, kubeconfig)
    product.cluster.kubectl(
        "--kubeconfig", str(kubeconfig), "config", "set-context", "--current", f"--namespace={product.namespace}"
    )
    return {**product.cluster.environment(), "KUBECONFIG": str(kubeconfig), "PYTHONPATH": path}


def test_the_index_of_examples_names_each_one() -> None:
    text = (EXAMPLES / "README.md").read_text()

    assert {path.parent.name for path in EXAMPLES.glob("*/README.md")} == {*NAMES, *FURTHER}
    assert all(f"]({name})" in text for name in (*NAMES, *FURTHER))
    check_form(EXAMPLES / "README.md")


@pytest.mark.parametrize("name", NAMES)
async def test_an_example_does_what_its_readme_shows(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    await follow(name, environment, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", FURTHER)
async def test_a_further_example_does_what_its_readme_shows(
    name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    await follow(name, environment, tmp_path)


async def follow(name: str, environment: dict[str, str], folder: Path) -> None:
    """Run the README's commands in this folder, and assert that each prints what the README shows."""
    readme = EXAMPLES / name / "README.md"
    check_form(readme)
    reader = Reader(environment, folder)

    def read() -> None:
        said, port = "", free_port()
        try:
            for block in blocks(readme):
                # The port of the hooks' receiver may be in use on this machine.
                here = block.with_("8088", str(port)).with_(
                    "apply -f manifests/examples/30-hooks.yaml",
                    f"apply -f - < <(sed s/:8088/:{port}/ manifests/examples/30-hooks.yaml)",
                )
                said = reader.read(here, said)
        finally:
            reader.close()

    await asyncio.to_thread(read)
