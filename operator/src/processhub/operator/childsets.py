"""ChildSets are not supported yet: each is told so, once a generation, rather than ignored in silence."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from processhub.api.meta import API_VERSION, GROUP, VERSION, Condition
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import Kind
from processhub.cluster.workqueue import WorkQueue
from processhub.operator.statuswriter import rfc3339

CHILD_SETS: Kind[dict[str, Any]] = Kind(GROUP, VERSION, "childsets", dict[str, Any])
MESSAGE = "ChildSet is not supported yet; create a Child for each id"
log = logging.getLogger(__name__)


class ChildSetAnswers:
    """Watches ChildSets and answers each new generation."""

    def __init__(self, client: Client, namespaces: tuple[str, ...]) -> None:
        self._client = client
        self._queue = WorkQueue(self._answer)
        self._informers = [
            Informer(client, CHILD_SETS, self._changed, namespace=namespace) for namespace in namespaces or (None,)
        ]

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for informer in self._informers:
                    group.create_task(informer.run())
        finally:
            await self._queue.close()

    def _changed(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None and not _answered(new):
            self._queue.add((new["metadata"]["namespace"], new["metadata"]["name"]))

    async def _answer(self, key: tuple[str, str]) -> None:
        item = next((found for informer in self._informers if (found := informer.items.get(key))), None)
        if item is None or _answered(item):
            return
        metadata, now = item["metadata"], rfc3339()
        conditions = [
            Condition(
                type=kind,
                status="False",
                reason=Reason.NOT_SUPPORTED_YET,
                message=MESSAGE,
                observed_generation=metadata["generation"],
                last_transition_time=now,
            )
            for kind in ("Accepted", "Ready")
        ]
        body = {
            "apiVersion": API_VERSION,
            "kind": "ChildSet",
            "metadata": {"name": key[1], "uid": metadata["uid"]},
            "status": {"conditions": conditions, "observedGeneration": metadata["generation"]},
        }
        try:
            await self._client.apply(CHILD_SETS, *key, body, subresource="status")
        except (NotFoundError, ConflictError) as error:
            log.debug("childset %s is gone: %s", key[1], error.message)


def _answered(item: dict[str, Any]) -> bool:
    return bool(item.get("status", {}).get("observedGeneration", 0) == item["metadata"]["generation"])
