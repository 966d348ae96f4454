"""Writes a pod's status: the newest state, as soon as the node is connected, never the same one twice.

The node controller writes it as well: it sets Ready of the pods of a silent node to false. The state that this kubelet
knows is the right one, so it is written again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from localcluster.kubelet.environment import Json
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, NotFoundError
from processhub.cluster.kinds import untyped

log = logging.getLogger(__name__)
PODS = untyped("v1", "pods")
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


class Publisher:
    """Publishes the result of ``compute()`` whenever ``mark`` was called, until the object is deleted."""

    def __init__(self, client: Client, pod: Json, connected: asyncio.Event, compute: Callable[[], Json]) -> None:
        metadata = pod["metadata"]
        self._client, self._connected, self._compute = client, connected, compute
        self._namespace, self._name, self._uid = metadata["namespace"], metadata["name"], metadata["uid"]
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._sent: Json | None = None
        self._version = 0  # of the object, after the last write
        self.gone = False

    def mark(self) -> None:
        """Note that the status may have changed."""
        self._settled.clear()
        self._dirty.set()

    def observe(self, pod: Json) -> None:
        """Take a version of the object; if another writer changed Ready, the status is written again."""
        if self._sent is None or int(pod["metadata"]["resourceVersion"]) <= self._version:
            return
        if _ready(pod.get("status") or {}) != _ready(self._sent):
            self._sent = None
            self.mark()

    async def settled(self) -> None:
        """Wait until the newest status is written or the object is deleted."""
        await self._settled.wait()

    async def run(self) -> None:
        """Publish until the object is deleted or the task is cancelled."""
        while not self.gone:
            await self._dirty.wait()
            await self._connected.wait()
            self._dirty.clear()
            body = self._compute()
            try:
                if body != self._sent:
                    await self._write(body)
                    self._sent = body
            except ApiError as error:
                log.warning("status of pod %s/%s: %s", self._namespace, self._name, error.message)
                self._dirty.set()
                await asyncio.sleep(0.5)
                continue
            if not self._dirty.is_set():
                self._settled.set()
        self._settled.set()

    async def delete(self) -> None:
        """Confirm the end of the pod: delete the object at once, under its uid."""
        while not self.gone:
            await self._connected.wait()
            try:
                await self._client.delete(PODS, self._namespace, self._name, uid=self._uid, grace_period_seconds=0)
                self.gone = True
            except (NotFoundError, ConflictError):
                self.gone = True
            except ApiError as error:
                log.warning("deletion of pod %s/%s: %s", self._namespace, self._name, error.message)
                await asyncio.sleep(0.5)

    async def _write(self, body: Json) -> None:
        patch = {"metadata": {"uid": self._uid}, "status": body}
        try:
            written = await self._client.patch(
                PODS,
                self._namespace,
                self._name,
                patch,
                content_type=STRATEGIC_MERGE_PATCH,
                subresource="status",
            )
        except (NotFoundError, ConflictError):
            self.gone = True  # the object is deleted, or its name belongs to another pod by now
        else:
            self._version = int(written["metadata"]["resourceVersion"])


def _ready(status: Json) -> str | None:
    return next((entry["status"] for entry in status.get("conditions") or () if entry["type"] == "Ready"), None)
