"""The annotation that asks for a reset of a hub's quorum. It is removed once the reset is on record."""

from __future__ import annotations

import logging

from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import HUBS
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.rounds.round import Round

_UNREPORTED_SECONDS = 0.5  # Until the round that looks whether the Hub's status has the reset.
log = logging.getLogger(__name__)


async def end_quorum_reset(round: Round, quorum: QuorumWatch | None) -> None:
    """Remove the annotation once the reset is on record."""
    hub = round.hub
    if quorum is None or not quorum.reset_done(hub):
        if hub.metadata.annotations.get(ANNOTATION_QUORUM_RESET):
            round.again_in(_UNREPORTED_SECONDS)
        return
    path = "/metadata/annotations/" + ANNOTATION_QUORUM_RESET.replace("/", "~1")
    order = hub.metadata.annotations[ANNOTATION_QUORUM_RESET]
    patch = [{"op": "test", "path": path, "value": order}, {"op": "remove", "path": path}]

    async def take_off() -> None:
        try:
            stored = await round.client.patch(HUBS, *hub.metadata.key, patch, content_type=JSON_PATCH)
        except (NotFoundError, ConflictError, InvalidError) as error:
            log.debug("quorum reset of hub %s: %s", hub.metadata.name, error.message)
            return
        round.store.put("hubs", stored)

    await round.steps.take("the order to reset the quorum can't be taken off", take_off)
