"""Length-prefixed JSON messages over a Unix stream socket, with file descriptors beside them.

A frame is the length of the message as 4 bytes, big-endian, followed by the message as JSON:

    00 00 00 0d  {"op":"stop"}

A message may carry bytes beside it, its *payload*, which neither end has to encode as JSON. Then the highest bit of the
length is set, and the length of the payload and the payload itself follow:

    80 00 00 0d  00 00 00 02  {"op":"call"}  17

It is a stream socket, because a message may be larger than a packet socket's buffer. The module uses the standard
library only, because the watchdog and the runners import it too. Nothing here blocks. If the peer reads slowly, the
outbox grows.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
from collections import deque

TYPE_CHECKING = False  # That of typing, which the watchdog would have in memory for nothing else.
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict

_LENGTH, _LENGTHS = struct.Struct("!I"), struct.Struct("!II")
_HAS_PAYLOAD = 1 << 31
_CHUNK = 64 * 1024  # bytes; to allocate more would cost more than reading once more
_MAX_FDS = 16
_JOIN_MAX = 64 * 1024  # bytes of frames that are sent together
# The largest state, in bytes, that is sent in a message and kept in memory. Larger states are in files.
STATE_IN_MESSAGE_MAX = 8 * 1024
ANSWER_MAX = 4 * 1024 * 1024  # bytes of a child's answer, which the agent keeps in memory
# The socket is full or empty; the kernel has no memory for the message, or too many descriptors are under way.
_LATER = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def is_broken(error: OSError) -> bool:
    """Whether the connection is broken, after an error of sending or receiving; otherwise the same works later."""
    return error.errno not in _LATER


def frame(message: bytes, payload: bytes | None = None) -> bytes:
    """The frame of a message that is encoded already, with its payload."""
    if payload is None:
        return _LENGTH.pack(len(message)) + message
    return _LENGTHS.pack(len(message) | _HAS_PAYLOAD, len(payload)) + message + payload


class Inbox:
    """Messages and file descriptors read from a non-blocking socket.

    The kernel delivers descriptors with the first byte of the message that they were sent with, in order. So one queue
    of descriptors beside the messages is enough: the handler of a message knows how many belong to it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self.closed = False

    def read(self) -> list[Message]:
        """Read all messages that are complete, each with its payload as ``payload``.

        ``closed`` is set when the peer has closed or the connection broke, and when this process had no room for the
        descriptors of a message.
        """
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    _CHUNK, socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                self.closed = is_broken(error)
                break
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                    self._fds.extend(fds)
            if flags & socket.MSG_CTRUNC:  # From now on nobody can tell which descriptors are of which message.
                self.closed = True
                return []
            if not data:
                self.closed = True
                break
            self._buffer += data
            if len(data) < _CHUNK and not ancillary:
                break
        return self._split()

    def take_fds(self, count: int) -> list[int]:
        """The next ``count`` descriptors that were received. The caller closes them."""
        return [self._fds.popleft() for _ in range(count)]

    def _split(self) -> list[Message]:
        messages, at, buffer = [], 0, self._buffer
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            begin, size = at + _LENGTH.size, 0
            if length & _HAS_PAYLOAD:
                if len(buffer) - at < _LENGTHS.size:
                    break
                length, size = length ^ _HAS_PAYLOAD, _LENGTH.unpack_from(buffer, begin)[0]
                begin = at + _LENGTHS.size
            middle = begin + length
            end = middle + size
            if len(buffer) < end:
                break
            message: Message = json.loads(buffer[begin:middle].decode())
            if begin > at + _LENGTH.size:
                message["payload"] = bytes(buffer[middle:end])
            messages.append(message)
            at = end
        del buffer[:at]
        return messages


class Outbox:
    """Messages to a non-blocking socket. Messages that do not fit yet wait in memory.

    The outbox closes descriptors once they are sent, so the caller passes duplicates or gives up its own.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._offset = 0  # of the first in the queue, already sent
        self.closed = False

    @property
    def pending(self) -> bool:
        """Whether a message waits for room in the socket."""
        return bool(self._queue)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message, and send as much as the socket takes."""
        self.queue(frame(_encode(message).encode()), fds)
        if len(self._queue) == 1:
            self.flush()

    def queue(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Queue a frame. It is sent with the next ``flush``."""
        self._queue.append((data, fds))

    def flush(self) -> None:
        """Send as much as the socket takes. A broken connection drops the rest and sets ``closed``."""
        while self._queue:
            data, fds = self._queue[0]
            try:
                if fds and self._offset == 0:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                    sent = self._sock.sendmsg([data], rights)
                else:
                    data = self._joined()
                    sent = self._sock.send(memoryview(data)[self._offset :])
            except OSError as error:
                if not is_broken(error):
                    return
                self.closed = True
                sent = len(data) - self._offset
            if self._offset == 0:
                for fd in fds:
                    os.close(fd)
            self._offset += sent
            if self._offset >= len(data):
                self._queue.popleft()
                self._offset = 0

    def _joined(self) -> bytes:
        """The first frame in the queue, and with it the small ones behind it: each call of the kernel costs more."""
        queue = self._queue
        data, fds = queue[0]
        if len(queue) == 1 or self._offset or len(data) >= _JOIN_MAX or queue[1][1]:
            return data
        frames, size = [data], len(data)
        queue.popleft()
        while queue and not queue[0][1] and size + len(queue[0][0]) <= _JOIN_MAX:
            frames.append(queue.popleft()[0])
            size += len(frames[-1])
        data = b"".join(frames)
        queue.appendleft((data, fds))
        return data
