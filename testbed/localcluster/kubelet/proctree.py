"""The live descendants of a process, read from /proc. Standard library only: every container's shim imports it."""

# Importing pathlib would take longer than the rest of this program.
# ruff: noqa: PTH208, PTH110
from __future__ import annotations

import os


def descendants(pid: int) -> list[int]:
    """The pids of all live processes below ``pid``, parents before children; sessions and groups do not matter."""
    found: list[int] = []
    todo = [pid]
    while todo:
        for child in _children(todo.pop()):
            found.append(child)
            todo.append(child)
    return found


def state(pid: int) -> str:
    """The process's state letter as in ps (``T`` is stopped); ``X`` if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def _children(pid: int) -> list[int]:
    try:
        children: list[int] = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children.extend(int(word) for word in file.read().split())
        return children
    except (FileNotFoundError, ProcessLookupError):
        # The process has ended, or the kernel has no `children` file (CONFIG_PROC_CHILDREN).
        return _children_by_scan(pid) if os.path.exists(f"/proc/{pid}") else []


def _children_by_scan(pid: int) -> list[int]:
    children: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == pid:
                        children.append(int(name))
            except (OSError, IndexError, ValueError):
                continue
    return children
