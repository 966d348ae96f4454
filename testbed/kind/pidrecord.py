"""A process that one run starts and a later run ends, known by pid and start time: a recycled pid is never hit."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PidRecord:
    """A process of this boot."""

    pid: int
    started: int  # clock ticks after boot, field 22 of /proc/<pid>/stat

    @classmethod
    def of(cls, pid: int) -> PidRecord:
        """The record of a process that is this process's child, so that its pid can't be recycled yet.

        Raises ProcessLookupError if there is none.
        """
        started = _started(pid)
        if started is None:
            raise ProcessLookupError(pid)
        return cls(pid, started)

    def alive(self) -> bool:
        """Whether the recorded process is running."""
        return _started(self.pid) == self.started

    def end(self, grace: float) -> bool:
        """Send TERM, then KILL after ``grace`` seconds; False if the process had ended before.

        Raises TimeoutError if it outlives SIGKILL by five seconds.
        """
        try:
            held = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # The check comes after the pidfd, so that the checked process gets the signal.
            if not self.alive():
                return False
            for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
                signal.pidfd_send_signal(held, number)
                if select.select([held], [], [], wait)[0]:
                    return True
        except ProcessLookupError:  # it ended between the check and the signal
            return True
        finally:
            os.close(held)
        raise TimeoutError(f"process {self.pid} outlives SIGKILL")


def start_time(stat: str) -> int:
    """Field 22 of a /proc/<pid>/stat line; the command's name before it may contain spaces and parentheses."""
    return int(stat.rpartition(")")[2].split()[19])


def runs(pid: int, name: str) -> bool:
    """Whether process ``pid`` is running (not a zombie) and has that name."""
    stat = _stat(pid)
    return stat is not None and stat.partition("(")[2].rpartition(")")[0] == name


def _started(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else start_time(stat)


def _stat(pid: int) -> str | None:
    """The /proc/<pid>/stat line of a running process; None if there is none or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat.rpartition(")")[2].split()[0] in ("Z", "X") else stat
