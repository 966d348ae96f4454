"""The clusters that this test process has started for all of its tests."""

from __future__ import annotations

import os

from localcluster import cluster
from localcluster.layout import Layout

_standing: list[Layout] = []


def make_room(layout: Layout) -> None:
    """Stop the other clusters before this one is started, if several processes share the tests.

    By tests/scheduling.py, such a process changes to another kind of cluster at most once and does not return. An idle
    cluster takes a twentieth of a core.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        while _standing:
            cluster.down(_standing.pop())
    _standing.append(layout)
