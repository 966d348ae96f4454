"""Waits until children run, or until they have ended.

The slices are the first to show that a child runs. The reason why a child does not run may be in its Child object alone
(not accepted, no room). So Child objects are watched too, but only once the slices have been quiet for a while: most
waits end before that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.meta import find_condition
from processhub.api.reasons import Reason, State
from processhub.client.demand import outlook
from processhub.client.errors import ChildError, ClientReason
from processhub.client.records import Node, Processes, Record
from processhub.client.resolve import find_children, find_owner, named_like
from processhub.client.session import Session
from processhub.client.writes import each
from processhub.cluster.errors import ApiError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILD_SETS, CHILDREN
from processhub.cluster.tasks import cancel_all

_QUIET_SECONDS = 0.3
_QUIET_SECONDS_EACH = 0.0002  # for each child: listing many of them loads the API server while they start
_SETTLE_SECONDS = 1.0
_SETTLE_SECONDS_EACH = 0.005
_SETTLE_AT_MOST = 5  # the wait is at most so many times longer, however often slices change
_FINAL = {
    Reason.COMMAND_NOT_FOUND,
    Reason.WORKING_DIR_NOT_FOUND,
    Reason.IMPORT_ERROR,
    Reason.START_TIMEOUT,
    Reason.RESTARTS_EXCEEDED,
    Reason.INVALID,  # the API server refuses the Pod of a pod child
}


async def why_not_running(session: Session, child_id: str) -> str:
    """Why the child does not run, by its object, its ChildSet or its hub; "" if nothing is known. Raises ApiError.

    The registry is asked first, because the status of an object follows it.
    """
    record = session.registry.records.get(child_id)
    if record is not None and record.alive:
        return ""
    if record is not None and session.on_demand(child_id):
        error = _suspended(session, record) or _failure(record.nodes[0])
        return str(error) if error is not None else ""
    child = (await find_children(session, (child_id,))).get(child_id)
    if child is not None:
        found = _refusal(child) or _hint_of(child)
        return str(found) if found else ""
    owner = await find_owner(session, child_id)
    if owner is None and record is None:
        would = outlook(session, child_id)
        return would.says if would is not None and not would.member else ""
    conditions = owner.status.conditions if owner is not None else ()
    refused = find_condition(conditions, "Accepted")
    return f"{refused.reason}: {refused.message}" if refused is not None and refused.status == "False" else ""


class Start:
    """Waits until each wanted child runs, or is known not to.

    ``wanted`` is uid by id; an empty uid accepts any incarnation. After ``until``, every id is in exactly one of
    ``running``, ``failed`` and ``pending``. ``hints`` has the reason that the operator last reported for pending ones.
    """

    def __init__(self, session: Session, wanted: Mapping[str, str]) -> None:
        self._session = session
        self.pending = dict(wanted)
        self.running: dict[str, Processes] = {}
        self.failed: dict[str, ChildError] = {}
        self.hints: dict[str, ChildError] = {}
        self._progress = asyncio.Event()
        self._unclaimed = set(wanted)  # ids for which no object has been seen yet

    async def until(self, deadline: float | None) -> None:
        """Return when none is pending, or at ``deadline`` on the event loop's clock (seconds; None: never)."""
        unlisten = self._session.registry.listen(self._settle)
        following: asyncio.Task[None] | None = None
        try:
            self._settle(self.pending)
            while self.pending:
                self._progress.clear()
                quiet_seconds = _QUIET_SECONDS + _QUIET_SECONDS_EACH * len(self.pending)
                quiet = asyncio.get_running_loop().time() + quiet_seconds
                limit = deadline if following else min(quiet, deadline) if deadline is not None else quiet
                try:
                    async with asyncio.timeout_at(limit):
                        await self._progress.wait()
                except TimeoutError:
                    if deadline is not None and limit == deadline:
                        return
                    following = asyncio.create_task(self._follow_children())
        finally:
            unlisten()
            if following:
                await cancel_all([following])

    def late(self) -> dict[str, ChildError]:
        """An error with reason Timeout for each pending id, with its hint if there is one."""
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
            elif error := _suspended(self._session, record) or next(filter(None, map(_failure, record.nodes)), None):
                self.failed[child_id] = error
                self._done(child_id)
        if len(self.pending) < before:
            self._progress.set()

    def _done(self, child_id: str) -> None:
        del self.pending[child_id]
        self.hints.pop(child_id, None)

    async def _follow_children(self) -> None:
        client, namespace, fields = self._session.client, self._session.namespace, f"spec.hub={self._session.name}"
        informer = Informer(client, CHILDREN, self._child_changed, namespace=namespace, fields=fields)
        sets = Informer(client, CHILD_SETS, self._set_changed, namespace=namespace, fields=fields)
        running = [asyncio.create_task(each.run()) for each in (informer, sets)]
        try:
            await informer.synced.wait()
            await sets.synced.wait()
            await self._fail_unclaimed()
            await asyncio.gather(*running)
        finally:
            await cancel_all(running)

    def _child_changed(self, old: Child | None, new: Child | None) -> None:
        child = new or old
        if child is None or child.id not in self.pending:
            return
        child_id, uid = child.id, self.pending[child.id]
        if uid and uid != child.metadata.uid:
            return
        self._unclaimed.discard(child_id)
        if new is None:
            self.failed[child_id] = ChildError(ClientReason.NOT_FOUND, "was deleted before it ran")
            self._done(child_id)
        elif error := _refusal(new):
            self.failed[child_id] = error
            self._done(child_id)
        elif hint := _hint_of(new):
            self.hints[child_id] = hint
        self._progress.set()

    def _set_changed(self, _: ChildSet | None, new: ChildSet | None) -> None:
        if new is None:
            return
        for child_id in [child_id for child_id, uid in self.pending.items() if not uid and new.has(child_id)]:
            self._unclaimed.discard(child_id)
            accepted = find_condition(new.status.conditions, "Accepted")
            if accepted is not None and accepted.status == "False":
                self.failed[child_id] = ChildError(accepted.reason, f"childset/{new.metadata.name}: {accepted.message}")
                self._done(child_id)
            elif (ready := find_condition(new.status.conditions, "Ready")) is not None and ready.status != "True":
                self.hints[child_id] = ChildError(ready.reason, f"childset/{new.metadata.name}: {ready.message}")
        self._progress.set()

    async def _fail_unclaimed(self) -> None:
        """Fail the ids for which there is no object, because they will never run."""
        named: dict[str, str] = {}

        async def look(child_id: str) -> None:
            with contextlib.suppress(ApiError):
                named[child_id] = await named_like(self._session, child_id)

        await each(tuple(self._unclaimed & self.pending.keys()), look)
        hub = self._session.hub
        static = {spec.id for spec in hub.spec.children} if hub else set()
        for child_id in self._unclaimed & self.pending.keys():
            if child_id in static or child_id in self._session.registry.records:
                continue
            found = outlook(self._session, child_id) if hub is not None else None
            if found is not None and found.asked:
                self.hints[child_id] = ChildError(Reason.WAITING, found.says)
                continue
            known = (named.get(child_id, ""), found.says if found is not None else "")
            what = "; ".join(filter(None, known)) or "start it first"
            text = f"no child {child_id!r} in hub {self._session.name}; {what}"
            self.failed[child_id] = ChildError(ClientReason.NOT_FOUND, text)
            self._done(child_id)
        self._progress.set()


