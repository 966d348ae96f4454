"""Requests that another member forwards on its connection: the owner's end of ``agent/peers/line.py``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from processhub.agent.peers.line import (
    BODY_MAX,
    INLINE_MAX,
    Ask,
    ChildAnswer,
    Drop,
    Go,
    Line,
    LineError,
    Part,
    Turn,
    Waits,
)
from processhub.agent.problems import PROBLEM_TYPE, Problem, problem_body
from processhub.agent.request import Request, Response

log = logging.getLogger(__name__)
_CHECK_SECONDS = 10.0  # between two checks of the token that the connection was opened with
# Time in which a member sends the Go when its request's turn has come, or the next part of a large body before that.
_PEER_SECONDS = 5.0
Serve = Callable[[str, int, Request], Awaitable[Response]]  # id, epoch, request → the child's answer; raises Problem


class _Forwarded:
    """A request of the other member."""

    __slots__ = ("ask", "go", "limit", "parts", "request", "size", "task", "waits")

    def __init__(self, ask: Ask, request: Request) -> None:
        self.ask, self.request = ask, request
        self.go: asyncio.Future[bytes] | None = None  # gets the rest of the body
        self.limit: asyncio.Timeout | None = None
        self.parts: list[bytes] = []
        self.size = 0
        self.waits = False  # it was to be handed over at once, and is after a Go alone now
        self.task: asyncio.Task[None] | None = None

    def withdraw(self) -> None:
        """Give the request up, unless the child has it."""
        if self.task is not None:
            self.task.cancel()
        if self.go is not None:
            self.go.cancel()


class ForwardingSession:
    """One connection of another member. ``check()`` raises Problem if its token, or plain HTTP, is not valid."""

    def __init__(self, line: Line, serve: Serve, check: Callable[[], Awaitable[None]]) -> None:
        self._line, self._serve, self._check = line, serve, check
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, _Forwarded] = {}
        self._checked_at = self._loop.time()
        self._checking: asyncio.Task[None] | None = None
        self._refused: Problem | None = None

    async def run(self) -> None:
        """Serve the requests until the connection ends. What waits here then is withdrawn, as the sender knows."""
        try:
            async for message in self._line.messages():
                if isinstance(message, Ask):
                    self._take(message)
                    if self._line.full:  # the other member reads slowly: it gets no further requests in
                        await self._line.room()
                elif (forwarded := self._requests.get(message.number)) is not None:
                    self._follow(forwarded, message)
        except LineError as error:
            log.warning("a member's connection was closed: it sent no message: %s", error)
        except OSError:
            pass  # the member is gone, which is no news here
        finally:
            for forwarded in self._requests.values():
                forwarded.withdraw()
            if self._checking is not None:
                self._checking.cancel()

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    def _take(self, ask: Ask) -> None:
        if self._loop.time() - self._checked_at > _CHECK_SECONDS and self._checking is None:
            self._checking = self._loop.create_task(self._check_again())
        body = ask.body if ask.at_once else None
        request = Request(ask.kind, body, ask.content_type, ask.headers)
        forwarded = self._requests[ask.number] = _Forwarded(ask, request)
        request.fetch = lambda: self._fetch(forwarded)
        request.put_off = lambda: self._put_off(forwarded)
        forwarded.task = self._loop.create_task(self._answer(forwarded))
        # Not within the task: one that is withdrawn before it begins would stay here.
        forwarded.task.add_done_callback(lambda _: self._requests.pop(ask.number))

    def _follow(self, forwarded: _Forwarded, message: object) -> None:
        """Handle what comes for a request that is here already."""
        if isinstance(message, Drop):
            forwarded.withdraw()
        elif isinstance(message, Part):
            if forwarded.limit is not None and not forwarded.limit.expired():
                forwarded.limit.reschedule(self._loop.time() + _PEER_SECONDS)
            forwarded.size += len(message.body)
            if forwarded.size <= BODY_MAX:
                forwarded.parts.append(message.body)
        elif isinstance(message, Go) and forwarded.go is not None and not forwarded.go.done():
            forwarded.go.set_result(message.body)

    def _put_off(self, forwarded: _Forwarded) -> None:
        """Note that the child could not take the request at once. It is handed over after a Go alone from here on.

        The other member hears that once: after its Go, the request counts as one that may have run.
        """
        if forwarded.ask.at_once and not forwarded.waits:
            forwarded.waits, forwarded.request.body = True, None
            self._line.send(Waits(forwarded.ask.number))

    async def _fetch(self, forwarded: _Forwarded) -> bytes:
        """Have the other member decide that the request may run; returns its body. Raises OSError if it does not."""
        forwarded.go = self._loop.create_future()
        self._line.send(Turn(forwarded.ask.number))
        try:
            async with asyncio.timeout(_PEER_SECONDS) as forwarded.limit:
                rest = await forwarded.go
        finally:
            forwarded.limit = None
        if forwarded.ask.body is not None:
            return forwarded.ask.body
        if forwarded.size + len(rest) > BODY_MAX:
            raise OSError(f"its body has more than {BODY_MAX} bytes")
        return b"".join((*forwarded.parts, rest))

    async def _answer(self, forwarded: _Forwarded) -> None:
        ask = forwarded.ask
        answer = await self._answer_to(ask, forwarded.request)
        body = answer.body
        if len(body) > INLINE_MAX:
            body = await self._line.send_parts(ask.number, body)
            answer = ChildAnswer(*(ask.number, answer.status, answer.by_child, answer.content_type), 0, body)
        self._line.send(answer, len(body))

    async def _answer_to(self, ask: Ask, request: Request) -> ChildAnswer:
        if self._refused is not None:
            return _no_answer(ask, self._refused)
        try:
            answer = await self._serve(ask.child, ask.epoch, request)
            return ChildAnswer(ask.number, answer.status, True, answer.content_type, 0, answer.body)
        except Problem as problem:
            return _no_answer(ask, problem)
        except Exception as error:
            log.exception("a request to child %s failed in the agent", ask.child)
            return _no_answer(ask, Problem(502, "outcome_unknown", f"an internal error of the member: {error}"))

    async def _check_again(self) -> None:
        """Check the token once more: it may have been revoked."""
        try:
            await self._check()
            self._checked_at = self._loop.time()
        except Problem as problem:
            if problem.status in (401, 403, 426):
                # The other member routes what it sends from here on again, on a new connection with its present token,
                # and over TLS if that is required by now.
                self._refused = Problem(503, "not_ready", problem.detail)
                while self._requests:
                    await asyncio.wait([forwarded.task for forwarded in self._requests.values() if forwarded.task])
                await self._line.close()
            else:
                self._checked_at = self._loop.time()
        finally:
            self._checking = None


def _no_answer(ask: Ask, problem: Problem) -> ChildAnswer:
    return ChildAnswer(ask.number, problem.status, False, PROBLEM_TYPE, problem.retry_after, problem_body(problem))
