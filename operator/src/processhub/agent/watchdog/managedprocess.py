"""One process that the watchdog manages, with all processes below it."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass


@dataclass
class ManagedProcess:
    """A main process and its tree. It counts as ended only when nothing of the tree is left."""

    key: str
    pid: int
    stop_signal: int
    report: int = -1  # read end of the launch pipe until the exec's outcome is known
    failure: str = ""  # "<what> <errno> <text>" of a failed exec
    status: int | None = None  # the main process's exit code (negative: signal) once it is reaped
    fenced: bool = False
    kill_at: float = 0.0  # CLOCK_BOOTTIME seconds at which SIGKILL follows a stop signal; 0: not stopping

    def signal(self, signum: int) -> None:
        """Send a signal to the process group, if it still exists."""
        if self.status is not None:
            return  # the main process is reaped: another process may have its number by now
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            # Between fork and setsid the group does not exist yet; the process does.
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL to the process group."""
        self.signal(signal.SIGKILL)

    def group_gone(self) -> bool:
        """Whether no process of the group is left. Call this only after the main process is reaped."""
        try:
            os.killpg(self.pid, 0)
        except OSError as error:
            return error.errno == errno.ESRCH
        return False
