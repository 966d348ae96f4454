"""Moves of guided children that an edit of spec.nodes ended: their annotation is removed.

The annotation has no effect any more. It is removed so that spec.nodes can be edited back without the move coming back.
"""

from __future__ import annotations

import logging
from functools import partial

from processhub.api.child import Child
from processhub.api.naming import ANNOTATION_NODES
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.controller.rounds.round import Round

_PATH = "/metadata/annotations/" + ANNOTATION_NODES.replace("/", "~1")
log = logging.getLogger(__name__)


async def remove_ended_moves(round: Round) -> None:
    """Remove the annotations of moves that are not in effect any more. Each is a step of its own."""
    children = round.state.children
    for name in sorted(children.ended_moves):
        child = children[name].child
        what = f"annotation {ANNOTATION_NODES} of child/{name}, which its spec.nodes has ended, can't be removed"
        await round.steps.take(what, partial(_remove, round, child), about=child)


async def _remove(round: Round, child: Child) -> None:
    metadata = child.metadata
    patch = [
        {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
        {"op": "test", "path": _PATH, "value": metadata.annotations[ANNOTATION_NODES]},
        {"op": "remove", "path": _PATH},
    ]
    try:
        stored = await round.client.patch(CHILDREN, *metadata.key, patch, content_type=JSON_PATCH)
    except (NotFoundError, ConflictError, InvalidError) as error:
        log.info("the move of child %s was changed meanwhile: %s", metadata.name, error.message)
        return
    round.store.put("children", stored)
