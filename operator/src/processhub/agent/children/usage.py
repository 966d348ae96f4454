"""The CPU and memory usage of the children's processes, read from /proc at intervals on a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from processhub.agent.listeners import Listeners
from processhub.agent.watchdog.linux import all_pids, below, boottime
from processhub.api.usage import Usage

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARE = 100  # reading takes at most one part in this many of the time
_STEP_CPU, _STEP_MEMORY = 20, 8  # thousandths of a core, MiB: smaller differences are not reported
_FIRST_SECONDS = 1.0

log = logging.getLogger(__name__)
Process = tuple[int, int, int, int]  # parent, start time, CPU (clock ticks), memory (pages)


class Meter:
    """Measures the usage of all processes below ``root``; pod children are not included.

    ``interval()`` is the seconds to wait between two readings. ``children()`` is the number of children that run.
    ``spare()`` is the pid of a process below ``root`` that runs no child yet, or 0. ``measured`` notifies of each
    reading, on the meter's own thread.
    """

    def __init__(
        self, root: int, interval: Callable[[], float], children: Callable[[], int], spare: Callable[[], int] = int
    ) -> None:
        self.measured: Listeners[Usage] = Listeners()
        self._root, self._interval, self._children, self._spare = root, interval, children, spare
        self._before: dict[tuple[int, int], int] = {}
        self._at = boottime()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        """Start the readings."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the readings."""
        self._stop.set()

    def _run(self) -> None:
        rest, fails = _FIRST_SECONDS, False
        while not self._stop.wait(rest):
            began = boottime()
            try:
                self.measured.notify(self.read(processes(), began))
                fails = False
            except OSError as error:  # such as no descriptors left
                if not fails:
                    log.warning("the usage of children can't be measured: %s; retrying", error.strerror)
                fails = True
            rest = max(self._interval(), (boottime() - began) * _SHARE)

    def read(self, found: dict[int, Process], now: float) -> Usage:
        """The usage since the previous reading; ``found`` is every process by pid, ``now`` the time in seconds."""
        _, *pids = below({pid: process[0] for pid, process in found.items()}, (self._root,))
        spare = self._spare()
        ticks = {(pid, found[pid][1]): found[pid][2] for pid in pids}
        used = sum(max(0, value - self._before.get(key, 0)) for key, value in ticks.items() if key[0] != spare)
        seconds = max(0.001, now - self._at)
        self._before, self._at = ticks, now
        memory = sum(found[pid][3] for pid in pids if pid != spare) * _PAGE / 2**20
        return Usage(
            cpu=rounded(1000 * used / _TICKS / seconds, _STEP_CPU),
            memory=rounded(memory, _STEP_MEMORY),
            children=self._children(),
        )


def processes() -> dict[int, Process]:
    """All processes that /proc shows, by pid. Raises OSError if they can't be read now."""
    found = {}
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is another user's
        found[pid] = (int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]))
    return found


def rounded(value: float, step: int) -> int:
    """``value`` rounded to two digits, or to multiples of ``step`` if those are coarser.

    For example, with a step of 8: 61 becomes 64, 123 becomes 120, and 1234 becomes 1200.
    """
    digit = int("1".ljust(len(str(int(value))) - 1, "0"))
    unit = max(step, digit)
    return int(value / unit + 0.5) * unit
