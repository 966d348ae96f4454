"""The Debian packages that Docker and the node image need: reported if they are missing, installed on request."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from kind.layout import KindError

_PACKAGE_OF = {"docker": "docker.io", "dockerd": "docker.io"}  # of other commands the name of the package
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # root's folders, often not on a user's PATH


def find(command: str) -> str | None:
    """The command's path; None if it isn't installed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_FOLDERS))
    return shutil.which(command, path=path)


def ensure(commands: Sequence[str], *, install: bool) -> None:
    """Ensure that these commands exist, installing their packages if ``install``.

    Raises KindError with the apt-get command if they are missing and may not or can't be installed.
    """
    missing = packages([command for command in commands if find(command) is None])
    if not missing:
        return
    names = " ".join(missing)
    by_hand = f"apt-get install --no-install-recommends {names}"
    if find("apt-get") is None:
        raise KindError(f"these programs are missing, and this is no Debian to install them on: {names}")
    if not install:
        raise KindError(
            f"these packages are missing: {names}; install them with: {by_hand} "
            "(as root, `make kind-up START_DOCKERD=1` does it)"
        )
    if os.geteuid() != 0:
        raise KindError(f"these packages are missing, and only root can install them: sudo {by_hand}")
    print(f"installing {names}", flush=True)
    install_them = ("install", "--quiet=2", "--yes", "--no-install-recommends", *missing)
    try:
        _apt_get(*install_them)
    except KindError:  # the lists of packages are missing or too old
        _apt_get("update", "--quiet=2")
        _apt_get(*install_them)


def packages(commands: Sequence[str]) -> list[str]:
    """The packages of these commands, each of them once, in order."""
    return list(dict.fromkeys(_PACKAGE_OF.get(command, command) for command in commands))


def _apt_get(*arguments: str) -> None:
    # Runlevel 1 keeps the packages' scripts from starting a dockerd that we would not know of.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    answer = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise KindError(f"apt-get {' '.join(arguments)} failed:\n" + "\n".join(answer.stderr.splitlines()[-10:]))
