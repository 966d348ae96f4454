"""The memory and the CPU time that processes of this machine have used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bench.lab import BenchError

_OWN = re.compile(r"^Pss_Anon:\s+(\d+) kB$", re.M)
_FILES = re.compile(r"^RssFile:\s+(\d+) kB$", re.M)
_HIGHEST = re.compile(r"^VmHWM:\s+(\d+) kB$", re.M)


def highest_rss(pid: int) -> float:
    """The most memory that a process has had, in MiB. Raises BenchError."""
    found = _HIGHEST.search(Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise BenchError(f"/proc/{pid}/status has no VmHWM")
    return int(found[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """The CPU seconds of a process, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pids: Iterable[int]) -> float:
    """The memory of processes of one container, in MiB: their own, and once the files that they have in common.

    The files count as in the process that has most of them. That others on this machine have them too changes nothing.
    """
    own = files = 0
    for pid in pids:
        try:
            rollup, status = Path(f"/proc/{pid}/smaps_rollup").read_text(), Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        own += _number(_OWN, rollup)
        files = max(files, _number(_FILES, status))
    return (own + files) / 1024


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1]) if found is not None else 0
