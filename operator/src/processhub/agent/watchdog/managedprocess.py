"""One process that the watchdog manages, with all processes below it."""

from __future__ import annotations

import errno
import os
import signal


class ManagedProcess:
    """A main process and its tree. It counts as ended only when nothing of the tree is left."""

    def __init__(self, key: str, pid: int, report: int, stop_signal: int, *, main_alone: bool, began: int) -> None:
        self.key, self.pid, self.stop_signal = key, pid, stop_signal
        self.main_alone = main_alone  # signals other than SIGKILL go to the main process and not to the group
        self.report = report  # read end of the launch pipe until the exec's outcome is known, then -1
        self.failure = ""  # "<what> <errno> <text>" of a failed exec
        self.status: int | None = None  # the main process's exit code (negative: signal) once it is reaped
        self.fenced = False
        self.began = began  # clock ticks after the machine's start
        # What it used, and the limit (bytes), if it is ended because the container was running out of memory.
        self.over_memory: tuple[int, int] | None = None
        self.reported_stuck = False  # whether the agent knows that the kernel refuses a signal
        self.kill_at = 0.0  # CLOCK_BOOTTIME seconds at which SIGKILL follows a stop signal; 0: not stopping

    def signal(self, signum: int) -> bool:
        """Signal the process group, or the main process alone; return whether the kernel allowed it.

        If it is gone, nothing happens. The kernel refuses (EPERM) if all processes of the group have changed to another
        user, as with gosu or setpriv, and the watchdog does not have CAP_KILL.
        """
        if self.status is not None:
            return True  # the main process is reaped: its number may be another's by now
        alone = self.main_alone and signum != signal.SIGKILL
        # Between fork and setsid the group does not exist yet; the process does.
        for send in (os.kill,) if alone else (os.killpg, os.kill):
            try:
                send(self.pid, signum)
                return True
            except ProcessLookupError:
                continue
            except PermissionError:
                return False
        return True

    def group_gone(self) -> bool:
        """Whether no process of the group is left. Call this only after the main process is reaped."""
        try:
            os.killpg(self.pid, 0)
        except OSError as error:
            return error.errno == errno.ESRCH
        return False
