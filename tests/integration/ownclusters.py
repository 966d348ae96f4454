"""The clusters that this test process has brought up for all of its tests."""

from __future__ import annotations

import os

from localcluster import cluster
from localcluster.layout import Layout

_standing: list[Layout] = []


def make_room(layout: Layout) -> None:
    """Take the other clusters down before this one is brought up, where several processes share the tests.

    By tests/scheduling.py such a process turns to another kind of cluster at most once, and does not come back. A
    cluster that stands takes a twentieth of a core.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        while _standing:
            cluster.down(_standing.pop())
    _standing.append(layout)
