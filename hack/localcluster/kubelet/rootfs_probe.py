"""Exits with 0 where a process may have a mount tree of its own. Standard library only, like the shim."""

from __future__ import annotations

import sys

from localcluster.kubelet import rootfs


def main() -> None:
    """Try it; the process is thrown away afterwards."""
    sys.exit(0 if rootfs.isolate("probe") else 1)
