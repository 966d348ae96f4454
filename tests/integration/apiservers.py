"""The API servers that a suite runs against: the one in memory and the real one of the session's cluster."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from memoryapi import MemoryApi, MemoryClient, Wire
from namespaces import create_namespace, remove_namespace
from waiting import eventually

from localcluster.cluster import Cluster
from processhub.api.meta import API_VERSION
from processhub.cluster.client import Client
from processhub.cluster.kinds import Kind, untyped

Json = dict[str, Any]
HUBS, CHILDREN, SLICES = (untyped(API_VERSION, plural) for plural in ("hubs", "children", "registryslices"))
CONFIG_MAPS, PODS, SERVICE_ACCOUNTS = (untyped("v1", plural) for plural in ("configmaps", "pods", "serviceaccounts"))
NAMESPACES = untyped("v1", "namespaces", namespaced=False)
STATEFUL_SETS = untyped("apps/v1", "statefulsets")
LEASES = untyped("coordination.k8s.io/v1", "leases")
CHILD: Json = {"hub": "none", "exec": {"command": ["sleep"]}}
ACCOUNT = "nobody"  # of the pods
SERVERS = ("in memory", "real")
_KINDS = {"hubs": "Hub", "children": "Child", "registryslices": "RegistrySlice", "configmaps": "ConfigMap"} | {
    "leases": "Lease",
    "pods": "Pod",
    "statefulsets": "StatefulSet",
}


@dataclass
class ApiServer:
    """One API server with a namespace for objects of the test."""

    client: Client
    namespace: str
    memory: MemoryApi | None = None
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def name(self, text: str = "a") -> str:
        """Return a new name; later names follow earlier ones in the alphabet."""
        return f"{text}-{next(self._numbers):04}"

    def body(self, kind: Kind[Json], name: str = "", **fields: Any) -> Json:
        """Return a manifest; ``metadata`` is added to the name."""
        metadata = {"name": name or self.name(), **fields.pop("metadata", {})}
        return {"apiVersion": kind.api_version, "kind": _KINDS[kind.plural], "metadata": metadata, **fields}

    async def create(self, kind: Kind[Json], name: str = "", **fields: Any) -> Json:
        """Create an object; without ``spec`` it gets one that its kind accepts."""
        if kind in _SPECS and "spec" not in fields:
            fields["spec"] = dict(_SPECS[kind])
        return await self.client.create(kind, self.namespace, self.body(kind, name, **fields))

    async def get(self, kind: Kind[Json], item: Json) -> Json:
        """Return the object as it is now."""
        return await self.client.get(kind, item["metadata"]["namespace"], item["metadata"]["name"])

    async def patch(self, kind: Kind[Json], item: Json, body: object, **how: Any) -> Json:
        """Patch the object."""
        return await self.client.patch(kind, item["metadata"]["namespace"], item["metadata"]["name"], body, **how)

    async def replace(self, kind: Kind[Json], item: Json, **how: Any) -> Json:
        """Replace the object."""
        return await self.client.replace(kind, item["metadata"]["namespace"], item["metadata"]["name"], item, **how)

    async def apply(self, kind: Kind[Json], body: Json, manager: str, **how: Any) -> Json:
        """Apply the manifest."""
        return await self.client.apply(kind, self.namespace, body["metadata"]["name"], body, manager=manager, **how)

    async def delete(self, kind: Kind[Json], item: Json, **how: Any) -> None:
        """Delete the object."""
        await self.client.delete(kind, item["metadata"]["namespace"], item["metadata"]["name"], **how)

    async def in_time(self, look: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait until controllers of the cluster have acted."""

        async def seen() -> bool:
            if self.memory is not None:
                self.memory.collect_garbage()
            return await look()

        await eventually(seen, what)

    def forget(self) -> str:
        """Return a resourceVersion from which nothing can be watched any more."""
        if self.memory is not None:
            self.memory.compact()
        return "1"  # the real server starts to watch custom resources after that version

    async def events(self, kind: Kind[Json], version: str, count: int, **selected: str) -> list[tuple[str, Json]]:
        """Return this many events of a watch of the namespace from this version on, without bookmarks."""
        found: list[tuple[str, Json]] = []
        async with asyncio.timeout(20):
            async for batch in self.client.watch(kind, self.namespace, version, **selected):
                found += [(event.type, event.object) for event in batch if event.type != "BOOKMARK"]
                if len(found) >= count:
                    return found
        raise AssertionError(f"the watch has ended after {len(found)} events")


_SPECS: dict[Kind[Json], Json] = {
    HUBS: {"suspend": True},
    CHILDREN: CHILD,
    SLICES: {"hub": "none", "hubUid": "u", "member": "none-0", "mode": "Replicas", "term": 5},
    PODS: {
        "serviceAccountName": ACCOUNT,
        "nodeName": "none",  # no kubelet runs there, so none ends a Pod
        "containers": [{"name": "main", "image": "none"}],
    },
}


def in_memory() -> ApiServer:
    """A new API server in memory."""
    memory, namespace = MemoryApi(), "ns"
    memory.create("namespaces", {"metadata": {"name": namespace}}, namespace="")
    memory.create("serviceaccounts", {"metadata": {"name": ACCOUNT}}, namespace)
    return ApiServer(MemoryClient(memory, Wire(), namespace), namespace, memory)


@pytest_asyncio.fixture(scope="module")
async def namespace_of_all(cluster: Cluster, api: Client) -> AsyncIterator[str]:
    """A namespace of the real API server for all tests of a module."""
    name = f"conformance-{secrets.token_hex(4)}"
    await create_namespace(api, name)
    await api.create(SERVICE_ACCOUNTS, name, {"metadata": {"name": ACCOUNT}})
    yield name
    await remove_namespace(api, name)


def asked(request: pytest.FixtureRequest) -> ApiServer:
    """Return the API server of a fixture with SERVERS as its parameters; only the real one starts a cluster."""
    if request.param == "in memory":
        return in_memory()
    api: Client = request.getfixturevalue("api")
    return ApiServer(api, request.getfixturevalue("namespace_of_all"))


def version(item: Json) -> int:
    """Return the object's resourceVersion as a number."""
    return int(item["metadata"]["resourceVersion"])


def generation(item: Json) -> int:
    """Return the object's generation."""
    found: int = item["metadata"]["generation"]
    return found
