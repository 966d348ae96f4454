"""Children whose time is up: ttlSeconds after their first start, or reported idle by their member. They are deleted."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from processhub.api.child import Child
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.cluster.timestamps import utc_now
from processhub.controller.concurrency import gather_all
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.execute.steps import Steps
from processhub.controller.observe.observation import Observation
from processhub.controller.report.child import MemberCopy, copies_by_id
from processhub.controller.report.firststart import first_started
from processhub.controller.report.memory import ReportMemory
from processhub.controller.store.hubstate import HubState, KnownChild

_AT_ONCE = 16
_AGAIN_SECONDS = 5.0  # after which a deletion that the watch has not shown is sent again
log = logging.getLogger(__name__)


class Lifetimes:
    """The check of one hub in one round. ``next_in``: seconds until the next child's time is up."""

    def __init__(
        self, client: Client, state: HubState, memory: ExecuteMemory, reported: ReportMemory, steps: Steps
    ) -> None:
        self._client, self._state, self._memory, self._steps = client, state, memory, steps
        self._reported = reported
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.next_in: float | None = None

    async def delete_expired(self, observation: Observation, now: float) -> None:
        """Delete those whose time is up; one that can't be deleted now is tried again later."""
        due: list[tuple[Child, str]] = []
        ids = {self._state.children[name].child.id for name in self._state.expiring}
        copies = copies_by_id(ids, observation.members) if ids else {}
        for name in self._state.expiring:
            known = self._state.children[name]
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
                self._again_in(at + _AGAIN_SECONDS - now)
        await gather_all(*(self._delete(child, why, now) for child, why in due if child.metadata.uid not in deleted_at))

    def _over(self, known: KnownChild, copies: list[MemberCopy]) -> str:
        """Why it is to be deleted, "" where it is not (yet)."""
        if known.spec.ttl_seconds is not None and (since := first_started(known.child, copies, self._reported)):
            left = datetime.fromisoformat(since).timestamp() + known.spec.ttl_seconds - utc_now().timestamp()
            if left <= 0:
                return f"its ttlSeconds ({known.spec.ttl_seconds}) are over"
            self._again_in(left)
        if known.spec.idle_seconds and any(_idle(copy, known.child.metadata.uid) for copy in copies):
            return f"it was idle for {known.spec.idle_seconds} s (idleSeconds)"
        return ""

    def _again_in(self, seconds: float) -> None:
        self.next_in = seconds if self.next_in is None else min(self.next_in, seconds)

    async def _delete(self, child: Child, why: str, now: float) -> None:
        what = f"child/{child.metadata.name} can't be deleted though {why}"
        await self._steps.take(what, lambda: self._order_deletion(child, why, now), about=child)

    async def _order_deletion(self, child: Child, why: str, now: float) -> None:
        metadata = child.metadata
        async with self._limit:
            try:
                await self._client.delete(CHILDREN, metadata.namespace, metadata.name, uid=metadata.uid)
            except (NotFoundError, ConflictError) as error:
                log.debug("child %s is gone already: %s", metadata.name, error.message)
        self._memory.deleted_at[metadata.uid] = now
        log.info("deleted: %s", why, extra={"hub": child.spec.hub, "child": child.id})


def _idle(copy: MemberCopy, uid: str) -> bool:
    """Whether the member says so of the very incarnation that is on record; it takes no requests any more."""
    entry, report = copy.entry, copy.report
    if entry is None or report is None or entry.uid != uid:
        return False
    return copy.current and report.reason == Reason.IDLE
