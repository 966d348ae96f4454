"""Waiting for the registry: until children run, or until they are gone.

The slices say fastest what runs. Why something does not run may stand on the Child alone (refused, no room), so
Children are watched too, but only once the slices have been quiet: most waits end before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.meta import find_condition
from processhub.api.reasons import Reason, State
from processhub.client.errors import ChildError, ClientReason
from processhub.client.records import Node, Processes, Record
from processhub.client.session import Session
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILD_SETS, CHILDREN

_QUIET_SECONDS = 0.3
_QUIET_SECONDS_EACH = 0.0002  # more for many: reading them all costs the API server while it still starts them
_SETTLE_SECONDS = 1.0
_SETTLE_SECONDS_EACH = 0.005
_SETTLE_AT_MOST = 5  # times that, however much is said of others
_FINAL = {Reason.COMMAND_NOT_FOUND, Reason.IMPORT_ERROR, Reason.START_TIMEOUT, Reason.RESTARTS_EXCEEDED}


class Start:
    """Waits until each wanted child runs, or is known not to.

    ``wanted`` is uid by id; an empty uid accepts any incarnation. After ``until``, every id is in exactly one of
    ``running``, ``failed`` and ``pending``; ``hints`` holds what the operator last said of pending ones.
    """

    def __init__(self, session: Session, wanted: Mapping[str, str]) -> None:
        self._session = session
        self.pending = dict(wanted)
        self.running: dict[str, Processes] = {}
        self.failed: dict[str, ChildError] = {}
        self.hints: dict[str, ChildError] = {}
        self._moved = asyncio.Event()
        self._silent = set(wanted)  # ids that no Child object was seen for yet

    async def until(self, deadline: float | None) -> None:
        """Return when none is pending or the event loop's clock reaches ``deadline`` (seconds; None: never)."""
        unlisten = self._session.registry.listen(self._settle)
        following: asyncio.Task[None] | None = None
        try:
            self._settle(self.pending)
            while self.pending:
                self._moved.clear()
                patience = _QUIET_SECONDS + _QUIET_SECONDS_EACH * len(self.pending)
                quiet = asyncio.get_running_loop().time() + patience
                limit = deadline if following else min(quiet, deadline) if deadline is not None else quiet
                try:
                    async with asyncio.timeout_at(limit):
                        await self._moved.wait()
                except TimeoutError:
                    if deadline is not None and limit == deadline:
                        return
                    following = asyncio.create_task(self._follow_children())
        finally:
            unlisten()
            if following:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    def late(self) -> dict[str, ChildError]:
        """Reason Timeout for each that is pending, with what is known to hinder it."""
        return {
            child_id: ChildError(
                ClientReason.TIMEOUT,
                f"was not running within the timeout{f'; {hint}' if (hint := self.hints.get(child_id)) else ''}",
            )
            for child_id in self.pending
        }

    def _settle(self, changed: Iterable[str]) -> None:
        before = len(self.pending)
        for child_id in [child_id for child_id in changed if child_id in self.pending]:
            record = self._session.registry.records.get(child_id)
            uid = self.pending[child_id]
            if record is None or (uid and record.uid != uid):
                continue
            if record.running or _completed(record):
                self.running[child_id] = record.processes
                self._done(child_id)
            elif error := next(filter(None, map(_failure, record.nodes)), None):
                self.failed[child_id] = error
                self._done(child_id)
        if len(self.pending) < before:
            self._moved.set()

    def _done(self, child_id: str) -> None:
        del self.pending[child_id]
        self.hints.pop(child_id, None)

    async def _follow_children(self) -> None:
        informer = Informer(
            self._session.client,
            CHILDREN,
            self._child_changed,
            namespace=self._session.namespace,
            fields=f"spec.hub={self._session.name}",
        )
        sets = Informer(
            self._session.client,
            CHILD_SETS,
            self._set_changed,
            namespace=self._session.namespace,
            fields=f"spec.hub={self._session.name}",
        )
        running = [asyncio.create_task(each.run()) for each in (informer, sets)]
        try:
            await informer.synced.wait()
            await sets.synced.wait()
            self._missing()
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _child_changed(self, old: Child | None, new: Child | None) -> None:
        child = new or old
        if child is None or child.id not in self.pending:
            return
        child_id, uid = child.id, self.pending[child.id]
        if uid and uid != child.metadata.uid:
            return
        self._silent.discard(child_id)
        if new is None:
            self.failed[child_id] = ChildError(ClientReason.NOT_FOUND, "was deleted before it ran")
            self._done(child_id)
        elif error := _refusal(new):
            self.failed[child_id] = error
            self._done(child_id)
        elif hint := _hindrance(new):
            self.hints[child_id] = hint
        self._moved.set()

    def _set_changed(self, _: ChildSet | None, new: ChildSet | None) -> None:
        if new is None:
            return
        for child_id in [child_id for child_id, uid in self.pending.items() if not uid and new.has(child_id)]:
            self._silent.discard(child_id)
            accepted = find_condition(new.status.conditions, "Accepted")
            if accepted is not None and accepted.status == "False":
                self.failed[child_id] = ChildError(accepted.reason, f"childset/{new.metadata.name}: {accepted.message}")
                self._done(child_id)
            elif (ready := find_condition(new.status.conditions, "Ready")) is not None and ready.status != "True":
                self.hints[child_id] = ChildError(ready.reason, f"childset/{new.metadata.name}: {ready.message}")
        self._moved.set()

    def _missing(self) -> None:
        """Children that no object asks for will never run."""
        hub = self._session.hub
        static = {spec.id for spec in hub.spec.children} if hub else set()
        for child_id in self._silent & self.pending.keys():
            if child_id not in static and child_id not in self._session.registry.records:
                self.failed[child_id] = ChildError(
                    ClientReason.NOT_FOUND, f"no child {child_id!r} in hub {self._session.name}; start it first"
                )
                self._done(child_id)
        self._moved.set()


