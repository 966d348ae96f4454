"""The memory that processes of this machine have used."""

from __future__ import annotations

import re
from pathlib import Path

from bench.lab import BenchError

_HIGHEST = re.compile(r"^VmHWM:\s+(\d+) kB$", re.M)


def highest_rss(pid: int) -> float:
    """The most memory that a process has had, in MiB. Raises BenchError."""
    found = _HIGHEST.search(Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise BenchError(f"/proc/{pid}/status has no VmHWM")
    return int(found[1]) / 1024
