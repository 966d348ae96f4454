"""Watches the processes of one namespace's children on this machine, and notices when two processes have one id.

The process of an exec child has its id in its environment. The watch holds a pidfd of each process from the moment it
finds it, so it sees the exact end; the kernel records the start. Two processes of one id overlap if the older one was
seen alive after the younger one had started.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

_TICK = os.sysconf("SC_CLK_TCK")
_YOUNG_SECONDS = 5.0  # a process may execute a child's program this long after its start
_PAUSE_SECONDS = 0.03
_LATER = 0.5  # a young process is checked again after this share of its age: most execute a program at once


@dataclass
class Run:
    """One process of a child. Times are CLOCK_BOOTTIME seconds; at ``seen`` it was last known to be alive."""

    id: str
    hub: str
    member: str
    epoch: int
    pid: int
    started: float
    seen: float
    ended: bool = False
    fd: int = field(default=-1, repr=False)


class ProcessWatch:
    """Scans /proc in its own thread from ``start`` to ``stop``; all methods may be called at any time."""

    def __init__(self, namespace: str) -> None:
        self._mark = f"HUB_NAMESPACE={namespace}".encode()
        self._lock = threading.Lock()
        self._runs: list[Run] = []
        self._namesakes: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
        self._live: dict[int, Run] = {}  # by pidfd
        self._pids: dict[int, Run] = {}
        self._foreign: set[int] = set()
        self._young: dict[int, float] = {}  # when each is checked again
        self._overlaps: dict[tuple[int, int], tuple[Run, Run]] = {}
        self._poll = select.epoll()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process watch", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        for run in self._live.values():
            os.close(run.fd)
        self._live.clear()
        self._poll.close()

    def live(self, hub: str = "hub") -> dict[str, list[Run]]:
        """Return the live processes, by id."""
        self._scan(whole=True)
        return self._by_id(hub, live=True)

    def runs(self, hub: str = "hub") -> dict[str, list[Run]]:
        """Return all processes that were ever seen, by id."""
        self._scan(whole=True)
        return self._by_id(hub, live=False)

    def overlaps(self) -> list[tuple[Run, Run]]:
        """Return the pairs of processes of one id that were alive at the same time."""
        self._scan(whole=True)
        with self._lock:
            return list(self._overlaps.values())

    def _by_id(self, hub: str, *, live: bool) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = {}
        with self._lock:
            for run in self._runs:
                if run.hub == hub and not (live and run.ended):
                    found.setdefault(run.id, []).append(run)
        return found

    def _watch(self) -> None:
        while not self._ending.is_set():
            self._scan(whole=False)
            self._ending.wait(_PAUSE_SECONDS)

    def _scan(self, *, whole: bool) -> None:
        with self._lock:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            if self._live:
                for fd, _ in self._poll.poll(0, maxevents=len(self._live)):
                    run = self._live.pop(fd)
                    run.ended = True
                    del self._pids[run.pid]
                    # Closing alone leaves it in the poll while a process that is being forked has a copy.
                    self._poll.unregister(fd)
                    os.close(fd)
            for run in self._live.values():
                run.seen = now
            entries = {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()}  # noqa: PTH208 faster
            self._foreign &= entries
            for pid in self._young.keys() - entries:
                del self._young[pid]
            for pid in entries - self._foreign - self._pids.keys():
                if whole or now >= self._young.get(pid, 0.0):
                    self._look(pid, now)

    def _look(self, pid: int, now: float) -> None:
        if pid in self._pids:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            os.close(fd)
            return
        started, parent = int(fields[19]) / _TICK, int(fields[1])
        values = dict(word.decode(errors="replace").partition("=")[::2] for word in words)
        if self._mark not in words or "HUB_CHILD_ID" not in values or fields[0] in b"ZX":
            os.close(fd)
            if now - started > _YOUNG_SECONDS:
                self._foreign.add(pid)
                self._young.pop(pid, None)
            else:
                self._young[pid] = now + _LATER * (now - started)
            return
        if parent not in self._foreign:
            self._look(parent, now)  # its environment may be newer than this check
        above = self._pids.get(parent)
        if above is not None and above.id == values["HUB_CHILD_ID"]:
            os.close(fd)
            return  # a descendant of a child
        run = Run(
            id=values["HUB_CHILD_ID"],
            hub=values["HUB_NAME"],
            member=values["HUB_MEMBER"],
            epoch=int(values["HUB_EPOCH"]),
            pid=pid,
            started=started,
            seen=now,
            fd=fd,
        )
        self._compare(run)
        self._runs.append(run)
        self._namesakes[run.hub, run.id].append(run)
        self._live[fd] = self._pids[pid] = run  # type: ignore[assignment]
        self._young.pop(pid, None)
        self._poll.register(fd, select.EPOLLIN)

    def _compare(self, run: Run) -> None:
        """Record an overlap if another process of this id was alive when this one started, or if both are alive now."""
        for other in self._namesakes[run.hub, run.id]:
            both_now = not other.ended and not select.select([other.fd], [], [], 0)[0]
            later = max(other.started, run.started) + 1 / _TICK
            if both_now or later < min(other.seen, run.seen):
                self._overlaps[other.pid, run.pid] = (other, run)
