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

    In the checkout: the operator's pod has a /tmp of its own, which hides what a test's folder would hold there.
    """
    (ROOT / ".local").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="test-", dir=ROOT / ".local") as folder:
        layout = Layout(Path(folder))
        watcher = guard.start(layout)
        try:
            yield layout.root
        finally:
            local.down(layout)
            watcher.terminate()
            watcher.wait()
