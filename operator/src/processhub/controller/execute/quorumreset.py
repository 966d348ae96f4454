"""The annotation by which somebody asks to reset a hub's quorum, removed once the reset is on record."""

from __future__ import annotations

import logging

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.cluster.client import JSON_PATCH, Client
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import HUBS
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.rounds.steps import Steps
from processhub.controller.store.informers import Store

log = logging.getLogger(__name__)


async def end_quorum_reset(client: Client, store: Store, hub: Hub, quorum: QuorumWatch | None, steps: Steps) -> None:
    """Remove the annotation that asks for a quorum reset once the outcome is on record."""
    if quorum is None or not quorum.reset_done(hub):
        return
    path = "/metadata/annotations/" + ANNOTATION_QUORUM_RESET.replace("/", "~1")
    order = hub.metadata.annotations[ANNOTATION_QUORUM_RESET]
    patch = [{"op": "test", "path": path, "value": order}, {"op": "remove", "path": path}]

    async def take_off() -> None:
        try:
            stored = await client.patch(HUBS, *hub.metadata.key, patch, content_type=JSON_PATCH)
        except (NotFoundError, ConflictError, InvalidError) as error:
            log.debug("quorum reset of hub %s: %s", hub.metadata.name, error.message)
            return
        store.put("hubs", stored)

    await steps.take("the order to reset the quorum can't be taken off", take_off)
