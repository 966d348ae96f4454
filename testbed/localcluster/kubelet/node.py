"""A node as the API server sees it: its object, its Ready condition, its Lease."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
import uuid

from localcluster.kubelet.environment import Json
from localcluster.kubelet.publish import STRATEGIC_MERGE_PATCH
from localcluster.kubelet.status import timestamp
from processhub.cluster.client import Client
from processhub.cluster.errors import AlreadyExistsError, ApiError, NotFoundError
from processhub.cluster.kinds import untyped

log = logging.getLogger(__name__)
NODES = untyped("v1", "nodes", namespaced=False)
LEASES = untyped("coordination.k8s.io/v1", "leases")
KUBELET_PORT = 10250
REGIONS = ("r1", "r2")  # as in manifests/examples/09-regions.yaml
ZONES = ("a", "b", "c")
_LEASE_SECONDS = 12
_RENEW_SECONDS = 3.0
_STATUS_EVERY = 4  # renewals
_VERSION = "v1.34.4"


class Node:
    """One node. While ``connected`` is not set, there is no traffic between it and the API server."""

    def __init__(self, name: str, index: int, ip: str) -> None:
        self.name, self.index, self.ip = name, index, ip
        self.connected = asyncio.Event()
        self.connected.set()
        self.powered = True
        self.boot_id = str(uuid.uuid4())
        self._ready_since = time.time()
        self._beat = asyncio.Event()

    async def register(self, client: Client) -> None:
        """Create the Node, or adopt that of an earlier kubelet."""
        region = REGIONS[self.index % len(REGIONS)]
        zone = ZONES[self.index % len(ZONES)]
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": region,
            "topology.kubernetes.io/zone": f"{region}-{zone}",
        }
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "status": self._status(),
        }
        try:
            await client.create(NODES, None, body)
        except AlreadyExistsError:
            await self._post_status(client)
        await self._renew(client)

    async def keep_alive(self, client: Client) -> None:
        """Renew the Lease and the Ready condition until cancelled."""
        beats = 0
        while True:
            await self.connected.wait()
            try:
                if beats % _STATUS_EVERY == 0:
                    await self._post_status(client)
                await self._renew(client)
                beats += 1
            except NotFoundError:
                await self._again(client)  # deleted by a user: a real kubelet registers again after a restart
            except ApiError as error:
                log.warning("heartbeat of %s: %s", self.name, error.message)
                beats = 0
                await asyncio.sleep(0.5)
                continue
            self._beat.clear()
            try:
                async with asyncio.timeout(_RENEW_SECONDS):
                    await self._beat.wait()
                beats = 0
            except TimeoutError:
                continue

    def beat_now(self) -> None:
        """Post status and Lease at once (after a partition)."""
        self._beat.set()

    async def _again(self, client: Client) -> None:
        try:
            await self.register(client)
        except ApiError as error:
            log.warning("registering %s: %s", self.name, error.message)
            await asyncio.sleep(0.5)

    async def _post_status(self, client: Client) -> None:
        await client.patch(
            NODES, None, self.name, {"status": self._status()}, content_type=STRATEGIC_MERGE_PATCH, subresource="status"
        )

    async def _renew(self, client: Client) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now}
        try:
            await client.patch(LEASES, "kube-node-lease", self.name, {"spec": spec})
        except NotFoundError:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "namespace": "kube-node-lease"},
                "spec": spec,
            }
            await client.create(LEASES, "kube-node-lease", body)

    def _status(self) -> Json:
        now = timestamp(time.time())
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 1024}Ki"
        room = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "100Gi"}
        conditions = [
            _condition("MemoryPressure", "False", "KubeletHasSufficientMemory", now, self._ready_since),
            _condition("DiskPressure", "False", "KubeletHasNoDiskPressure", now, self._ready_since),
            _condition("PIDPressure", "False", "KubeletHasSufficientPID", now, self._ready_since),
            _condition("Ready", "True", "KubeletReady", now, self._ready_since),
        ]
        return {
            "capacity": room,
            "allocatable": room,
            "conditions": conditions,
            # No Hostname: the API server would prefer it, and there is no DNS to find it by.
            "addresses": [{"type": "InternalIP", "address": self.ip}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
            "nodeInfo": {
                "machineID": self.name,
                "systemUUID": self.name,
                "bootID": self.boot_id,
                "kernelVersion": os.uname().release,
                "osImage": f"processes of this machine ({memory})",
                "containerRuntimeVersion": "process://1.0",
                "kubeletVersion": _VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }


def _condition(kind: str, state: str, reason: str, now: str, since: float) -> Json:
    return {
        "type": kind,
        "status": state,
        "reason": reason,
        "message": reason,
        "lastHeartbeatTime": now,
        "lastTransitionTime": timestamp(since),
    }
