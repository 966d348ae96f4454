"""The connections on which this member forwards requests to others: one to each, kept while both ends run.

A connection is opened with this member's token, which the other member checks then and while requests come. When the
kubelet has renewed the token, a new connection is opened, and the old one closed when its last request is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from processhub.agent.listeners import Signal
from processhub.agent.peers.line import (
    INLINE_MAX,
    Ask,
    ChildAnswer,
    Drop,
    Go,
    Line,
    LineError,
    Message,
    Part,
    Turn,
    Waits,
)
from processhub.agent.peers.link import Forwarding, UnreachableError
from processhub.agent.problems import Problem
from processhub.agent.registry.lookup import RoutedCopy
from processhub.cluster.errors import reason_of

# An owner that was heard from within this time may run a request at once. One that was not may be cut off, and requests
# that may have run there can't go to the next owner.
_FRESH_SECONDS = 0.005
_SWEEP_SECONDS = 0.5  # between two looks at the time limits of the requests under way
_OLD_SECONDS = 60.0  # a member of an earlier version is not offered a connection again within this time
_NOT_OFFERED = (400, 403, 404, 405, 426, 501)  # what an earlier version, or a proxy that takes no WebSockets, answers


class _Call:
    """A request under way: ``answered`` gets the owner's answer, or None if it was not sent."""

    __slots__ = ("answered", "child_id", "deadline", "number", "parts", "request", "seconds", "stands")

    def __init__(
        self, number: int, what: Forwarding, answered: asyncio.Future[ChildAnswer | None], seconds: float
    ) -> None:
        self.number, self.answered, self.seconds = number, answered, seconds
        self.child_id, self.request, self.stands = what.child_id, what.request, what.stands
        self.deadline = 0.0  # the loop's time by which the owner must have answered, once the request may run
        self.parts: list[bytes] = []

    @property
    def open(self) -> bool:
        return not self.answered.done()


@dataclass(frozen=True)
class Way:
    """How a connection is opened: at the URL ``base``, with ``token``. It is opened again when one of them changes.

    ``trust``: by which the other member is verified, if the URL is https.
    """

    base: str
    token: str
    trust: ssl.SSLContext | None = None


class PeerConnection:
    """An open connection to the member of that name, which was opened in this ``way``."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, member: str, way: Way, ended: Callable[[PeerConnection], None]
    ) -> None:
        self.member, self.way, self._ended = member, way, ended
        self._socket, self._line = socket, Line(socket)
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count(1)
        self._heard_at = self._loop.time()
        self._sweep: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._retired = False
        self._reading = self._loop.create_task(self._read())

    @property
    def usable(self) -> bool:
        """Whether requests can be sent."""
        return not self._line.closed

    async def ask(self, what: Forwarding, seconds: float) -> ChildAnswer | None:
        """Send the request to the owner; returns its answer, or None if it was not sent and must be routed again.

        ``seconds`` limits the time from when it may run. Raises Problem, and UnreachableError if the connection broke
        before it could run.
        """
        changed = what.changed
        if self._line.full and not await _still(self._loop.create_task(self._line.room()), what):
            return None
        if self._line.closed:
            raise UnreachableError(f"the connection to member {what.owner.member} is closed")
        call = _Call(next(self._numbers), what, self._loop.create_future(), seconds)
        self._calls[call.number] = call
        changed.heard = lambda: self._look(call, changed)
        try:
            self._send_ask(call, what.owner)
            if changed.is_set():
                self._look(call, changed)
            return await call.answered
        finally:
            changed.heard = None
            del self._calls[call.number]
            if call.answered.cancelled():
                self._line.send(Drop(call.number))
            if self._retired and not self._calls:
                self._end()

    def _send_ask(self, call: _Call, owner: RoutedCopy) -> None:
        request = call.request
        body = request.body if request.body is not None and len(request.body) <= INLINE_MAX else None
        at_once = body is not None and self._loop.time() - self._heard_at < _FRESH_SECONDS
        if at_once:
            self._may_run(call)
        ask = Ask(
            call.number, call.child_id, owner.epoch, request.kind, request.content_type, request.headers, body, at_once
        )
        self._line.send(ask, len(body or b""))

    def retire(self) -> None:
        """Close the connection when the last request is answered: it is not used for others any more."""
        self._retired = True
        if not self._calls:
            self._end()

    async def close(self) -> None:
        """Close the connection now."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        await self._socket.close()

    def _end(self) -> None:
        task = self._loop.create_task(self._line.close())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    # What happens to a request.

    def _may_run(self, call: _Call) -> None:
        call.deadline = self._loop.time() + call.seconds
        call.request.handed_over.set()
        if self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._check_limits)

    def _look(self, call: _Call, changed: Signal) -> None:
        """Withdraw a request that waits at a member which is not its owner any more."""
        if call.request.begun or not call.open:
            return
        changed.clear()
        if not call.stands():
            self._withdraw(call)

    def _withdraw(self, call: _Call) -> None:
        self._line.send(Drop(call.number))
        call.answered.set_result(None)

    def _check_limits(self) -> None:
        self._sweep = None
        now = self._loop.time()
        for call in list(self._calls.values()):
            if call.open and call.request.begun and call.deadline <= now:
                self._line.send(Drop(call.number))
                text = f"member {self.member} has not answered for child {call.child_id!r}"
                call.answered.set_exception(Problem(502, "outcome_unknown", text))
        if self._calls:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._check_limits)

    async def _read(self) -> None:
        why = "it was closed"
        try:
            async for message in self._line.messages():
                self._heard_at = self._loop.time()
                call = self._calls.get(message.number)
                if call is not None and call.open:
                    self._take(call, message)
        except LineError as error:
            why = f"member {self.member} sent no message: {error}"
        except OSError as error:
            why = str(error) or type(error).__name__
        finally:
            self._lost(why)
            self._ended(self)
            await self._socket.close()

    def _take(self, call: _Call, message: Message) -> None:
        if isinstance(message, ChildAnswer):
            if call.parts:
                message = ChildAnswer(
                    message.number,
                    message.status,
                    message.by_child,
                    message.content_type,
                    message.retry_after,
                    b"".join((*call.parts, message.body)),
                )
            call.answered.set_result(message)
        elif isinstance(message, Waits):
            call.request.handed_over.clear()
            if not call.stands():
                self._withdraw(call)
        elif isinstance(message, Turn):
            if call.stands():
                self._go(call)
            else:
                self._withdraw(call)
        elif isinstance(message, Part):
            call.parts.append(message.body)

    def _go(self, call: _Call) -> None:
        body = call.request.body or b""
        if len(body) <= INLINE_MAX:
            self._may_run(call)
            self._line.send(Go(call.number))
            return
        task = self._loop.create_task(self._send_body(call, body))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send_body(self, call: _Call, body: bytes) -> None:
        rest = await self._line.send_parts(call.number, body)
        # The owner hands nothing over before it has all of the body.
        if call.open and not self._line.closed:
            self._may_run(call)
            self._line.send(Go(call.number, rest), len(rest))

    def _lost(self, why: str) -> None:
        """Fail all requests: those that may have run with an unknown outcome."""
        if self._sweep is not None:
            self._sweep.cancel()
        for call in self._calls.values():
            if not call.open:
                continue
            if call.request.begun:
                text = f"the connection to member {self.member} broke while child {call.child_id!r} was asked: {why}"
                call.answered.set_exception(Problem(502, "outcome_unknown", text))
            else:
                call.answered.set_exception(UnreachableError(f"the connection to member {self.member} broke: {why}"))


