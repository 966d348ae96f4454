"""Fixtures for tests of the chart on a real kind cluster; `make e2e` builds and starts all that they need.

The tests use a cluster only if its context is kind-processhub or is named in E2E_CONTEXTS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from images import build
from kube import Kube, Measured, Release, World, run

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / ".local" / "e2e"
ALLOWED = {"kind-processhub"}
sys.path.insert(0, str(ROOT / "tests" / "integration"))  # processwatch: the processes of children run on this machine


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move tests marked ``last``, which remove the release, to the end."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
    for item in items:
        item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def kube() -> Kube:
    """kubectl and helm for the cluster; ends the session if its context is not allowed."""
    kubeconfig = Path(os.environ.get("E2E_KUBECONFIG") or ROOT / ".local" / "kind" / "kubeconfig")
    if not kubeconfig.exists():
        pytest.exit(f"there is no {kubeconfig}; bring a cluster up with: make kind-up", returncode=2)
    found = Kube(kubeconfig, os.environ.get("E2E_CONTEXT", ""))
    allowed = ALLOWED | set(filter(None, os.environ.get("E2E_CONTEXTS", "").split(",")))
    if found.context not in allowed:
        pytest.exit(
            f"context {found.context} is none of {', '.join(sorted(allowed))}; these tests delete and break things: "
            "name it in E2E_CONTEXTS if it is meant for that",
            returncode=2,
        )
    return found


@pytest.fixture(scope="session")
def release(kube: Kube) -> Release:
    """The release of the chart, installed with default values where Pod Security `restricted` is enforced."""
    found = Release(kube, ROOT / "charts" / "processhub")
    found.install()
    return found


@pytest.fixture(scope="session")
def images(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The images of users' programs, loaded into the nodes."""
    names = build(tmp_path_factory.mktemp("images"))
    run(sys.executable, "-m", "kind.cluster", "load", *names, env={"PYTHONPATH": str(ROOT / "testbed")}, timeout=300)


@pytest.fixture
def world(kube: Kube, release: Release) -> Iterator[World]:
    """A new namespace for one test, with Pod Security `restricted` enforced."""
    made = World(kube)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """A function that records a duration in seconds in junit.xml, for docs/operations.md."""

    def keep(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 1))

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Write the objects, Events and logs of all pods to files when a test has failed."""
    report = yield
    if report.when == "call" and report.failed and (cluster := getattr(item, "funcargs", {}).get("kube")):
        folder = ARTIFACTS / item.name
        cluster.save(folder)
        report.sections.append(("kept", str(folder)))
    return report
