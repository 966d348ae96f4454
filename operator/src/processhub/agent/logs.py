"""The member's log: JSON lines on stdout, the agent's own and those of its children.

Nothing here waits: lines go to a thread through a bounded buffer. Where the container's log is read more slowly
than children write, new lines are dropped and counted; a child never stalls because of its output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

BUFFER_BYTES = 8 * 1024 * 1024
LINE_MAX = 16 * 1024  # bytes; a longer line is written in parts
_READ = 64 * 1024


class LogSink:
    """Writes lines to a descriptor on its own thread. ``dropped`` counts the lines that found the buffer full."""

    def __init__(self, fd: int = 1) -> None:
        self.dropped = 0
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether the next line would be dropped."""
        return self._size >= BUFFER_BYTES

    def write(self, record: dict[str, Any]) -> None:
        """Queue one record."""
        if self.full:
            self.dropped += 1
            return
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str).encode(errors="replace")
        with self._wake:
            self._lines.append(line + b"\n")
            self._size += len(line) + 1
            self._wake.notify()

    def close(self, seconds: float = 2.0) -> None:
        """Write what is queued, for so long at most, and end."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._lines and not self._closing:
                    self._wake.wait()
                if not self._lines:
                    return
                data = b"".join(self._lines)
                self._lines.clear()
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(self._fd, view[: 1024 * 1024]) :]
                except OSError:
                    break  # nobody reads the log any more: the children run on
            with self._wake:
                self._size -= len(data)


def now() -> str:
    """RFC 3339 with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class JsonHandler(logging.Handler):
    """The agent's own log records, as JSON lines with hub and member."""

    def __init__(self, sink: LogSink, hub: str, member: str) -> None:
        super().__init__()
        self._sink, self._common = sink, {"hub": hub, "member": member}

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; an exception's traceback is the field ``trace``."""
        line = {"time": now(), "level": record.levelname.lower(), **self._common, "logger": record.name}
        if child := getattr(record, "child", None):
            line["child"] = child
        line["message"] = record.getMessage()
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        self._sink.write(line)


class PlainHandler(logging.StreamHandler[Any]):
    """Readable lines for a terminal."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))


def pipe_reader(
    loop: asyncio.AbstractEventLoop, sink: LogSink, take: Callable[[str], dict[str, Any]]
) -> tuple[int, Callable[[], None]]:
    """A pipe whose lines go to the log as ``take(line)``.

    Returns the write end, which the caller hands to a process, and a function that ends the reading after taking
    what is there: to be called when the process's tree is gone.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    rest = b""
    closed = False

    def flush(data: bytes) -> None:
        nonlocal rest
        if sink.full:
            sink.dropped += data.count(b"\n")
            rest = b""
            return
        *lines, rest = (rest + data).split(b"\n")
        while len(rest) >= LINE_MAX:
            lines.append(rest[:LINE_MAX])
            rest = rest[LINE_MAX:]
        for line in lines:
            for at in range(0, len(line), LINE_MAX) or (0,):
                sink.write(take(line[at : at + LINE_MAX].decode(errors="replace")))

    def read() -> bool:
        try:
            data = os.read(read_end, _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            flush(data)
            return True
        close()
        return False

    def close() -> None:
        nonlocal closed
        if not closed:
            closed = True
            loop.remove_reader(read_end)
            os.close(read_end)
            if rest:
                flush(b"\n")

    def finish() -> None:
        # A pipe holds 64 KiB (1 MiB at most): a few reads empty it; somebody else may still hold the other end.
        for _ in range(16):
            if closed or not read():
                break
        close()

    loop.add_reader(read_end, read)
    return write_end, finish
