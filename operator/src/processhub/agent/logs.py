"""The member's log: JSON lines on stdout, from the agent and from its children.

No caller waits: lines pass to a thread through a bounded buffer. If the container's log is read too slowly, or children
write more than 8 MiB a second, new lines are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Any

from processhub.cluster.timestamps import now_micros

BUFFER_BYTES = 8 * 1024 * 1024
BYTES_PER_SECOND = 8 * 1024 * 1024  # more would cost the agent too much CPU and the node too much disk


class LogSink:
    """Writes lines to a descriptor on its own thread. ``dropped`` counts the lines for which there was no room."""

    def __init__(self, fd: int = 1) -> None:
        self.dropped = 0
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._allowance = float(BUFFER_BYTES)
        self._refilled = time.monotonic()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether lines of children would be dropped now."""
        time_ = time.monotonic()
        self._allowance = min(BUFFER_BYTES, self._allowance + (time_ - self._refilled) * BYTES_PER_SECOND)
        self._refilled = time_
        return self._allowance <= 0 or self._size >= BUFFER_BYTES

    def write_lines(self, lines: list[bytes]) -> None:
        """Queue lines of children, encoded and with their line ends."""
        if not lines:
            return
        if self.full:
            self.dropped += len(lines)
            return
        data = b"".join(lines)
        self._allowance -= len(data)
        self._queue(data)

    def write(self, record: dict[str, Any]) -> None:
        """Queue one record of the agent itself. The limit for children's lines does not apply to it."""
        if self._size >= 2 * BUFFER_BYTES:
            self.dropped += 1
            return
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str).encode(errors="replace")
        self._queue(line + b"\n")

    def _queue(self, data: bytes) -> None:
        with self._wake:
            self._lines.append(data)
            self._size += len(data)
            self._wake.notify()

    def close(self, seconds: float = 2.0) -> None:
        """Write what is queued, for ``seconds`` at most, and end the thread."""
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
                    break  # the log's reader has gone: the children run on
            with self._wake:
                self._size -= len(data)


class JsonHandler(logging.Handler):
    """Writes the agent's own log records as JSON lines, with hub and member."""

    def __init__(self, sink: LogSink, hub: str, member: str) -> None:
        super().__init__()
        self._sink, self._common = sink, {"hub": hub, "member": member}

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. The traceback of an exception is in the field ``trace``."""
        line = {"time": now_micros(), "level": record.levelname.lower(), **self._common, "logger": record.name}
        if child := getattr(record, "child", None):
            line["child"] = child
        line["message"] = record.getMessage()
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        self._sink.write(line)


class PlainHandler(logging.StreamHandler[Any]):
    """Writes readable lines for a terminal."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