class Stop:
    """Waits until incarnations are gone from every slice: the record is cleared and the process has ended.

    ``wanted`` is uid by id; ``seen`` are the ids that the registry held when they were ordered to stop.
    """

    def __init__(self, session: Session, wanted: Mapping[str, str], seen: Iterable[str]) -> None:
        self._session = session
        self.pending = dict(wanted)
        self._unseen = set(wanted).difference(seen)
        self._later: asyncio.TimerHandle | None = None  # when the silence of those is believed
        self._latest = float("inf")  # till when words of others put that off
        self._done = asyncio.Event()

    async def until(self, deadline: float | None) -> None:
        """Return when none is pending or the event loop's clock reaches ``deadline`` (seconds; None: never)."""
        self._latest = asyncio.get_running_loop().time() + _SETTLE_AT_MOST * self._patience
        unlisten = self._session.registry.listen(self._heard)
        try:
            self._heard(tuple(self.pending))
            async with asyncio.timeout_at(deadline):
                await self._done.wait()
        except TimeoutError:
            return
        finally:
            unlisten()
            if self._later is not None:
                self._later.cancel()

    def _heard(self, changed: Iterable[str]) -> None:
        """One that was never on record may be in a plan that is being written right now.

        The silence is believed only when it has lasted longer than a round of the operator, which takes longer with
        many; whatever slices say meanwhile shows that it is at work. Reports count too: while a round is being planned
        they are all there is to hear. But a child in a crash loop reports for ever, so there is an end to it.
        """
        self._settle(changed)
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._unseen:
            loop = asyncio.get_running_loop()
            self._later = loop.call_at(min(loop.time() + self._patience, self._latest), self._believe)

    @property
    def _patience(self) -> float:
        return _SETTLE_SECONDS + _SETTLE_SECONDS_EACH * len(self._unseen)

    def _settle(self, changed: Iterable[str]) -> None:
        for child_id in [child_id for child_id in changed if child_id in self.pending]:
            if self._session.registry.holds(child_id, self.pending[child_id]):
                self._unseen.discard(child_id)
            elif child_id not in self._unseen:
                del self.pending[child_id]
        if not self.pending:
            self._done.set()

    def _believe(self) -> None:
        unseen, self._unseen = self._unseen, set()
        self._settle(unseen)


def _completed(record: Record) -> bool:
    return all(node.state == State.STOPPED and node.reason == Reason.COMPLETED for node in record.nodes)


def _failure(node: Node) -> ChildError | None:
    """Why this copy counts as failed to start.

    The agent starts a crashed child again at once and calls it Failed when that did not help either; some causes no
    restart will cure.
    """
    ended = node.state == State.FAILED or (node.state == State.STOPPED and node.reason != Reason.COMPLETED)
    if not ended and (node.state == State.RUNNING or node.reason not in _FINAL):
        return None
    said = node.message or (f"ended with {node.last_exit}" if node.last_exit else "see kubectl hub logs")
    return ChildError(node.reason or State.FAILED.value, f"on {node.name}: {said}")


def _refusal(child: Child) -> ChildError | None:
    accepted = find_condition(child.status.conditions, "Accepted")
    if accepted is not None and accepted.status == "False":
        return ChildError(accepted.reason, accepted.message)
    ready = find_condition(child.status.conditions, "Ready")
    if ready is not None and ready.status == "False" and ready.reason in _FINAL:
        return ChildError(ready.reason, ready.message)
    return None


def _hindrance(child: Child) -> ChildError | None:
    for kind in ("Placed", "Ready"):
        condition = find_condition(child.status.conditions, kind)
        if condition is not None and condition.status != "True":
            return ChildError(condition.reason, condition.message)
    return None
