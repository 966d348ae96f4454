"""A folder for a cluster that make or the demo starts in a test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster import cluster as local
from localcluster import guard
from localcluster.layout import Layout

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def cluster_folder() -> Iterator[Path]:
    """Yield a LOCALCLUSTER_ROOT; a cluster in it is stopped after the block, even if the test is killed.

    The folder is a difficult one: the operator's pod has its own /tmp, and the path has a blank and a letter beyond
    ASCII.
    """
    with tempfile.TemporaryDirectory(prefix="a clüster ") as folder:
        layout = Layout(Path(folder))
        watcher = guard.start(layout)
        try:
            yield layout.root
        finally:
            local.down(layout)
            watcher.terminate()
            watcher.wait()
