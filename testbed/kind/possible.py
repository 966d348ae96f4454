"""``python -m kind.possible``: exit code 0 if `make kind-up START_DOCKERD=1` can work here, else 1 and the reason."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kind import daemon, docker, packages
from kind.docker import Daemon

_CAP_SYS_ADMIN = 21  # linux/capability.h


def why_not() -> str:
    """The reason why Docker can't be used here; empty if it runs or can be started here."""
    state = docker.state()
    if state is Daemon.ANSWERS:
        return ""
    if state is Daemon.FORBIDDEN:
        return "Docker's daemon runs, but this user may not use it"
    if daemon.under_systemd():
        return daemon.START_BY_SYSTEMD
    if os.geteuid() != 0:
        return "Docker's daemon is not running, and only root can start it"
    if not daemon.has_capability(Path("/proc/self/status").read_text(), "CapEff", _CAP_SYS_ADMIN):
        return "Docker's daemon is not running, and without CAP_SYS_ADMIN none can"
    if any(packages.find(program) is None for program in daemon.PROGRAMS) and packages.find("apt-get") is None:
        return "Docker is not installed, and there is no apt-get to install it"
    return ""


def main() -> int:
    """The command line."""
    if reason := why_not():
        print(reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
