"""Commands whose mounts and processes end with them: each runs in separate mount and process namespaces."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from kind.layout import KindError

# The first has the kernel kill the command when this process ends, however it ends; then its namespaces go too.
_ISOLATED = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def run(command: Sequence[str | Path], what: str) -> None:
    """Run ``command`` as root in such namespaces. Raises KindError with its last lines and the job's name ``what``."""
    _checked([*_ISOLATED, *map(str, command)], what)


def in_root(root: Path, *command: str) -> str:
    """Run a command of the file tree ``root`` in that tree; returns its output. Raises KindError."""
    return _checked(["chroot", str(root), *command], command[0])


def _checked(command: list[str], what: str) -> str:
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        said = "\n".join((answer.stdout + answer.stderr).splitlines()[-15:])
        raise KindError(f"{what} failed with code {answer.returncode}:\n{said}")
    return answer.stdout
