"""Finds and ends the processes of one cluster, and no others.

Each process that a cluster starts has the cluster's id in its environment, which children inherit. So the processes are
known after an interrupted start too, without pid files. A signal is sent through a pidfd that is opened before the
check, so it never reaches a process with a recycled pid.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARKER = "LOCALCLUSTER_ID"


@dataclass(frozen=True)
class Process:
    """A live process, held by its pidfd so that its pid can't be recycled."""

    pid: int
    fd: int

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)


@contextlib.contextmanager
def marked(identity: str) -> Iterator[list[Process]]:
    """The processes of the cluster ``identity``, without this one and those of other users."""
    found: list[Process] = []
    wanted = f"{MARKER}={identity}".encode()
    try:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                process = _held_if(int(entry.name), wanted)
                if process is not None:
                    found.append(process)
        yield found
    finally:
        for process in found:
            os.close(process.fd)


def _held_if(pid: int, wanted: bytes) -> Process | None:
    """The process if ``wanted`` is in its environment; its pidfd is opened before that check."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # ended meanwhile
        return None
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # ended meanwhile, or another user's
        environment = b""
    if wanted in environment.split(b"\0"):
        return Process(pid, fd)
    os.close(fd)
    return None


def wait_gone(processes: list[Process], seconds: float) -> list[Process]:
    """Wait until all have ended; returns those that had not after ``seconds``."""
    left = {process.fd: process for process in processes}
    poll = select.poll()
    for fd in left:
        poll.register(fd, select.POLLIN)  # a pidfd becomes readable when its process ends
    deadline = time.monotonic() + seconds
    while left and (remaining := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(remaining * 1000):
            poll.unregister(fd)
            del left[fd]
    return list(left.values())


def end_kubelet(identity: str, grace: float) -> None:
    """Send TERM to the process kubelet, which ends its containers; returns then, or after ``grace`` seconds."""
    with marked(identity) as processes:
        kubelets = [process for process in processes if runs_kubelet(process)]
        for process in kubelets:
            process.signal(signal.SIGTERM)
        wait_gone(kubelets, grace)


def runs_kubelet(process: Process) -> bool:
    """Whether the process is the process kubelet itself."""
    try:
        return b"localcluster.kubelet" in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def end_all(identity: str, grace: float) -> int:
    """Send TERM, then KILL, until no process of this cluster is left; returns how many there were.

    Repeats because a process may fork between being listed and being signalled. Raises TimeoutError if some outlive
    SIGKILL (in an uninterruptible system call).
    """
    ended: set[int] = set()
    for number, wait in ((signal.SIGTERM, grace), *((signal.SIGKILL, 2.0),) * 5):
        with marked(identity) as processes:
            if not processes:
                return len(ended)
            ended |= {process.pid for process in processes}
            for process in processes:
                process.signal(number)
            wait_gone(processes, wait)
    with marked(identity) as processes:
        if processes:
            raise TimeoutError(f"these processes outlive SIGKILL: {[process.pid for process in processes]}")
    return len(ended)
