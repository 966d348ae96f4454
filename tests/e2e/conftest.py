"""The chart on a real kind cluster: real kubelets, containers and networks. `make e2e` brings all that is needed.

The tests only ever talk to a cluster whose context is on a list: kind-processhub, and those that E2E_CONTEXTS names.
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
sys.path.insert(0, str(ROOT / "tests" / "integration"))  # processwatch: children's processes are this machine's


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the release away comes last."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
    for item in items:
        item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def kube() -> Kube:
    """kubectl and helm on the cluster; the session ends here where its context is on no list."""
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
    """The chart, installed with its default values in a namespace that enforces Pod Security `restricted`."""
    found = Release(kube, ROOT / "charts" / "processhub")
    found.install()
    return found


@pytest.fixture(scope="session")
def images(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Users' images, in the nodes."""
    names = build(tmp_path_factory.mktemp("images"))
    run(sys.executable, "-m", "kind.cluster", "load", *names, env={"PYTHONPATH": str(ROOT / "testbed")}, timeout=300)


@pytest.fixture
def world(kube: Kube, release: Release) -> Iterator[World]:
    """A namespace of this test's own, Pod Security `restricted` enforced."""
    made = World(kube)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Keeps how many seconds something took, for docs/operations.md: in junit.xml."""

    def keep(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 1))

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Of a failed test: objects, events and the logs of all pods, in files."""
    report = yield
    if report.when == "call" and report.failed and (cluster := getattr(item, "funcargs", {}).get("kube")):
        folder = ARTIFACTS / item.name
        cluster.save(folder)
        report.sections.append(("kept", str(folder)))
    return report
