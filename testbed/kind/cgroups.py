"""Cgroup v1 controllers that the machine leaves unmounted and that have to be mounted while nodes run.

Docker gives a container a separate cgroup in each mounted controller. systemd inside a node mounts the others too,
unscoped and after kind's entrypoint made the kubelet's cgroups, and the kubelet then ends with "missing paths".
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from kind.layout import KindError

_ROOT = Path("/sys/fs/cgroup")


def version_1() -> bool:
    """Whether this machine's controllers are in cgroup v1."""
    return not (_ROOT / "cgroup.controllers").exists()


def unmounted() -> list[str]:
    """The controllers that have to be mounted here; none under cgroup v2."""
    if not version_1():
        return []
    return missing(Path("/proc/cgroups").read_text(), Path("/proc/mounts").read_text())


def missing(controllers: str, mounts: str) -> list[str]:
    """Enabled controllers of /proc/cgroups's text that no cgroup v1 mount of /proc/mounts's text has."""
    mounted: set[str] = set()
    for line in mounts.splitlines():
        _, _, kind, options, *_ = line.split()
        if kind == "cgroup":
            mounted.update(options.split(","))
    rows = [line.split() for line in controllers.splitlines() if not line.startswith("#")]
    return [name for name, _, _, enabled in rows if enabled == "1" and name not in mounted]


def mount(controller: str) -> None:
    """Mount one controller. Raises KindError."""
    folder = _ROOT / controller
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "cgroup", "-o", controller, "cgroup", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise KindError(f"the cgroup controller {controller} can't be mounted: {answer.stderr.strip()}")


def unmount(controller: str) -> None:
    """Undo ``mount``; a controller that something else still uses stays."""
    folder = _ROOT / controller
    if not os.path.ismount(folder):
        _remove(folder)  # an interrupted mount made it
        return
    # Docker's empty cgroups keep the hierarchy busy. rmdir refuses those that hold processes.
    for nested, _, _ in os.walk(folder, topdown=False):
        if nested != str(folder):
            with contextlib.suppress(OSError):
                Path(nested).rmdir()
    if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the mount point, unless somebody has put something there while nothing was mounted."""
    with contextlib.suppress(OSError):
        folder.rmdir()
