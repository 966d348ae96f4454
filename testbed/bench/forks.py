"""The floor of the starts of exec children: the bare fork and exec of as many ``sleep``, by one loop.

As a program of its own, ``forks.py COUNT``, it prints the seconds until the last has executed: a fork copies the tables
of its process's memory, and the benchmarks' process has a lot.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time


def bare_starts(count: int) -> float:
    """The seconds of ``count`` forks and execs."""
    command = [sys.executable, "-S", "-E", __file__, str(count)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _start(count: int) -> float:
    program = shutil.which("sleep") or "/bin/sleep"
    executed, held = os.pipe()  # each fork holds the other end until its exec
    begun = time.perf_counter()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.execv(program, ["sleep", "infinity"])  # noqa: S606 no shell
        pids.append(pid)
    os.close(held)
    os.read(executed, 1)
    took = time.perf_counter() - begun
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return took


if __name__ == "__main__":
    print(_start(int(sys.argv[1])))
