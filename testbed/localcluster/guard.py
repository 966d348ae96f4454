"""Ends a cluster when the process that started it ends, in whatever way: a killed test run leaves no cluster behind."""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
from pathlib import Path

from localcluster import cluster
from localcluster.layout import CHECKOUT, Layout


def start(layout: Layout) -> subprocess.Popen[bytes]:
    """Start a process that runs ``down`` on this cluster when the calling process has ended, and then ends itself."""
    command = [sys.executable, "-m", __name__, "--root", str(layout.root), "--pid", str(os.getpid())]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "testbed")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is meant for the owner; this process outlives it
    )


def main() -> int:
    """Wait for the owner's end, then take the cluster down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pid", type=int, required=True)
    arguments = parser.parse_args()
    try:
        owner = os.pidfd_open(arguments.pid)
        select.select([owner], [], [])  # readable when the owner has ended
    except ProcessLookupError:
        pass  # it has ended already
    if arguments.root.exists():
        cluster.down(Layout(arguments.root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
