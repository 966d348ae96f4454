"""Exits with 0 if a process may have a separate mount tree. Standard library only, like the shim."""

from __future__ import annotations

import os
import sys

from localcluster.kubelet import rootfs


def main() -> None:
    """Try the mounts that a container may need, in the folder given; they end with this process."""
    source, scratch = f"{sys.argv[1]}/source", f"{sys.argv[1]}/root"
    for folder in (source, scratch):
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - without pathlib, like the rest
    if not rootfs.isolate("probe"):
        sys.exit(1)
    mounts = [(source, "/localcluster-probe/a", False), (source, "/var/run/localcluster-probe/a", True)]
    rootfs.build(mounts, scratch, read_only=True)
    sys.exit(0)
