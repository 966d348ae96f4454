"""The member's log: JSON lines on stdout, from the agent and from its children.

No caller waits: lines pass to a thread through a bounded buffer. If the container's log is read too slowly, or children
write more than 8 MiB a second, new lines are dropped and counted. Each output has a fair share: the 8 MiB divided by
the number of outputs. Only lines beyond that share are dropped, so a quiet child loses none.
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
from processhub.cluster.tokenbucket import ByteBudget

BUFFER_BYTES = 8 * 1024 * 1024
BYTES_PER_SECOND = 8 * 1024 * 1024  # more would cost the agent too much CPU and the node too much disk


class LogSink:
    """Writes lines to a descriptor on its own thread. ``dropped`` counts the lines for which there was no room."""

    def __init__(self, fd: int = 1) -> None:
        self.dropped = 0
        self._fd = fd
        self._queue: deque[tuple[bytes, LogShare | None]] = deque()
        self._size = 0
        self._budget = ByteBudget(BYTES_PER_SECOND, BUFFER_BYTES)  # for what goes beyond the fair shares
        self._shares = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)
        self._thread.start()

    def share(self) -> LogShare:
        """The fair share of one more output. ``close`` it."""
        self._shares += 1
        return LogShare(self)

    def leave(self) -> None:
        """Divide the share of an output that has ended among the others."""
        self._shares -= 1

    def admit(self, share: LogShare, size: int = 0) -> bool:
        """Whether lines of an output are accepted now; ``size`` bytes are charged to its share or the spare budget."""
        now, count = time.monotonic(), max(1, self._shares)
        share.budget.limit(BYTES_PER_SECOND / count, BUFFER_BYTES / count)
        if share.queued < BUFFER_BYTES / count and share.budget.wait(now) == 0:
            budget = share.budget
        elif self._size < BUFFER_BYTES and self._budget.wait(now) == 0:
            budget = self._budget
        else:
            return False
        budget.spend(now, size)
        return True

    def put(self, data: bytes, share: LogShare | None = None) -> None:
        """Queue encoded lines."""
        with self._wake:
            self._queue.append((data, share))
            self._size += len(data)
            if share is not None:
                share.queued += len(data)
            self._wake.notify()

    def write(self, record: dict[str, Any]) -> None:
        """Queue one record of the agent itself. The limit for children's lines does not apply to it."""
        if self._size >= 3 * BUFFER_BYTES:
            self.dropped += 1
            return
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str).encode(errors="replace")
        self.put(line + b"\n")

    def close(self, seconds: float = 2.0) -> None:
        """Write what is queued, for ``seconds`` at most, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                taken = list(self._queue)
                self._queue.clear()
            view = memoryview(b"".join(data for data, _ in taken))
            while view:
                try:
                    view = view[os.write(self._fd, view[: 1024 * 1024]) :]
                except OSError:
                    break  # the log's reader has gone: the children keep running
            with self._wake:
                for data, share in taken:
                    self._size -= len(data)
                    if share is not None:
                        share.queued -= len(data)


class LogShare:
    """One output's part of the log: what all may write a second, and what may wait, divided by the number of outputs.

    An output may have more while the others leave it.
    """

    def __init__(self, sink: LogSink) -> None:
        self._sink, self._open = sink, True
        self.budget = ByteBudget(BYTES_PER_SECOND, BUFFER_BYTES)
        self.queued = 0  # bytes that wait to be written

    @property
    def full(self) -> bool:
        """Whether lines would be dropped now."""
        return not self._sink.admit(self)

    def write_lines(self, lines: list[bytes]) -> None:
        """Queue lines, encoded and ended; drop and count them where there is no room."""
        if not lines:
            return
        data = b"".join(lines)
        if self._sink.admit(self, len(data)):
            self._sink.put(data, self)
        else:
            self.drop(len(lines))

    def drop(self, lines: int) -> None:
        """Count lines that found no room."""
        self._sink.dropped += lines

    def close(self) -> None:
        """Leave the share to the other outputs."""
        if self._open:
            self._open = False
            self._sink.leave()


class JsonHandler(logging.Handler):
    """Writes the agent's own log records as JSON lines, with hub and member."""

    def __init__(self, sink: LogSink, hub: str, member: str) -> None:
        super().__init__()
        self._sink, self._common = sink, {"hub": hub, "member": member}

    def begin(self) -> None:
        """Write the first line of the container's log, whatever the log level: ``kubectl hub logs`` looks for it."""
        line = {"time": now_micros(), "level": "info", **self._common, "begin": True}
        self._sink.write({**line, "message": "the log of this container begins"})

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
