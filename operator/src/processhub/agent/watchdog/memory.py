"""The guard of the container's memory: the process that uses most is ended before the kernel ends the container.

On cgroup v2 a container that exceeds its limit is ended with all of its processes (memory.oom.group). So one child that
takes all of the memory would end its siblings and the agent, and nothing would say which child it was. The guard reads
how much is used more often the less is left. The caches of files and of their names do not count, as the kernel takes
them back by itself. A child that takes the rest between two looks still ends the container.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from processhub.agent.watchdog.linux import resident_pages

CGROUP = "/sys/fs/cgroup"  # of the container, as it sees it
_RESERVE, _LEAST_RESERVE = 0.05, 8 * 2**20  # of the limit, and bytes at least: so much is kept free
_FASTEST = 2**30  # bytes a second: nothing is taken to use up memory faster
_SOONEST_SECONDS, _LATEST_SECONDS = 0.02, 0.25  # between two looks
_PAGE = os.sysconf("SC_PAGE_SIZE")
# What the kernel takes back before it ends a container. The last is of the names of files that were looked up.
_CACHES = ("active_file", "inactive_file", "slab_reclaimable")


class MemoryGuard:
    """What the container uses of its memory. Without a limit, or on cgroup v1, there is nothing to guard."""

    def __init__(self, folder: str | os.PathLike[str] = "") -> None:
        self._folder = folder or CGROUP
        self.limit = self._number("memory.max")  # bytes, 0: none
        self.next_look = 0.0  # CLOCK_BOOTTIME seconds

    def is_short(self, now: float) -> bool:
        """Look, and return whether less than the reserve is free. ``now``: CLOCK_BOOTTIME seconds."""
        if text := self._text("memory.max"):  # It may be changed while the container runs.
            self.limit = _number(text)
        free = self.limit - self._number("memory.current")
        reserve = max(_LEAST_RESERVE, int(self.limit * _RESERVE))
        if free < reserve:
            free += self._caches()
        until_short = max(0, free - reserve) / _FASTEST
        self.next_look = now + min(_LATEST_SECONDS, max(_SOONEST_SECONDS, until_short))
        return self.limit > 0 and free < reserve

    def settle(self, now: float) -> None:
        """Look no sooner than the kernel has taken back what a process that ended ``now`` has used."""
        self.next_look = now + _LATEST_SECONDS

    def _caches(self) -> int:
        fields = (line.partition(" ") for line in self._text("memory.stat").splitlines())
        return sum(_number(value) for name, _, value in fields if name in _CACHES)

    def _number(self, name: str) -> int:
        return _number(self._text(name))

    def _text(self, name: str) -> str:
        try:
            with open(f"{self._folder}/{name}") as file:
                return file.read()
        except OSError:
            return ""


def _number(text: str) -> int:
    """The number, or 0 for the word ``max`` and for what can't be read: the watchdog must not end because of it."""
    return int(text) if text.strip().isdecimal() else 0


def memory_of(roots: Iterable[int]) -> dict[int, int]:
    """The bytes in memory of each of these processes and all that is below it."""
    return {pid: pages * _PAGE for pid, pages in resident_pages(roots).items()}
