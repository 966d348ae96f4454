"""The output of actors: they share one process and one stdout, so each line is written with the child's id."""

from __future__ import annotations

import contextvars
import io
import json
import os
import threading
from typing import Any

# The actor whose code runs. It is set in the actor's own context, and tasks that the actor starts inherit it.
CURRENT: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar("processhub_child", default=None)

_PART = 2000  # characters; a longer line is written in parts, so that a JSON line stays short


class ChildLines(io.TextIOBase):
    """A text stream that writes ``{"child", "epoch", "stream", "message"}`` lines to a descriptor."""

    encoding = "utf-8"

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._name = fd, name
        self._rests: dict[tuple[str, int] | None, str] = {}
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)  # another thread may have held it

    def _renew_lock(self) -> None:
        # What is collected as garbage may print, at any moment of a write too.
        self._lock = threading.RLock()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor below the stream. Text that is written there directly carries no child."""
        return self._fd

    def write(self, text: str) -> int:
        """Write whole lines. An incomplete line is kept, for each child, until its end is written."""
        child = CURRENT.get()
        with self._lock:
            *lines, rest = (self._rests.pop(child, "") + text).split("\n")
            while len(rest) >= _PART:
                lines.append(rest[:_PART])
                rest = rest[_PART:]
            if rest:
                self._rests[child] = rest
            self._put(child, lines)
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is written as soon as it is complete."""

    def forget(self, child: tuple[str, int]) -> None:
        """Write the incomplete last line of a child that has ended."""
        with self._lock:
            if rest := self._rests.pop(child, ""):
                self._put(child, [rest])

    def _put(self, child: tuple[str, int] | None, lines: list[str]) -> None:
        out = []
        for line in lines:
            for at in range(0, len(line), _PART) or (0,):
                record: dict[str, Any] = {"child": child[0] if child else "", "epoch": child[1] if child else 0}
                record.update(stream=self._name, message=line[at : at + _PART])
                out.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        data = memoryview("".join(out).encode(errors="replace"))  # half of a surrogate pair is no UTF-8
        while data:
            data = data[os.write(self._fd, data) :]
