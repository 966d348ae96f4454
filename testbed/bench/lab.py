"""The cluster that is measured on: hubs, clients, what the API server counted."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from localcluster import cluster as local
from localcluster import install
from localcluster.cluster import Cluster
from localcluster.faults import Faults
from localcluster.kubelet.connection import read_kubeconfig
from processhub.api.hub import Hub as HubObject
from processhub.api.meta import API_VERSION, find_condition
from processhub.client.hub import Hub
from processhub.client.session import Session, find_hub
from processhub.cluster.client import Client
from processhub.cluster.kinds import HUBS

_REQUESTS = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WRITES = {"POST", "PUT", "PATCH", "APPLY", "DELETE"}


class BenchError(Exception):
    """A figure can't be measured; the message says why."""


class Lab:
    """A cluster with the operator, started when a figure first needs it."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._was_up = False

    async def cluster(self) -> Cluster:
        """The cluster, up and with the operator installed."""
        if self._cluster is None:
            self._was_up = await asyncio.to_thread(local.running) is not None
            self._cluster = await asyncio.to_thread(local.up)
            await asyncio.to_thread(install.install, self._cluster)
        return self._cluster

    async def close(self) -> None:
        """Stop the cluster, unless it ran before."""
        if self._cluster is not None and not self._was_up:
            await asyncio.to_thread(local.down, self._cluster.layout)

    async def faults(self) -> Faults:
        """The faults of this cluster's nodes and pods."""
        return Faults((await self.cluster()).layout.kubelet_root)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """A client of the API server, as the administrator."""
        async with Client(read_kubeconfig((await self.cluster()).kubeconfig).client_config()) as client:
            yield client

    @asynccontextmanager
    async def namespace(self) -> AsyncIterator[str]:
        """A namespace for one figure, deleted afterwards so that its objects do not affect the next figure."""
        cluster, name = await self.cluster(), f"bench-{secrets.token_hex(3)}"
        await asyncio.to_thread(cluster.kubectl, "create", "namespace", name)
        try:
            yield name
        finally:
            await asyncio.to_thread(cluster.kubectl, "delete", "namespace", name, timeout=600)

    async def make_hub(self, client: Client, namespace: str, name: str, *, paused: bool = False, **spec: Any) -> None:
        """A hub of three members, ready (a paused one: as it was created)."""
        annotations = {"processhub.dev/paused": "true"} if paused else {}
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "Hub",
            "metadata": {"name": name, "annotations": annotations},
            "spec": spec,
        }
        await client.create(HUBS, namespace, manifest)
        if not paused:
            await self.hub_ready(client, namespace, name)

    async def hub_ready(self, client: Client, namespace: str, name: str, within: float = 120) -> HubObject:
        """The hub, once all of its members are ready and nothing moves. Raises BenchError."""
        deadline = time.monotonic() + within
        while True:
            hub = await client.get(HUBS, namespace, name)
            conditions = [find_condition(hub.status.conditions, kind) for kind in ("Ready", "Balanced")]
            if all(found is not None and found.status == "True" for found in conditions):
                return hub
            if time.monotonic() > deadline:
                raise BenchError(f"hub {name} is not ready after {within:g} s: {conditions}")
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def following(self, namespace: str, name: str) -> AsyncIterator[tuple[Hub, Session]]:
        """The product's client of a hub, and its session, whose registry follows by watch."""
        async with self.connected() as client:
            session = Session(client, namespace, await find_hub(client, namespace, name))
            try:
                await session.follow()
                yield Hub.attached(session), session
            finally:
                await session.close()


async def api_writes(client: Client) -> Counter[str]:
    """Writes that the API server has answered so far, by ``resource[/subresource]``; renewals of Leases left out."""
    text = (await client.raw("GET", "/metrics")).decode()
    return parse_writes(text)


def parse_writes(text: str) -> Counter[str]:
    """The writes in the API server's metrics, by ``resource[/subresource]``."""
    counts: Counter[str] = Counter()
    for match in _REQUESTS.finditer(text):
        labels = dict(_LABEL.findall(match["labels"]))
        if labels.get("verb") in _WRITES and labels.get("resource") != "leases":
            name = "/".join(filter(None, (labels.get("resource", ""), labels.get("subresource", ""))))
            counts[name] += round(float(match["count"]))
    return counts
