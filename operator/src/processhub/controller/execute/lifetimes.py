"""Lifetimes: Children are deleted ttlSeconds after their first start, or when their member reports them idle.

Children on demand have no objects. They end in observe/ondemand.py.
"""

from __future__ import annotations

import asyncio
import logging

from processhub.api.child import Child
from processhub.api.reasons import Reason
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.cluster.timestamps import unix_time, utc_now
from processhub.controller.concurrency import gather_all
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.observe.observation import Observation
from processhub.controller.report.child import MemberCopy, copies_by_id, first_started
from processhub.controller.report.memory import ReportMemory
from processhub.controller.rounds.round import Round
from processhub.controller.store.children import KnownChild

_AT_ONCE = 16
_AGAIN_SECONDS = 5.0  # Until a deletion is sent again that the watch has not shown.
_CHANGED_SECONDS = 0.5  # Until a Child that has changed since it was read is looked at again.
log = logging.getLogger(__name__)


class Lifetimes:
    """The check of one hub's lifetimes in one round. It asks for a round when the next lifetime ends."""

    def __init__(self, round: Round, memory: ExecuteMemory, reported: ReportMemory) -> None:
        self._round, self._memory, self._reported = round, memory, reported
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def delete_expired(self, observation: Observation) -> None:
        """Delete the Children whose lifetime is over. A deletion that fails is retried later."""
        state, now = self._round.state, self._round.now()
        due: list[tuple[Child, str]] = []
        ids = {state.children[name].child.id for name in state.children.expiring}
        copies = copies_by_id(ids, observation.members) if ids else {}
        for name in state.children.expiring:
            known = state.children[name]
            child = known.child
            chosen = observation.chosen.get(child.id)
            if chosen is None or chosen.child.metadata.uid != child.metadata.uid or child.metadata.deletion_timestamp:
                continue
            if why := self._over(known, copies.get(child.id, [])):
                due.append((child, why))
        deleted_at = self._memory.deleted_at
        for uid in [uid for uid, at in deleted_at.items() if now - at > _AGAIN_SECONDS]:
            del deleted_at[uid]
        for child, _ in due:
            if (at := deleted_at.get(child.metadata.uid)) is not None:
                self._round.again_in(at + _AGAIN_SECONDS - now)
        await gather_all(*(self._delete(child, why, now) for child, why in due if child.metadata.uid not in deleted_at))

    def _over(self, known: KnownChild, copies: list[MemberCopy]) -> str:
        """Why the Child is to be deleted, or ""."""
        ttl = known.spec.ttl_seconds
        since = unix_time(first_started(known.child, copies, self._reported)) if ttl is not None else None
        if ttl is not None and since is not None:
            left = since + ttl - utc_now().timestamp()
            if left <= 0:
                return f"its ttlSeconds ({ttl}) are over"
            self._round.again_in(left)
        if known.spec.idle_seconds and any(_idle(copy, known.child.metadata.uid) for copy in copies):
            return f"it was idle for {known.spec.idle_seconds} s (idleSeconds)"
        return ""

    async def _delete(self, child: Child, why: str, now: float) -> None:
        what = f"child/{child.metadata.name} can't be deleted though {why}"
        await self._round.steps.take(what, lambda: self._order_deletion(child, why, now), about=child)

    async def _order_deletion(self, child: Child, why: str, now: float) -> None:
        metadata = child.metadata
        async with self._limit:
            try:
                await self._round.client.delete(
                    CHILDREN, *metadata.key, uid=metadata.uid, resource_version=metadata.resource_version
                )
            except NotFoundError:
                log.debug("child %s is gone already", metadata.name)
            except ConflictError:
                self._round.again_in(_CHANGED_SECONDS)  # its lifetime may have been extended
                return
        self._memory.deleted_at[metadata.uid] = now
        log.info("deleted: %s", why, extra={"hub": child.spec.hub, "child": child.id})


def _idle(copy: MemberCopy, uid: str) -> bool:
    """Whether the member reports the incarnation on record as idle. It takes no requests any more."""
    entry, report = copy.entry, copy.report
    if entry is None or report is None or entry.uid != uid:
        return False
    return copy.current and report.reason == Reason.IDLE
