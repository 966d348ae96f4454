"""Which test process runs which test, where several run at once.

Tests that share a slow fixture (an operator and its hubs, a cluster) go to one process, which makes it once. And a
process keeps to one kind of cluster while there are tests for it: each cluster that it brings up takes five seconds of
a core, and then some of each second until the process turns to the other kind (tests/integration/ownclusters.py). All
other tests go to whoever is free. xdist's own groups have no effect on this pytest, and know nothing of fixtures of the
session.
"""

from __future__ import annotations

import functools
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parents[1]
# What a test needs: the cluster with the operator installed, the one without, or none.
# Processes take turns at these two orders. The short tests that need none even out the end, but installing the operator
# costs more than that.
OPERATED, PLAIN, NONE = "operated", "plain", "none"
TURNS = ((OPERATED, PLAIN, NONE), (PLAIN, NONE, OPERATED))


class ClusterScheduling(LoadScopeScheduling):
    """Scheduling by what a test needs and shares."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        turn = TURNS[self.nodes.index(node) % len(TURNS)]
        unit = next(unit for need in turn for unit in self.workqueue if need_of(unit) == need)
        self.workqueue.move_to_end(unit, last=False)
        super()._assign_work_unit(node)


def unit_of(nodeid: str) -> str:
    """What the test goes with: its folder, its file, or nothing else."""
    path = nodeid.partition("::")[0]
    if path.startswith("tests/parity/"):
        return "tests/parity"
    shares = path.startswith("tests/integration/") and 'fixture(scope="module"' in _text(path)
    return path if shares else nodeid


@functools.cache
def need_of(unit: str) -> str:
    """What the tests of the unit need."""
    path = unit.partition("::")[0]
    if path.startswith(("tests/unit/", "tests/simulation/")):
        return NONE
    return OPERATED if path.startswith("tests/integration/") and '"operatorworld"' in _text(path) else PLAIN


@functools.cache
def _text(path: str) -> str:
    return (ROOT / path).read_text()
