"""The queues of requests to this member's children: one request at a time for each child, in order of arrival.

A request leaves the queue for the child only while the child is up. If the child restarts, waiting requests go to its
next incarnation. If the child leaves this member, they go back to the router that sent them. A request that was handed
over is never handed over again. The request for which a child is started may be handed over with the start: it is not
begun before the child is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from processhub.agent.children.child import Child
from processhub.agent.children.runs import RunHandle
from processhub.agent.problems import Problem
from processhub.agent.request import MovedError, OutcomeUnknownError, Request, Response, WithdrawnError
from processhub.api.reasons import Role, State
from processhub.api.slice import Settings

log = logging.getLogger(__name__)
QUEUE_MAX = 1000  # requests that wait for one child
_RETRY_AFTER = 1  # seconds
_LOG_SECONDS = 10.0  # between two log lines about the failed casts of one child
_AFTERMATH_SECONDS = 0.25  # how long to pause after a broken connection, which often means that the child has ended


@dataclass(eq=False, slots=True)
class _Entry:
    """A request in the queue.

    The sender of a cast does not wait for its outcome. ``moved`` takes a cast back if the child leaves this member
    before its turn, ``failed(child_id, why)`` reports why it was not handled.
    """

    child_id: str
    request: Request
    future: asyncio.Future[Response]
    arrived: float
    moved: Callable[[], None] | None
    failed: Callable[[str, str], None]

    def answer(self, answer: Response) -> None:
        if self.future.done():
            return
        self.future.set_result(answer)
        if self.moved is not None and answer.status >= 400:
            why = f"the child answered POST /{self.request.kind} with status {answer.status}"
            self.failed(self.child_id, why)

    def fail(self, error: Exception) -> None:
        if self.future.done():
            return
        if self.moved is None:
            self.future.set_exception(error)
            return
        self.future.cancel()
        if isinstance(error, MovedError):
            self.moved()
        else:
            self.failed(self.child_id, str(error))


class _ChildQueue:
    """The waiting requests of one child, and the request that it handles."""

    __slots__ = ("alarm", "answer_by", "current", "last", "logged_at", "pause_until", "streams", "waiting", "work")

    def __init__(self, now: float) -> None:
        self.waiting: deque[_Entry] = deque()
        self.current: _Entry | None = None
        self.work: asyncio.Future[Response] | None = None  # the child's part of the current request
        self.answer_by = 0.0  # the loop's time by which the child must answer the current request, once it has it
        # One timer serves all time limits of the queue. It is not cancelled with each request, which would cost more
        # than the look at its end.
        self.alarm: asyncio.TimerHandle | None = None
        self.pause_until = 0.0  # the loop's time before which nothing is handed over
        self.last = now  # the loop's time at which a request last left the queue or was finished
        self.streams = 0  # number of streams to the child, which are not queued
        self.logged_at = float("-inf")  # the loop's time at which a cast that failed was last logged

    @property
    def quiet(self) -> bool:
        return not self.waiting and self.current is None and not self.streams


class RequestQueue:
    """The request queues of all children of this member.

    ``may_serve()`` says whether the member may serve at all now. ``settings()`` are the hub's settings.
    """

    def __init__(
        self, child_of: Callable[[str], Child | None], may_serve: Callable[[], bool], settings: Callable[[], Settings]
    ) -> None:
        self._child_of, self.may_serve, self._settings = child_of, may_serve, settings
        self._queues: dict[str, _ChildQueue] = {}
        self._idle: dict[str, asyncio.TimerHandle] = {}  # by id: when a child with idleSeconds is checked for idleness
        self.casts_failed = 0  # casts that were accepted and not handled
        self._loop = asyncio.get_running_loop()

    # For the router.

    async def serve(self, child_id: str, request: Request) -> Response:
        """Queue a request and return the child's answer.

        Cancelling the call withdraws a request that was not handed over. Raises Problem, or MovedError if this member
        does not own the child (any more).
        """
        entry = self._put(child_id, request, None)
        queue = self._queues[child_id]
        try:
            if not request.begun:
                request.put_off()
            return await entry.future
        finally:
            self._leave(child_id, queue, entry)

    def deliver(self, child_id: str, request: Request, moved: Callable[[], None]) -> None:
        """Queue a cast; ``moved`` is called if the child leaves this member before the cast's turn.

        Raises Problem and MovedError as ``serve`` does.
        """
        self._put(child_id, request, moved)

    async def casts_left(self, child_id: str) -> None:
        """Return when none of the casts that wait here now does any more: they were handed over, or left the member."""
        if (queue := self._queues.get(child_id)) is not None:
            entries = [*queue.waiting, *([queue.current] if queue.current is not None else [])]
            if waiting := [entry.future for entry in entries if entry.moved is not None and not entry.future.done()]:
                await asyncio.wait(waiting)

    @contextlib.contextmanager
    def streaming(self, child: Child) -> Iterator[None]:
        """Count a stream to the child. The child is not idle before its last stream has ended."""
        queue = self._queues.get(child.id)
        if queue is None:
            queue = self._queues[child.id] = _ChildQueue(self._loop.time())
        queue.streams += 1
        self._watch(child)
        try:
            yield
        finally:
            queue.streams -= 1
            queue.last = self._loop.time()
            self.child_changed(child)

    def cast_failed(self, child_id: str, why: str) -> None:
        """Count a cast that was accepted and not handled. Of many for one child, one in 10 s is logged."""
        self.casts_failed += 1
        queue, now = self._queues.get(child_id), self._loop.time()
        if queue is None or now - queue.logged_at >= _LOG_SECONDS:
            log.warning("a cast was not handled: %s", why, extra={"child": child_id})
        if queue is not None and now - queue.logged_at >= _LOG_SECONDS:
            queue.logged_at = now

    @property
    def max_wait(self) -> float:
        """The seconds for which a request waits without progress, mainly for the next owner after a loss."""
        settings = self._settings()
        return settings.lease_seconds + settings.request_seconds

    @property
    def waiting(self) -> int:
        """The number of requests that wait here."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    # For the supervisor.

    def child_changed(self, child: Child, *_: object) -> None:
        """Follow a change of the child's desired run or state."""
        queue = self._queues.get(child.id)
        if queue is not None:
            self._follow(child, queue)
        self._watch(child)

    def _follow(self, child: Child, queue: _ChildQueue) -> None:
        current = queue.current
        if not child.serving and queue.work is not None and current is not None and not current.request.begun:
            queue.work.cancel()  # it waits for the child's socket; its turn comes again, before that of the others
        else:
            for entry in [entry for entry in queue.waiting if not _serves(child, entry.request)]:
                queue.waiting.remove(entry)
                entry.fail(MovedError())
        if queue.current is not None and queue.answer_by == math.inf and child.status.state != State.STARTING:
            self._begun(child.id, queue)
        if child.given_up:
            while queue.waiting:
                queue.waiting.popleft().fail(_given_up(child))
        if not child.serving:
            queue.pause_until = 0.0
        if child.desired is None and not child.alive and queue.quiet:
            self._queues.pop(child.id, None)
        else:
            self._pump(child.id, queue)

    def advance(self) -> None:
        """Hand over waiting requests again: the member may serve again, and its children have stayed up."""
        for child_id, queue in list(self._queues.items()):
            self._pump(child_id, queue)

    # Idleness.

    def _watch(self, child: Child) -> None:
        """Set the timer after which the child is idle. A child that has requests is not timed."""
        if (timer := self._idle.pop(child.id, None)) is not None:
            timer.cancel()
        entry = child.desired.assignment if child.desired is not None else None
        # The operator ends an idle child by its entry, so one that has none yet would wait for its end without serving.
        if (
            entry is None
            or child.off_record
            or not entry.idle_seconds
            or entry.role != Role.ACTIVE
            or not child.serving
        ):
            return
        queue = self._queues.get(child.id)
        if queue is not None and not queue.quiet:
            return
        last = max(child.history.up_since, queue.last if queue is not None else 0.0)
        self._idle[child.id] = self._loop.call_at(last + entry.idle_seconds, self._idle_for, child, entry.idle_seconds)

    def _idle_for(self, child: Child, seconds: int) -> None:
        del self._idle[child.id]
        queue = self._queues.get(child.id)
        if self._child_of(child.id) is child and child.serving and (queue is None or queue.quiet):
            child.is_idle(seconds)

    # Internal.

    def _put(self, child_id: str, request: Request, moved: Callable[[], None] | None) -> _Entry:
        child = self._child_of(child_id)
        if child is None or not _serves(child, request):
            raise MovedError
        if child.given_up:
            raise _given_up(child)
        queue = self._queues.get(child_id)
        if queue is None:
            queue = self._queues[child_id] = _ChildQueue(self._loop.time())
        if len(queue.waiting) >= QUEUE_MAX:
            raise Problem(
                429, "busy", f"{QUEUE_MAX} requests wait for child {child_id!r} already; try again later", _RETRY_AFTER
            )
        now = self._loop.time()
        entry = _Entry(child_id, request, self._loop.create_future(), now, moved, self.cast_failed)
        queue.waiting.append(entry)
        if child.id in self._idle:
            self._watch(child)
        self._pump(child_id, queue)
        if moved is None and not request.begun:
            self._wake_by(child_id, queue, max(now, queue.last) + self.max_wait)
        return entry

    def _leave(self, child_id: str, queue: _ChildQueue, entry: _Entry) -> None:
        if not entry.future.done():
            entry.future.cancel()
        if queue.current is entry:
            if not entry.request.begun and queue.work is not None:
                queue.work.cancel()
        elif entry.future.cancelled() and entry in queue.waiting:
            queue.waiting.remove(entry)
            queue.last = self._loop.time()  # a request that was withdrawn counts as activity too
            if (child := self._child_of(child_id)) is not None:
                self._watch(child)

    def _pump(self, child_id: str, queue: _ChildQueue) -> None:
        """Hand over the first waiting request, if the child can take it now."""
        if queue.current is not None or not queue.waiting:
            return
        child = self._child_of(child_id)
        run = child.run if child is not None else None
        if child is None or run is None or not self.may_serve():
            return
        if not child.serving and not (_takes_first(child, run) and queue.waiting[0].request.body is not None):
            return
        now = self._loop.time()
        if queue.pause_until > now:
            self._loop.call_later(queue.pause_until - now, self._pump, child_id, queue)
            return
        entry = queue.waiting.popleft()
        while entry.future.done():
            if not queue.waiting:
                return
            entry = queue.waiting.popleft()
        queue.current, queue.last = entry, now
        child.in_hand = request = entry.request
        request.handed_over.heard = lambda: self._begun(child_id, queue)
        # Where the child can take the request at once, it has it when ``request`` returns.
        work = queue.work = asyncio.ensure_future(run.request(request))
        work.add_done_callback(lambda _: self._ended(child, queue, entry, work))

    def _begun(self, child_id: str, queue: _ChildQueue) -> None:
        """Limit the time for the answer: the child has the current request. The time counts from when it is up."""
        child = self._child_of(child_id)
        if child is not None and child.status.state == State.STARTING:
            queue.answer_by = math.inf
            return
        queue.answer_by = self._loop.time() + self._settings().request_seconds
        self._wake_by(child_id, queue, queue.answer_by)

    def _ended(self, child: Child, queue: _ChildQueue, entry: _Entry, work: asyncio.Future[Response]) -> None:
        """Take the outcome of the current request, and go on with the next."""
        request = entry.request
        request.handed_over.heard = None
        failure = asyncio.CancelledError() if work.cancelled() else work.exception()
        returned = False
        if not request.begun and isinstance(failure, asyncio.CancelledError | OutcomeUnknownError | WithdrawnError):
            self._not_begun(child, queue, entry, failure)
            returned = True
        elif failure is None:
            entry.answer(work.result())
        elif isinstance(failure, OutcomeUnknownError):
            queue.pause_until = self._loop.time() + _AFTERMATH_SECONDS
            entry.fail(Problem(502, "outcome_unknown", f"child {child.id!r} gave no answer: {failure}"))
        else:
            log.error("a request to child %s failed in the agent", child.id, exc_info=failure)
            entry.fail(Problem(502, "outcome_unknown", f"an internal error of the member: {failure}"))
        queue.work = queue.current = None
        queue.last = self._loop.time()
        child.at_rest()
        now = self._child_of(child.id)
        if now is child and child.desired is not None and not returned:
            self._pump(child.id, queue)
            self._watch(child)
        else:
            self.child_changed(child if now is None else now)

    def _not_begun(self, child: Child, queue: _ChildQueue, entry: _Entry, failure: BaseException) -> None:
        """Handle a request that the child did not get. It waits for the next try, unless its sender withdrew it."""
        if isinstance(failure, WithdrawnError):
            log.info("a request to %s was withdrawn before its turn: %s", child.id, failure)
            entry.fail(MovedError())
            return
        if isinstance(failure, OutcomeUnknownError):
            queue.pause_until = self._loop.time() + _AFTERMATH_SECONDS
        if not entry.future.done():
            queue.waiting.appendleft(entry)
            entry.request.put_off()

    def _wake_by(self, child_id: str, queue: _ChildQueue, at: float) -> None:
        """Look at the time limits of the queue's requests at that time of the loop, or before it."""
        if queue.alarm is not None:
            if queue.alarm.when() <= at:
                return
            queue.alarm.cancel()
        queue.alarm = self._loop.call_at(at, self._check_limits, child_id, queue)

    def _check_limits(self, child_id: str, queue: _ChildQueue) -> None:
        """Fail the requests whose time is over, and set the alarm for the others."""
        queue.alarm = None
        now, current, limits = self._loop.time(), queue.current, list[float]()
        if current is not None and current.request.begun and not current.future.done():
            if queue.answer_by > now:
                limits += [queue.answer_by] if math.isfinite(queue.answer_by) else []
            else:
                self._not_answered(child_id, current)
        waiting = [entry for entry in queue.waiting if entry.moved is None]
        if current is not None and current.moved is None and not current.request.begun:
            waiting.append(current)
        for entry in waiting:
            limit = max(entry.arrived, queue.last) + self.max_wait
            if limit > now:
                limits.append(limit)
            elif not entry.future.done():
                entry.fail(self._too_long(child_id, queue))
                if entry is not current:
                    queue.waiting.remove(entry)
        if limits:
            self._wake_by(child_id, queue, min(limits))

    def _not_answered(self, child_id: str, entry: _Entry) -> None:
        """Fail the current request. The next is handed over only when this one has ended, or the child with it."""
        limit = self._settings().request_seconds
        entry.fail(
            Problem(
                504,
                "timeout",
                f"child {child_id!r} has not answered within {limit} s (timeouts.requestSeconds); it may still"
                " carry out the request",
            )
        )
        if (child := self._child_of(child_id)) is not None:
            child.at_rest()

    def _too_long(self, child_id: str, queue: _ChildQueue) -> Problem:
        child, waited = self._child_of(child_id), f"{self.max_wait:g} s"
        if queue.current is not None and queue.current.request.begun:
            return Problem(
                504, "timeout", f"not begun within {waited}: child {child_id!r} is busy with an earlier request"
            )
        if queue.current is not None:
            why = queue.current.request.obstacle and f": {queue.current.request.obstacle}"
            return Problem(504, "timeout", f"not begun within {waited}: child {child_id!r} does not take requests{why}")
        why = (
            f": {child.status.state}, {child.status.message or child.status.reason}"
            if child is not None and child.status.reason
            else ""
        )
        return Problem(503, "no_owner", f"not begun within {waited}: child {child_id!r} does not run{why}")


def _serves(child: Child, request: Request) -> bool:
    """Whether this member handles the request for the child. A cast is taken by passive copies too."""
    desired = child.desired
    if desired is None or desired.assignment.wait:
        return False
    return desired.assignment.role == Role.ACTIVE or request.kind == "cast"


def _given_up(child: Child) -> Problem:
    why = child.status.message or child.status.last_exit or child.status.reason
    return Problem(503, "no_owner", f"child {child.id!r} is {child.status.state} and is not started again: {why}")


def _takes_first(child: Child, run: RunHandle) -> bool:
    """Whether the child, which a request starts just now, may have that request before it is up."""
    return child.off_record and child.status.state == State.STARTING and not child.stopping and run.takes_early
