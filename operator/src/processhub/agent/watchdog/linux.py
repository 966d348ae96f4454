"""Linux calls that Python's standard library lacks, and the process tree as /proc shows it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import time
from collections.abc import Container, Iterable, Mapping

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PF_FORKNOEXEC = 0x40  # kernel flag of a process that was forked and has not called exec since
# Positions in /proc/<pid>/stat, counted from behind the name.
_STATE, _PARENT, _SESSION, _FLAGS, _THREADS, _BEGAN, _RESIDENT = 0, 1, 3, 6, 17, 19, 21
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_REFUSED_SECONDS = 0.1  # A process that can't be ended for so long is not waited for.

libc = ctypes.PyDLL(None, use_errno=True)  # Nothing called here blocks, so other threads need not run meanwhile.


def boottime() -> float:
    """The seconds of CLOCK_BOOTTIME, a monotonic clock that also counts the time in which the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _prctl(option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def set_death_signal(signum: int) -> None:
    """Have the kernel send ``signum`` to this process when its parent (thread) ends.

    An exec keeps this setting, a fork does not.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)


def become_subreaper() -> None:
    """Make this process the parent of orphans among its descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


class BootTimer:
    """A timer descriptor on CLOCK_BOOTTIME. It is readable once the set time has passed, even over a suspend."""

    def __init__(self) -> None:
        self.fd = libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def set(self, at: float) -> None:
        """Set the timer to ``at`` (seconds of CLOCK_BOOTTIME); 0 disarms it."""
        seconds, fraction = divmod(at, 1.0)
        value = struct.pack("qqqq", 0, 0, int(seconds), int(fraction * 1e9))
        if libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, value, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def acknowledge(self) -> None:
        """Make the descriptor unreadable until the next expiry."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)


def own_children(skip: Container[int]) -> dict[int, str]:
    """The direct children of this process, without those in ``skip``, as ``{pid: state letter}``.

    Most kernels list a process's children in one file. Without that file (CONFIG_PROC_CHILDREN), all of /proc is read,
    which takes some 10 µs for each process of the machine. Raises OSError, as where no descriptors are left.
    """
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            pids = file.read().split()
    except FileNotFoundError:
        found = ((pid, _stat(pid)) for pid in all_pids() if pid not in skip)
        return {pid: state for pid, (state, parent) in found if parent == me}
    return {pid: _stat(pid)[0] for pid in map(int, pids) if pid not in skip}


def all_pids() -> list[int]:
    """The number of each process that /proc shows. Raises OSError, as where no descriptors are left."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 a Path for each would be slow


def below(parents: Mapping[int, int], roots: Iterable[int]) -> list[int]:
    """The ``roots`` and all that is below them, parents first; ``parents`` has the parent of each process, by pid."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found = list(roots)
    for pid in found:  # which grows meanwhile
        found += children.get(pid, ())
    return found


def descendants(roots: Iterable[int]) -> list[int]:
    """All live processes in and below ``roots``, whatever their session or group, parents first."""
    return below({pid: _stat(pid)[1] for pid in all_pids()}, roots)


def resident_pages(roots: Iterable[int]) -> dict[int, int]:
    """The pages in memory of each of these processes and all that is below it."""
    found = {}
    for pid in all_pids():
        if fields := _fields(pid):
            found[pid] = int(fields[_PARENT]), int(fields[_RESIDENT])
    sums = dict.fromkeys(roots, 0)
    for pid, (_, pages) in found.items():
        above = pid
        while above in found and above not in sums:
            above = found[above][0]
        if above in sums:
            sums[above] += pages
    return sums


def end_all(seconds: float) -> None:
    """Send SIGKILL to every process below this one until none is left, for ``seconds`` at most.

    None is left when the kernel reports that there is no child (ECHILD). A list of children would not prove it: when a
    child ends while the list is read, its orphans are not on it. Processes of another user that the kernel refuses to
    end are not waited for: they end with the container.
    """
    deadline, refused_since = boottime() + seconds, 0.0
    while _reap() and boottime() < deadline:
        refused: list[bool] = []
        with contextlib.suppress(OSError):  # The machine may have a descriptor again before the deadline.
            # A list and not a generator: each of them gets its signal.
            refused = [not kill(pid) for pid in descendants(own_children(()))]
        if not refused or not all(refused):
            refused_since = 0.0
        elif not refused_since:
            refused_since = boottime()
        elif boottime() - refused_since > _REFUSED_SECONDS:
            return
        time.sleep(0.005)


def kill(pid: int) -> bool:
    """SIGKILL to the process; returns whether the kernel allowed it, which it does where the process is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _reap() -> bool:
    """Reap the children that have ended; returns whether others are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def reap_others(than: int) -> None:
    """Reap the children that have ended, up to that one, whose end somebody else waits for."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != than:
            os.waitpid(ended.si_pid, 0)


def _stat(pid: int) -> tuple[str, int]:
    """State letter and parent of a process; ``("X", 0)`` if it does not exist, Z only if all its threads have ended."""
    fields = _fields(pid)
    if not fields:
        return "X", 0
    # A process whose first thread has ended looks like a zombie while other threads run.
    state = "S" if fields[_STATE] == b"Z" and int(fields[_THREADS]) > 1 else fields[_STATE].decode()
    return state, int(fields[_PARENT])


def _fields(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat after the name; empty if the process does not exist."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return []
    try:
        # The name in parentheses may contain any characters, blanks and parentheses included.
        return os.read(fd, 512).rpartition(b")")[2].split()
    except OSError:
        return []
    finally:
        os.close(fd)


def session_of(pid: int) -> int:
    """The id of the process's session, 0 where the process is gone."""
    fields = _fields(pid)
    return int(fields[_SESSION]) if fields else 0


def began(pid: int) -> int:
    """When the process began, in clock ticks after the machine's start; 0 where it is gone."""
    fields = _fields(pid)
    return int(fields[_BEGAN]) if fields else 0


def user_of(pid: int) -> int | None:
    """The user id that the process runs as, None where the process is gone."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 as above
    return None


def has_become(pid: int) -> bool:
    """Whether a forked process has called exec. It may have ended, but must not have been reaped."""
    fields = _fields(pid)
    return bool(fields) and not int(fields[_FLAGS]) & _PF_FORKNOEXEC


def environment_value(pid: int, name: str) -> str | None:
    """A variable of the environment that a process was started with; None if it is not set or can't be read."""
    prefix = name.encode() + b"="
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 names only, as above; the first thread may have ended
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/environ", "rb") as file:
                for item in file.read().split(b"\0"):
                    if item.startswith(prefix):
                        return item[len(prefix) :].decode(errors="replace")
    return None
