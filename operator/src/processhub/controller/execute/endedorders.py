"""Orders that have no effect any more, and are removed from their annotations.

An edit of the spec ends moves by nodes and cancelled hooks: it can be undone without the order coming back. An order to
stop a child on demand ends with that run, and one to reset the quorum with its report.
"""

from __future__ import annotations

import logging
from functools import partial

import msgspec

from processhub.api.grouporders import GroupOrderError, format_orders, parse_stop_orders
from processhub.api.hub import Hub
from processhub.api.movednodes import problem_of
from processhub.api.naming import ANNOTATION_HOOKS, ANNOTATION_NODES, ANNOTATION_QUORUM_RESET, ANNOTATION_STOP
from processhub.api.reasons import EventReason
from processhub.api.registeredhooks import RegisteredHooksError, format_registered_hooks, parse_registered_hooks
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.controller.execute.annotations import Ordered, write_annotations
from processhub.controller.observe.ondemand import is_run_of_order
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.rounds.round import Round

_UNREPORTED_SECONDS = 0.5  # Until the round that looks whether the Hub's status has a reset of the quorum.
log = logging.getLogger(__name__)


async def remove_ended_moves(round: Round) -> None:
    """Remove the annotations of moves that are not in effect any more. Each is a step of its own."""
    children = round.state.children
    for name in sorted(children.ended_moves):
        child = children[name].child
        what = f"annotation {ANNOTATION_NODES} of child/{name}, which its spec.nodes has ended, can't be removed"
        done = await round.steps.take(what, partial(_replace, round, child, ANNOTATION_NODES), about=child)
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
        await round.steps.take(what, partial(_replace, round, hub, ANNOTATION_HOOKS, text))


async def remove_ended_stops(round: Round) -> None:
    """Remove the orders to stop children on demand whose run has no entry and no report any more.

    An order for a child that is declared is removed too: its object is deleted instead.
    """
    hub = round.store.hubs.get(round.hub.metadata.key)
    if hub is None or ANNOTATION_STOP not in hub.metadata.annotations:
        return
    what = f"what was carried out can't be removed from annotation {ANNOTATION_STOP}"
    try:
        orders = parse_stop_orders(hub.metadata.annotations[ANNOTATION_STOP])
    except GroupOrderError as error:
        if await round.steps.take(what, partial(_replace, round, hub, ANNOTATION_STOP)):
            round.events.about_hub(hub, EventReason.REJECTED, f"{ANNOTATION_STOP} is not read: {error}", warning=True)
        return
    slices, uncertain = round.state.slices, round.state.slices.uncertain()
    reported = {
        (child_id, known.reports[child_id].epoch)
        for known in slices.values()
        for child_id in known.reports.keys() & orders.keys()
        if known.reports[child_id].uid == hub.metadata.uid
    }
    left = {
        child_id: epoch
        for child_id, epoch in orders.items()
        if child_id in uncertain
        or (child_id, epoch) in reported
        or is_run_of_order(hub, child_id, epoch, slices.values())
    }
    if left != orders:
        text = format_orders(left)
        await round.steps.take(what, partial(_replace, round, hub, ANNOTATION_STOP, text))


async def end_quorum_reset(round: Round, quorum: QuorumWatch | None) -> None:
    """Remove the order to reset the hub's quorum once the reset is in the Hub's status."""
    if not round.hub.metadata.annotations.get(ANNOTATION_QUORUM_RESET):
        return
    if quorum is not None and quorum.reset_done(round.hub):
        what = "the order to reset the quorum can't be taken off"
        await round.steps.take(what, partial(_replace, round, round.hub, ANNOTATION_QUORUM_RESET))
    else:
        round.again_in(_UNREPORTED_SECONDS)


async def _replace(round: Round, item: Ordered, annotation: str, text: str | None = None) -> None:
    """Write the annotation, or remove it, if it is still as it was read."""
    try:
        await write_annotations(round, item, annotation, {annotation: text})
    except (NotFoundError, ConflictError, InvalidError) as error:
        log.info("%s of %s %s was changed meanwhile: %s", annotation, item.kind, item.metadata.name, error.message)