class PeerConnections:
    """The connections to all other members, by address.

    ``way(address)`` is how they are opened now, and ``connect(way)`` opens one. ``member`` is the name of this member.
    """

    def __init__(
        self,
        member: str,
        way: Callable[[str], Way],
        connect: Callable[[Way], Awaitable[aiohttp.ClientWebSocketResponse]],
    ) -> None:
        self._member, self._way, self._connect = member, way, connect
        self._open: dict[str, PeerConnection] = {}
        self._opening: dict[str, asyncio.Task[PeerConnection | None]] = {}
        self._old: dict[str, float] = {}  # by URL: the loop's time until which a member gets requests by HTTP alone
        self._loop = asyncio.get_running_loop()

    async def to(self, what: Forwarding) -> PeerConnection | bool:
        """The connection to the owner; True where it takes none; False if it is not the owner any more.

        Raises UnreachableError.
        """
        owner = what.owner
        known, way = self._open.get(owner.address), self._way(owner.address)
        if known is not None and known.usable and known.way == way:
            return known
        if self._old.get(way.base, 0.0) > self._loop.time():
            return True
        opening = self._opening.get(owner.address)
        if opening is None:
            opening = self._opening[owner.address] = self._loop.create_task(self._open_to(owner, way))
            opening.add_done_callback(lambda task: self._opened(owner.address, task))
        if not await _still(opening, what):
            return False
        return opening.result() or True

    def open_to(self, address: str) -> bool:
        """Whether requests can be sent to the member at the address on a connection that is open."""
        known = self._open.get(address)
        return known is not None and known.usable

    async def close(self) -> None:
        """Close all connections."""
        for opening in list(self._opening.values()):
            opening.cancel()
        await asyncio.gather(*(connection.close() for connection in list(self._open.values())))
        self._open.clear()

    def _opened(self, address: str, task: asyncio.Task[PeerConnection | None]) -> None:
        del self._opening[address]
        connection = None if task.cancelled() or task.exception() is not None else task.result()
        if connection is not None:
            before, self._open[address] = self._open.get(address), connection
            if before is not None:
                before.retire()

    async def _open_to(self, owner: RoutedCopy, way: Way) -> PeerConnection | None:
        """Open a connection; None if the member takes none."""
        try:
            socket = await self._connect(way)
        except aiohttp.WSServerHandshakeError as error:
            # What a request by HTTP is answered says what is wrong, if that is not taken either.
            if error.status in _NOT_OFFERED:
                self._old[way.base] = self._loop.time() + _OLD_SECONDS
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnreachableError(
                f"member {owner.member} ({owner.address}) can't be reached from member {self._member}: "
                f"{reason_of(error)}"
            ) from error
        self._old.pop(way.base, None)
        return PeerConnection(socket, owner.member, way, lambda ended: self._drop(owner.address, ended))

    def _drop(self, address: str, ended: PeerConnection) -> None:
        """Forget a connection that has ended: its member may never come back at that address."""
        if self._open.get(address) is ended:
            del self._open[address]


async def _still(waiting: asyncio.Task[object], what: Forwarding) -> bool:
    """Wait for the task, and return True; return False as soon as the owner is not the owner any more."""
    loop, changed = asyncio.get_running_loop(), what.changed
    while not waiting.done():
        news = loop.create_task(changed.wait())
        try:
            await asyncio.wait((waiting, news), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        if changed.is_set() and not waiting.done():
            changed.clear()
            if not what.stands():
                return False
    return True
