"""Fixtures of `make e2e-faults`: real nodes fail while children write rows; the run takes about 20 minutes.

The effect of each fault on each strategy is written as a table to .local/e2e-faults/figures.md, for docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fleet import Fleet
from images import build_writer
from kube import SYSTEM, CommandError, Kube, Release, docker, run

from kind.layout import CHECKOUT, SHARED_IN_NODE

FIGURES = CHECKOUT / ".local" / "e2e-faults" / "figures.md"
Figure = Callable[[str, str, str], None]
_ROWS: list[str] = []


@pytest.fixture(scope="session")
def writer_image(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of the children, loaded into the nodes, which share a folder."""
    for node in kube.workers():
        try:
            docker("exec", node, "test", "-d", SHARED_IN_NODE)
        except CommandError:
            pytest.exit(
                f"{node} has no {SHARED_IN_NODE}: the cluster is an older one, make kind-down first", returncode=2
            )
    name = build_writer(tmp_path_factory.mktemp("writer"))
    run("python3", "-m", "kind.cluster", "load", name, env={"PYTHONPATH": str(CHECKOUT / "testbed")}, timeout=300)
    return name


@pytest.fixture
def fleet(kube: Kube, release: Release, writer_image: str) -> Iterator[Fleet]:
    """The hubs, one for each strategy, not yet created."""
    made = Fleet(kube)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def leaders_node(kube: Kube, release: Release) -> str:
    """The node of the leading operator; no fault is applied to it."""
    release.ready()
    leader = kube.get("lease", "processhub-operator", "-n", SYSTEM)["spec"]["holderIdentity"].rpartition("_")[0]
    node: str = kube.get("pod", leader, "-n", SYSTEM)["spec"]["nodeName"]
    return node


@pytest.fixture
def figure() -> Figure:
    """A function that adds a row to the table: fault, strategy, observation."""

    def keep(fault: str, strategy: str, seen: str) -> None:
        _ROWS.append(f"| {fault} | {strategy} | {seen} |")

    return keep


def pytest_sessionfinish() -> None:
    """Write the table."""
    if _ROWS:
        FIGURES.parent.mkdir(parents=True, exist_ok=True)
        FIGURES.write_text("\n".join(["| fault | hub | seen |", "|---|---|---|", *_ROWS, ""]))