class Stop:
    """Waits until children are gone from every slice: their entries are removed and their processes have ended.

    ``wanted`` is uid by id. ``seen`` are the ids that the registry contained when they were ordered to stop.
    """

    def __init__(self, session: Session, wanted: Mapping[str, str], seen: Iterable[str]) -> None:
        self._session = session
        self.pending = dict(wanted)
        self._unseen = set(wanted).difference(seen)
        self._timer: asyncio.TimerHandle | None = None  # fires when the unseen ids count as gone
        self._latest_settle = float("inf")  # changes of slices can delay that until this time
        self._done = asyncio.Event()

    async def until(self, deadline: float | None) -> None:
        """Return when none is pending, or at ``deadline`` on the event loop's clock (seconds; None: never)."""
        self._latest_settle = asyncio.get_running_loop().time() + _SETTLE_AT_MOST * self._settle_seconds
        unlisten = self._session.registry.listen(self._registry_changed)
        try:
            self._registry_changed(tuple(self.pending))
            async with asyncio.timeout_at(deadline):
                await self._done.wait()
        except TimeoutError:
            return
        finally:
            unlisten()
            if self._timer is not None:
                self._timer.cancel()

    def _registry_changed(self, changed: Iterable[str]) -> None:
        """Settle the changed ids, and restart the wait for the unseen ones.

        An id that was never on record may be in a plan that is being written right now. It counts as gone when no slice
        has changed for longer than a round of the operator, which takes longer with many children. A report is a change
        too: while a round is being planned, there is no other. But a child in a crash loop reports forever, so the wait
        has a deadline.
        """
        self._settle(changed)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unseen:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(
                min(loop.time() + self._settle_seconds, self._latest_settle), self._settle_unseen
            )

    @property
    def _settle_seconds(self) -> float:
        return _SETTLE_SECONDS + _SETTLE_SECONDS_EACH * len(self._unseen)

    def _settle(self, changed: Iterable[str]) -> None:
        for child_id in [child_id for child_id in changed if child_id in self.pending]:
            if self._session.registry.holds(child_id, self.pending[child_id]):
                self._unseen.discard(child_id)
            elif child_id not in self._unseen:
                del self.pending[child_id]
        if not self.pending:
            self._done.set()

    def _settle_unseen(self) -> None:
        unseen, self._unseen = self._unseen, set()
        self._settle(unseen)


