"""Runs a command inside a running container: ``main pid`` and the command as arguments. For exec probes and hooks.

Standard library only, like the shim.
"""

# Importing pathlib would take longer than the rest of this program.
# ruff: noqa: PTH115
from __future__ import annotations

import os
import sys

from localcluster.kubelet import syscalls


def main() -> None:
    """Join the container's mount tree and become the command; exit code 126 if that fails."""
    pid, argv = sys.argv[1], sys.argv[2:]
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
        environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
        root = os.open(f"/proc/{pid}/root", os.O_PATH)
        cwd = os.open(f"/proc/{pid}/cwd", os.O_PATH)
        kinds = {"user": syscalls.CLONE_NEWUSER, "mnt": syscalls.CLONE_NEWNS, "uts": syscalls.CLONE_NEWUTS}
        others = [
            kind for kind in kinds if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        ]
        handles = [(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY), kinds[kind]) for kind in others]
        for fd, kind in handles:
            syscalls.setns(fd, kind)
        if others:
            os.fchdir(root)
            os.chroot(".")
        os.fchdir(cwd)
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - the pod's own command
    except OSError as error:
        sys.stderr.write(f"{argv[:1]}: {error}\n")
        sys.exit(126)
