"""HUB_HANDOVER_FILE: the file in which an exec child finds the state that it starts with, and leaves its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from processhub.agent.peers.statesender import Content


class HandoverFile:
    """The file of one run, and the ``state`` that the run starts with, if any.

    A run that has read the state in it, and is killed or crashes before it has left its own, leaves none. It has been
    up with the state that is still there, which is older than the child (docs/protocol.md, rule 20).
    """

    def __init__(self, path: Path, state: Content | None) -> None:
        self._path, self._state = path, state
        self._given: os.stat_result | None = None

    def give(self) -> None:
        """Write the state that the run starts with. Raises OSError."""
        self._path.unlink(missing_ok=True)
        if self._state is None:
            return
        if isinstance(self._state, bytes):
            self._path.write_bytes(self._state)
        else:
            shutil.copyfile(self._state, self._path)
        # Where a file system notes reads at all, it notes the first one after this time.
        os.utime(self._path, ns=(0, self._path.stat().st_mtime_ns))
        self._given = self._path.stat()

    def take(self, target: Path) -> None:
        """Move the state that the run has left, if any, to the target. Raises OSError."""
        if self._path.exists() and not self._is_taken_up():
            shutil.move(self._path, target)

    def _is_taken_up(self) -> bool:
        """Whether the file is as it was given, and was read since."""
        given, now = self._given, self._path.stat()
        if given is None or (now.st_ino, now.st_mtime_ns) != (given.st_ino, given.st_mtime_ns):
            return False
        return now.st_atime_ns != given.st_atime_ns
