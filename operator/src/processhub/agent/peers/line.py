"""A connection between two members, on which one forwards requests to the other: its messages, and one end of it.

A member opens a connection to each member that it forwards requests to, and keeps it. It is a WebSocket at
``/v1/requests``, so that TLS and proxies treat it as they treat any. A WebSocket message is a list of the messages
below in MessagePack: all that one turn of the event loop has to say. Many requests are under way on one connection,
each with a number.

    asking member → owner:  Ask            here is a request
    owner → asking member:  Waits          the child can't take it now; it will not run before a Go
    owner → asking member:  Turn           its turn has come
    asking member → owner:  Go             from here on it may have run
    owner → asking member:  ChildAnswer    the child's answer, or why there is none

The owner hands a request over at once only if ``Ask.at_once`` says so and the child can take it. Then the answer comes
without a message in between, and until that, or until ``Waits``, the asking member counts the request as one that may
have run. All others run after the ``Go`` alone. So a request that waits when its owner is lost may go to the next
owner, and nothing runs twice.

A body of more than ``INLINE_MAX`` bytes is sent as ``Part`` messages before the ``Go`` or the answer, one at a
time, so that the messages of other requests come between them.

A later version may add fields at the end of a message: an earlier one skips them. A further kind of message needs
another path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator

import msgspec
from aiohttp import ClientWebSocketResponse, WSMsgType

from processhub.agent import web

log = logging.getLogger(__name__)
PATH = "/v1/requests"
BODY_MAX = 4 * 1024 * 1024  # bytes of a request
INLINE_MAX = 64 * 1024
MESSAGE_MAX = 4 * 1024 * 1024  # bytes of a WebSocket message; what is sent is far below
_BATCH_MAX = 256 * 1024  # bytes of the messages that are sent together, unless one alone is larger
_PENDING_MAX = 1024 * 1024  # bytes that may wait to be sent before further ones are held back
_OVERHEAD = 64  # bytes of a message without its texts and its body, roughly


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A request for the child, which the registry has on this member at this epoch. ``body`` is None if it is large."""

    number: int
    child: str
    epoch: int
    kind: str  # call or cast
    content_type: str
    headers: dict[str, str]  # those that are passed on to the child
    body: bytes | None
    at_once: bool


class Go(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The request may run. ``body``: the rest of its body, if that did not come with the Ask."""

    number: int
    body: bytes = b""


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The request is withdrawn, unless the child has it. No answer is expected any more."""

    number: int


class Part(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A part of a large body: of the request towards the owner, else of the answer."""

    number: int
    body: bytes


class Waits(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The child can't take the request now."""

    number: int


class Turn(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The child can take the request now."""

    number: int


class ChildAnswer(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The child's answer, or a problem of the owner if not ``by_child``. ``body`` is the rest after all parts."""

    number: int
    status: int
    by_child: bool
    content_type: str
    retry_after: int
    body: bytes


Message = Ask | Go | Drop | Part | Waits | Turn | ChildAnswer
_decoder = msgspec.msgpack.Decoder(list[Message])
_encode = msgspec.msgpack.Encoder().encode


class LineError(Exception):
    """The other end sent something that is no message. The connection is closed then."""


class Line:
    """One end of a connection. ``closed`` is set once nothing is sent any more."""

    def __init__(self, socket: ClientWebSocketResponse | web.WebSocketResponse) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether the other end reads slower than this one sends."""
        return self._bytes > _PENDING_MAX

    def send(self, message: Message, size: int = 0) -> None:
        """Send a message soon; ``size``: the bytes of its body."""
        self._pending.append((message, size + _OVERHEAD))
        self._bytes += size + _OVERHEAD
        if self._bytes > _PENDING_MAX:
            self._room.clear()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def room(self) -> None:
        """Return when the other end has read enough of what was sent, or the connection is closed."""
        await self._room.wait()

    async def send_parts(self, number: int, body: bytes) -> bytes:
        """Send a body without its last part, which is returned, as fast as the other end reads it."""
        at = 0
        while len(body) - at > INLINE_MAX:
            await self.room()
            if self.closed:
                return b""
            self.send(Part(number, body[at : at + INLINE_MAX]), INLINE_MAX)
            at += INLINE_MAX
        return body[at:]

    async def messages(self) -> AsyncIterator[Message]:
        """Send what is to be sent, and yield what comes, until the connection ends. Raises LineError."""
        writing = self._loop.create_task(self._write())
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY:
                    return
                try:
                    received = _decoder.decode(message.data)
                except msgspec.DecodeError as error:
                    raise LineError(str(error)) from error
                for item in received:
                    yield item
        finally:
            self.closed = True
            self._room.set()
            writing.cancel()

    async def close(self) -> None:
        """Send what is pending, and close the connection."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            while self._pending and not self.closed:
                await self._send_batch()
        self.closed = True
        self._room.set()
        await self._socket.close()

    async def _write(self) -> None:
        try:
            while True:
                if not self._pending:
                    self._wake = self._loop.create_future()
                    await self._wake
                await self._send_batch()
        except (ConnectionError, RuntimeError):
            return  # the reader finds the connection closed, too
        except Exception:
            # Open, and without a writer, it would keep all further requests waiting.
            log.exception("a message to another member can't be sent: its connection is closed")
            await self._socket.close()

    async def _send_batch(self) -> None:
        batch: list[Message] = []
        size = 0
        while self._pending and (not batch or size + self._pending[0][1] <= _BATCH_MAX):
            message, more = self._pending.popleft()
            batch.append(message)
            size += more
        await self._socket.send_bytes(_encode(batch))
        self._bytes -= size
        if self._bytes <= _PENDING_MAX:
            self._room.set()
