"""A real control plane with the process kubelet, for one test session.

``cluster`` has three nodes and the product's CRDs. ``cluster.environment()`` is the environment of a process that works
on it (helm, kubectl, the operator). ``faults`` kills, pauses and cuts off. ``namespace`` is new for each test.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from namespaces import create_namespace, pods_may_be_created, remove_namespace
from ownclusters import make_room
from podworld import Pods
from waiting import pauses

from localcluster import cluster as local
from localcluster import guard
from localcluster.cluster import Cluster
from localcluster.faults import Faults
from localcluster.kubelet.connection import read_kubeconfig
from localcluster.layout import ClusterError, Layout
from processhub.cluster.client import Client

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control lets its background processes ignore SIGINT, which tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parents[2]
NODES = 3


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for this session alone, with the CRDs; it is removed even if the session is killed.

    With KEEP_CLUSTER_LOGS=DIR the logs of its control plane and kubelet are copied there at the end.
    """
    layout = Layout(tmp_path_factory.mktemp("cluster"))
    make_room(layout)
    watcher = guard.start(layout)
    try:
        running = local.up(layout, nodes=NODES)
        crds = sorted((ROOT / "crds").glob("*.yaml"))
        if crds:
            running.kubectl("apply", "--server-side", *(f"--filename={path}" for path in crds))
            _await_established(running, crds)
        yield running
    finally:
        keep = os.environ.get("KEEP_CLUSTER_LOGS")
        if keep and layout.kubelet_log.exists():
            shutil.copy(layout.kubelet_log, keep)
        local.down(layout)
        watcher.terminate()
        watcher.wait()


def _await_established(running: Cluster, crds: list[Path]) -> None:
    """Wait until the API server serves the CRDs. kubectl fails for one whose status is not written yet."""
    deadline = time.monotonic() + 30
    for pause in pauses():
        try:
            running.kubectl(
                "wait", "--for=condition=Established", "--timeout=30s", *(f"--filename={path}" for path in crds)
            )
            return
        except ClusterError as error:
            if "accessor error" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(pause)


@pytest.fixture(scope="session")
def faults(cluster: Cluster) -> Faults:
    """Kills, pauses and cuts off the cluster's pods and nodes."""
    return Faults(cluster.layout.kubelet_root)


@pytest_asyncio.fixture(scope="session")
async def api(cluster: Cluster) -> AsyncIterator[Client]:
    """The product's API client, as the administrator."""
    async with Client(read_kubeconfig(cluster.kubeconfig).client_config()) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def namespace(api: Client) -> AsyncIterator[str]:
    """A namespace for one test; its deletion is not waited for."""
    name = f"test-{secrets.token_hex(4)}"
    await create_namespace(api, name)
    yield name
    await remove_namespace(api, name)


@pytest_asyncio.fixture(loop_scope="session")
async def pods(api: Client, cluster: Cluster, faults: Faults, namespace: str) -> Pods:
    """The pods of the test's namespace."""
    await pods_may_be_created(api, namespace)
    return Pods(api, cluster, faults, namespace)
