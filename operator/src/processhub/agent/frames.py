"""Length-prefixed JSON messages over a Unix stream socket, with file descriptors beside them.

A stream and not packets: a message may be larger than a socket's buffer. Standard library only, because the
watchdog and the runners use it too. Nothing here blocks; a slow peer makes the outbox grow.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections import deque
from typing import Any

_LENGTH = struct.Struct("!I")
_CHUNK = 256 * 1024
_MAX_FDS = 16
# Bytes of a child's state that goes in a message and is kept in memory; larger ones are in files.
STATE_IN_MESSAGE_MAX = 8 * 1024
Message = dict[str, Any]


class Inbox:
    """Messages and file descriptors read from a non-blocking socket.

    The kernel hands descriptors over with the first byte of the message they were sent with, in order, so a
    queue of them beside the messages is enough: who handles a message knows how many are its own.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self.closed = False

    def read(self) -> list[Message]:
        """The messages that are complete now; ``closed`` is set at the peer's end or a broken connection."""
        while True:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(
                    _CHUNK, socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.closed = True
                break
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                    self._fds.extend(fds)
            if not data:
                self.closed = True
                break
            self._buffer += data
            if len(data) < _CHUNK and not ancillary:
                break
        return self._split()

    def take_fds(self, count: int) -> list[int]:
        """The next ``count`` descriptors that came in; the caller closes them."""
        return [self._fds.popleft() for _ in range(count)]

    def _split(self) -> list[Message]:
        messages, at, buffer = [], 0, self._buffer
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            messages.append(json.loads(buffer[at + _LENGTH.size : end]))
            at = end
        del buffer[:at]
        return messages


class Outbox:
    """Messages to a non-blocking socket; what does not fit now waits in memory.

    ``send`` keeps the descriptors' numbers until they are sent: the caller gives duplicates away and the outbox
    closes them.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._offset = 0  # of the first in the queue, already sent
        self.closed = False

    @property
    def pending(self) -> bool:
        """Whether something waits for the socket to take it."""
        return bool(self._queue)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message and send what the socket takes."""
        body = json.dumps(message, separators=(",", ":")).encode()
        self._queue.append((_LENGTH.pack(len(body)) + body, fds))
        if len(self._queue) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what the socket takes now; a broken connection drops the rest and sets ``closed``."""
        while self._queue:
            data, fds = self._queue[0]
            try:
                if fds and self._offset == 0:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                    sent = self._sock.sendmsg([data], rights)
                else:
                    sent = self._sock.send(memoryview(data)[self._offset :])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.closed = True
                sent = len(data) - self._offset
            if self._offset == 0:
                for fd in fds:
                    os.close(fd)
            self._offset += sent
            if self._offset >= len(data):
                self._queue.popleft()
                self._offset = 0
