"""A place for a cluster that a test lets others bring up: by make, by the demo."""

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
    """A LOCALCLUSTER_ROOT; whatever is up there is down after the block, even if the test is killed.

    It is hard to work in: the operator's pod has a /tmp of its own, and the name has a blank and a letter beyond ASCII.
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
