"""Events on pods, for ``kubectl describe`` and ``kubectl events``: they explain a start that fails."""

from __future__ import annotations

import asyncio
import datetime
import logging
import secrets

from localcluster.kubelet.environment import Json
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import untyped

log = logging.getLogger(__name__)
EVENTS = untyped("v1", "events")


class Recorder:
    """Posts events of one node on one pod; the same reason and message in a row is posted once."""

    def __init__(self, client: Client, pod: Json, node: str) -> None:
        self._client, self._node = client, node
        metadata = pod["metadata"]
        self._namespace: str = metadata["namespace"]
        self._about = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        }
        self._last = ("", "")
        self._posting: set[asyncio.Task[None]] = set()

    def warn(self, reason: str, message: str) -> None:
        """Post a Warning in the background; one that can't be posted is only logged."""
        if self._last == (reason, message):
            return
        self._last = (reason, message)
        task = asyncio.create_task(self._post(reason, message))
        self._posting.add(task)  # otherwise it might be collected while it runs
        task.add_done_callback(self._posting.discard)

    async def _post(self, reason: str, message: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "metadata": {"name": f"{self._about['name']}.{secrets.token_hex(8)}", "namespace": self._namespace},
            "involvedObject": self._about,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._client.create(EVENTS, self._namespace, body)
        except ApiError as error:
            log.info("event %s of pod %s/%s: %s", reason, self._namespace, self._about["name"], error.message)
