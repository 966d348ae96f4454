"""Orders that an edit of the spec ended: moves by nodes, and cancelled hooks. They are removed from their annotations.

They have no effect any more. They are removed so that the edit can be undone without the order coming back.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TypeVar

import msgspec

from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.movednodes import problem_of
from processhub.api.naming import ANNOTATION_HOOKS, ANNOTATION_NODES
from processhub.api.reasons import EventReason
from processhub.api.registeredhooks import RegisteredHooksError, format_registered_hooks, parse_registered_hooks
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.cluster.kinds import CHILDREN, HUBS, Kind
from processhub.controller.rounds.round import Round

Ordered = TypeVar("Ordered", Child, Hub)
log = logging.getLogger(__name__)


async def remove_ended_moves(round: Round) -> None:
    """Remove the annotations of moves that are not in effect any more. Each is a step of its own."""
    children = round.state.children
    for name in sorted(children.ended_moves):
        child = children[name].child
        what = f"annotation {ANNOTATION_NODES} of child/{name}, which its spec.nodes has ended, can't be removed"
        done = await round.steps.take(what, partial(_replace, round, CHILDREN, child, ANNOTATION_NODES), about=child)
        if done and (problem := problem_of(child)):
            round.events.about_child(round.hub, child, EventReason.MOVE_REFUSED, problem, warning=True)


async def remove_ended_cancellations(round: Round, accepted: Hub | None) -> None:
    """Remove the cancelled hooks that spec.hooks does not have like that any more. ``accepted``: the last such Hub."""
    hub = round.store.hubs.get(round.hub.metadata.key)
    if hub is None or ANNOTATION_HOOKS not in hub.metadata.annotations:
        return
    try:
        hooks = parse_registered_hooks(hub.metadata)
    except RegisteredHooksError:
        return  # status.hooks says so
    declared = (*hub.spec.hooks, *(accepted.spec.hooks if accepted is not None else ()))
    left = msgspec.structs.replace(hooks, cancelled=tuple(hook for hook in hooks.cancelled if hook in declared))
    if left != hooks:
        what = f"the cancelled hooks that spec.hooks has ended can't be removed from annotation {ANNOTATION_HOOKS}"
        text = format_registered_hooks(left)
        await round.steps.take(what, partial(_replace, round, HUBS, hub, ANNOTATION_HOOKS, text))


async def _replace(round: Round, kind: Kind[Ordered], item: Ordered, annotation: str, text: str | None = None) -> None:
    """Write the annotation, or remove it, if it is still as it was read."""
    metadata, path = item.metadata, "/metadata/annotations/" + annotation.replace("/", "~1")
    patch = [
        {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
        {"op": "test", "path": path, "value": metadata.annotations[annotation]},
        {"op": "remove", "path": path} if text is None else {"op": "replace", "path": path, "value": text},
    ]
    try:
        stored = await round.client.patch(kind, *metadata.key, patch, content_type=JSON_PATCH)
    except (NotFoundError, ConflictError, InvalidError) as error:
        log.info("%s of %s %s was changed meanwhile: %s", annotation, item.kind, metadata.name, error.message)
        return
    round.store.put(kind.plural, stored)