def _completed(record: Record) -> bool:
    return all(node.state == State.STOPPED and node.reason == Reason.COMPLETED for node in record.nodes)


def _suspended(session: Session, record: Record) -> ChildError | None:
    """The reason of a child that its hub keeps suspended. The record does not say what does."""
    if session.hub is None or not session.hub.spec.suspend or not any(node.asleep for node in record.nodes):
        return None
    return ChildError(Reason.SUSPENDED, f"spec.suspend of hub {session.name} is true")


def _failure(node: Node) -> ChildError | None:
    """Why this copy counts as failed to start, or None if it does not.

    The agent restarts a crashed child at once, and reports Failed when it crashes again. Some reasons count at once,
    because no restart can cure them.
    """
    if node.asleep:
        return None  # It is suspended, or about to be resumed: what suspends it is asked.
    ended = node.state == State.FAILED or (node.state == State.STOPPED and node.reason != Reason.COMPLETED)
    if not ended and (node.state == State.RUNNING or node.reason not in _FINAL):
        return None
    said = node.message or (f"ended with {node.last_exit}" if node.last_exit else "see kubectl hub logs")
    return ChildError(node.reason or State.FAILED.value, f"on {node.name}: {said}")


def _refusal(child: Child) -> ChildError | None:
    accepted = find_condition(child.status.conditions, "Accepted")
    if accepted is not None and accepted.status == "False" and accepted.reason != Reason.WAITING:
        return ChildError(accepted.reason, accepted.message)
    if child.spec.suspend:
        return ChildError(Reason.SUSPENDED, "spec.suspend is true")
    ready = find_condition(child.status.conditions, "Ready")
    if ready is not None and ready.status == "False" and ready.reason in _FINAL:
        return ChildError(ready.reason, ready.message)
    return None


def _hint_of(child: Child) -> ChildError | None:
    for kind in ("Placed", "Ready"):
        condition = find_condition(child.status.conditions, kind)
        if condition is not None and condition.status != "True":
            return ChildError(condition.reason, condition.message)
    return None
