"""Move requests: annotations on Children, which are removed when the request is applied or refused.

A crash in between does no harm, as a child that is on record at the requested member is not moved again. The children
of a ChildSet have no object of their own. Their requests are on the ChildSet, and are removed one by one. Those of
children on demand are on the Hub in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.grouporders import REFUSAL_LENGTH, GroupOrderError, format_orders, latest, parse_move_orders
from processhub.api.hub import Hub
from processhub.api.meta import shortened
from processhub.api.naming import ANNOTATION_MOVE_REFUSED, ANNOTATION_MOVE_TO
from processhub.api.reasons import EventReason
from processhub.cluster.errors import ConflictError, InvalidError, NotFoundError
from processhub.controller.execute.annotations import Ordered, write_annotations
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.setmoverequests import AppliedMoves, refusal_of_id
from processhub.controller.rounds.round import Round

_SET_SECONDS = 1.0  # Between writes that remove some of a ChildSet's requests.
log = logging.getLogger(__name__)


class MoveRequests:
    """Records the results of one hub's move requests in one round: removes the annotations, posts refusals."""

    def __init__(self, round: Round, applied_moves: dict[str, AppliedMoves]) -> None:
        """``applied_moves``, by the uid of the ChildSet or the Hub, is kept between rounds."""
        self._round, self._applied_moves = round, applied_moves

    async def record_results(self, observation: Observation, results: Mapping[str, str]) -> None:
        """Record ``results``: id → why the request is refused, or "" if it was applied.

        If a write has to wait, another round is asked for.
        """
        now = self._round.now()
        for child_id, refusal in results.items():
            known = observation.chosen.get(child_id)
            # The request may be that of a ChildSet or the Hub, whose id a Child has been declared for since.
            if known is not None and ANNOTATION_MOVE_TO in known.metadata.annotations:
                await self._record_child(known.child, observation.snapshot.move_requests[child_id], refusal)
        for uid in self._applied_moves.keys() - observation.sets.keys():
            del self._applied_moves[uid]
        for seen in observation.sets.values():
            await self._record_set(seen.known.object, partial(refusal_of_id, seen), results, now)
        hub = self._round.hub
        if hub.metadata.uid not in observation.sets:
            none = f"hub/{hub.metadata.name} has no spec.onDemand"
            await self._record_set(hub, lambda _: none, results, now)

    async def _record_child(self, child: Child, member: str, refusal: str) -> None:
        answer = {ANNOTATION_MOVE_REFUSED: shortened(f"{member}: {refusal}", REFUSAL_LENGTH)} if refusal else {}
        if await self._change(child, {ANNOTATION_MOVE_TO: None, **answer}) and refusal:
            self._emit(child, f"not moved to {member}: {refusal}")

    async def _record_set(
        self, item: ChildSet | Hub, refusal_of: Callable[[str], str], results: Mapping[str, str], now: float
    ) -> None:
        """Record the results of the requests on a ChildSet or the Hub. ``refusal_of(id)``: why it has no such child."""
        annotations = item.metadata.annotations
        if (text := annotations.get(ANNOTATION_MOVE_TO)) is None:
            return
        try:
            orders = parse_move_orders(text)
        except GroupOrderError as error:
            if await self._change(item, {ANNOTATION_MOVE_TO: None}):
                self._emit(item, f"{ANNOTATION_MOVE_TO} is not read: {error}")
            return
        uid = item.metadata.uid
        held = self._applied_moves.get(uid) or AppliedMoves(float("-inf"))
        answers = {child_id: refusal_of(child_id) or results.get(child_id) for child_id in orders}
        answers.update({child_id: "" for child_id, member in orders.items() if held.applied.get(child_id) == member})
        left = {child_id: member for child_id, member in orders.items() if answers[child_id] is None}
        if left == orders:
            return
        refused = {child_id: f"{orders[child_id]}: {why}" for child_id, why in answers.items() if why}
        due = held.since + _SET_SECONDS
        if left and not refused and now < due:
            # Each write carries all requests that are left: of thousands that are applied by and by it would be
            # megabytes a second. One that was applied may stand on: it is not planned again, and a new leader, which
            # does not know of it, finds its child on record where it was to go. A refusal is seen by its write only.
            held.applied = {child_id: member for child_id, member in orders.items() if child_id not in left}
            self._round.again_in(due - now)
            return
        try:
            before = parse_move_orders(annotations.get(ANNOTATION_MOVE_REFUSED, ""))
        except GroupOrderError:
            before = {}  # No reader could have parsed it.
        others = {child_id: why for child_id, why in before.items() if child_id not in orders}
        changed = {ANNOTATION_MOVE_TO: format_orders(left)}
        if others != before or refused:
            changed[ANNOTATION_MOVE_REFUSED] = format_orders(latest(others, refused))
        if await self._change(item, changed):
            for child_id, why in refused.items():
                self._emit(item, f"child {child_id!r} is not moved to {why}")
            self._applied_moves[uid] = AppliedMoves(now)

    def _emit(self, item: Ordered, message: str) -> None:
        self._round.events.about_child(self._round.hub, item, EventReason.MOVE_REFUSED, message, warning=True)

    async def _change(self, item: Ordered, annotations: Mapping[str, str | None]) -> bool:
        """Write these annotations (None removes one) if the request is still there; returns whether it is done."""
        what = f"the order on {item.kind.lower()}/{item.metadata.name} can't be answered"
        return await self._round.steps.take(what, lambda: self._write(item, annotations), about=item)

    async def _write(self, item: Ordered, annotations: Mapping[str, str | None]) -> None:
        metadata = item.metadata
        try:
            try:
                await write_annotations(self._round, item, ANNOTATION_MOVE_TO, annotations)
            except InvalidError as error:
                if annotations.get(ANNOTATION_MOVE_REFUSED) is None:
                    raise
                # A failed test gets a 422 like an invalid object does, but it fails again.
                bare = {ANNOTATION_MOVE_TO: annotations[ANNOTATION_MOVE_TO], ANNOTATION_MOVE_REFUSED: None}
                await write_annotations(self._round, item, ANNOTATION_MOVE_TO, bare)
                log.warning("the order on %s %s is off without an answer: %s", item.kind, metadata.name, error.message)
        except (NotFoundError, ConflictError, InvalidError) as error:
            log.info("the order on %s %s was changed meanwhile: %s", item.kind, metadata.name, error.message)
