"""Whether this checkout can be set up in its folder: ``python -m localcluster.place`` prints the reason if it can't.

Standard library only: ``make setup`` runs this before anything is installed.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from localcluster.layout import CHECKOUT

_OLDEST = (3, 11)
_WRITTEN = ("", "operator/src", ".venv", ".local")  # written by setup and by a cluster, if they exist


def obstacle(checkout: Path) -> str:
    """The reason why nothing can be set up in ``checkout``, in one sentence; empty if it can."""
    # Colons separate folders in PATH and PYTHONPATH, and can't be escaped.
    if any(sign in str(checkout) for sign in ":\n\r"):
        return (
            f"{str(checkout)!r} has a colon or a line break in it, which no folder on PATH can have; move the checkout"
        )
    try:
        str(checkout).encode()
    except UnicodeEncodeError:
        return f"{str(checkout)!r} is not UTF-8, which Kubernetes' objects are; move or rename the checkout"
    flags = os.statvfs(checkout).f_flag
    if flags & os.ST_RDONLY:
        return f"{checkout} is on a file system that is mounted read-only; {_CLONE}"
    if flags & os.ST_NOEXEC:
        return f"{checkout} is on a file system that is mounted noexec, so that no program runs from it; {_CLONE}"
    for folder in (checkout / name for name in _WRITTEN):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            return f"{folder}, which belongs to {_owner(folder)}, can't be written by {_user(os.geteuid())}; {_CLONE}"
    return ""


_CLONE = "clone the repository into another folder"


def _owner(folder: Path) -> str:
    return _user(folder.stat().st_uid)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def main() -> int:
    """The command line."""
    if sys.version_info < _OLDEST:
        problem = f"Python {_OLDEST[0]}.{_OLDEST[1]} or later is needed, this is {sys.version.split()[0]}; set PYTHON="
    elif sys.platform != "linux":
        problem = f"Linux is needed, this is {sys.platform}"
    else:
        problem = obstacle(CHECKOUT)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
