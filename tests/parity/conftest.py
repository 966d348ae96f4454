"""Hubs with different settings that all parity tests share; each test uses child ids of its own.

``plain`` has the defaults. The other fixtures are named after the setting that they have. Each is the client of its
hub. ``ears`` is the receiver of all events of hub ``hot``, at the path ``hot``. All are removed after the last parity
test, because their agents would renew their Leases while other tests run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hookreceiver import Receiver, receiver
from hubcli import Cli
from livehub import SLEEP, Live, live
from roles import MODULE

from localcluster.cluster import Cluster
from ownstrategy import installed
from processhub import Hub
from processhub.api.hooks import HookEvent
from processhub.cluster.client import Client
from processhub.cluster.kinds import untyped

INTEGRATION = Path(__file__).resolve().parents[1] / "integration"
CONFIG_MAPS = untyped("v1", "configmaps")
CODE = {"members": {"python": {"configMap": "code"}}}
HUBS: dict[str, dict[str, Any]] = {
    "plain": {**CODE, "children": [{"id": "fixed", "exec": SLEEP}], "timeouts": {"stopSeconds": 60}},
    "tight": {
        **CODE,
        "replicas": 1,
        "timeouts": {"requestSeconds": 1, "stopSeconds": 1},
        "restarts": {"max": 2, "windowSeconds": 600},
    },
    "guided": {"distribution": {"strategy": "Guided"}, "migration": {"onRestart": "Move"}},
    "copies": {
        **CODE,
        "redundancy": {"strategy": "Replication", "replicationModel": "ActivePassive", "redundancySignal": "All"},
    },
    "hot": {
        **CODE,
        "distribution": {"loadCapPercent": 1000},  # by hash alone: a member that returns gets its former children
        "migration": {"strategy": "HotSwap", "handoverTimeoutSeconds": 8},
        "timeouts": {"stopSeconds": 8},
    },
    "quorum": {
        "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 2},
        "timeouts": {"leaseSeconds": 6, "stopSeconds": 3},
    },
    "placing": {"distribution": {"loadCapPercent": 1000, "rebalance": {"onJoin": False}}},
}


@pytest_asyncio.fixture(scope="package")
async def ears() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest_asyncio.fixture(scope="package")
async def product(
    cluster: Cluster, api: Client, ears: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Live]:
    """All hubs, and an operator that has a user's own strategy and hook handlers installed."""
    folder = tmp_path_factory.mktemp("parity")
    path = os.pathsep.join((installed(folder), str(INTEGRATION / "handlers")))
    async with live(cluster, api, folder, PYTHONPATH=path) as running:
        modules = {
            "sample_actors.py": (INTEGRATION / "actors" / "sample_actors.py").read_text(),
            "roles_worker.py": MODULE,
        }
        await api.create(CONFIG_MAPS, running.namespace, {"metadata": {"name": "code"}, "data": modules})
        told = {"hot": {"hooks": ears.hooks(*HookEvent, path="hot")}}
        await asyncio.gather(
            *(running.hub(name, ready=False, **spec, **told.get(name, {})) for name, spec in HUBS.items())
        )
        yield running


def _connected(name: str) -> Any:
    @pytest_asyncio.fixture(scope="package", name=name)
    async def client(product: Live) -> AsyncIterator[Hub]:
        await product.ready(name, HUBS[name].get("replicas", 2))
        async with product.connect(name) as hub:
            yield hub

    return client


plain, tight, guided, copies, hot, quorum, placing = (_connected(name) for name in HUBS)


@pytest.fixture
def cli(product: Live) -> Cli:
    """``kubectl hub`` for hub ``plain``, unless the command names another."""
    return Cli(product, "plain")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Add the objects and the operator's log to the report of a failed test."""
    report = yield
    product = getattr(item, "funcargs", {}).get("product")
    if product is not None and report.when == "call" and report.failed:
        objects = ("-n", product.namespace, "get", "hubs,children,rslice,pods", "-o", "wide")
        report.sections.append(("objects", product.cluster.kubectl(*objects)))
        report.sections.append(("operator", "\n".join(product.operator.said().splitlines()[-60:])))
    return report
