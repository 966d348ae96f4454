"""Children's output: read from pipes on the event loop, split into lines, and written to the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec

from processhub.agent.logs import LogSink
from processhub.cluster.timestamps import now_micros

LINE_MAX = 16 * 1024  # bytes; a longer line is written in parts
_CHARACTER_MAX = 4  # bytes of a character in UTF-8
_READ = 16 * 1024  # bytes a read; a larger read of short lines would keep the event loop busy for too long
_DROP = 64 * 1024
_PAUSE_SECONDS = 0.005  # between two reads while lines are dropped: cheap for the agent, and no child waits for long
_encode = msgspec.json.Encoder().encode
Encode = Callable[[list[bytes]], list[bytes]]


def tagged(fields: dict[str, Any]) -> Encode:
    """Return an encoder that makes each line a JSON object: the time, ``fields``, and the line as ``message``."""
    head = _encode({**fields, "message": ""})[1:-3]  # without the opening brace, up to the opening quote of the message

    def encode(lines: list[bytes]) -> list[bytes]:
        start = b'{"time":"%s",%s' % (now_micros().encode(), head)
        return [start + _encode(line.decode(errors="replace")) + b"}\n" for line in lines]

    return encode


class PipeReader:
    """Reads a pipe and writes its lines to the log. ``write_end`` is for the new process.

    The code that passes ``write_end`` on closes it here. If the log has no room, lines are counted and dropped. The
    pipe is then read at 64 KiB every 5 ms, so a child that writes faster is slowed down to that.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: LogSink, encode: Encode) -> None:
        self._loop, self._share, self._encode = loop, sink.share(), encode
        self._fd, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._rest = b""
        self._pause: asyncio.TimerHandle | None = None
        loop.add_reader(self._fd, self._read)

    def finish(self) -> None:
        """Read what is left in the pipe and close it: the process tree has ended."""
        # A pipe holds 64 KiB (1 MiB at most), so a few reads empty it. Another process may still hold the other end
        # open.
        for _ in range(64):
            if self._fd < 0 or not self._read():
                break
        self._close()

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _DROP if self._share.full else _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close()
            return False
        if self._share.full:
            self._share.drop(data.count(b"\n"))
            self._rest = b""
            if self._pause is None:
                self._loop.remove_reader(self._fd)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)
        else:
            self._take(data)
        return True

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._read)

    def _take(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        if any(len(line) > LINE_MAX for line in lines):
            lines = [part for line in lines for part in _parts(line)]
        if len(rest) >= LINE_MAX:
            *parts, rest = _parts(rest)
            lines += parts
        self._rest = rest
        self._share.write_lines(self._encode(lines))

    def _close(self) -> None:
        if self._fd < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._rest:
            self._take(b"\n")
        self._share.close()


def open_pipes(
    loop: asyncio.AbstractEventLoop, sink: LogSink, encoders: dict[int, Encode]
) -> tuple[list[PipeReader], dict[int, int]]:
    """Open a pipe for each descriptor number of a new process; returns the readers and the write ends by number.

    Raises OSError if no descriptors are left. None stays open then.
    """
    readers: list[PipeReader] = []
    try:
        for encode in encoders.values():
            readers.append(PipeReader(loop, sink, encode))  # noqa: PERF401 one that fails must find those before it
    except OSError:
        for reader in readers:
            os.close(reader.write_end)
            reader.finish()
        raise
    return readers, dict(zip(encoders, (reader.write_end for reader in readers), strict=True))


def _parts(line: bytes) -> list[bytes]:
    """The line in parts of LINE_MAX bytes at most, cut between characters where it is UTF-8."""
    parts = []
    while len(line) > LINE_MAX:
        cut = LINE_MAX
        while cut > LINE_MAX - _CHARACTER_MAX and line[cut] & 0xC0 == 0x80:
            cut -= 1
        parts.append(line[:cut])
        line = line[cut:]
    return [*parts, line]
