"""Which test process runs which test, if several run at once.

Tests that share a slow fixture (an operator and its hubs, a cluster) run in one process, which sets it up once. A
process keeps to one kind of cluster while there are tests for it: each cluster that it starts takes five seconds of a
core, and then a share of each second until the process changes to the other kind (tests/integration/ownclusters.py).
All other tests run in any free process. xdist's own groups have no effect on this pytest, and do not know session
fixtures.
"""

from __future__ import annotations

import functools
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parents[1]
# What a test needs: the cluster with the operator installed, the one without, or none.
# Processes take these two orders in turn. The short tests that need no cluster even out the end, but installing the
# operator costs more than that.
OPERATED, PLAIN, NONE = "operated", "plain", "none"
TURNS = ((OPERATED, PLAIN, NONE), (PLAIN, NONE, OPERATED))


class ClusterScheduling(LoadScopeScheduling):
    """Scheduling by the cluster and the fixtures of a test."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        turn = TURNS[self.nodes.index(node) % len(TURNS)]
        unit = next(unit for need in turn for unit in self.workqueue if need_of(unit) == need)
        self.workqueue.move_to_end(unit, last=False)
        super()._assign_work_unit(node)


def unit_of(nodeid: str) -> str:
    """Return the tests that a test runs together with: its folder, its file, or only itself."""
    path = nodeid.partition("::")[0]
    if path.startswith("tests/parity/"):
        return "tests/parity"
    shares = path.startswith("tests/integration/") and 'fixture(scope="module"' in _text(path)
    return path if shares else nodeid


@functools.cache
def need_of(unit: str) -> str:
    """Return what the tests of the unit need."""
    path = unit.partition("::")[0]
    if path.startswith(("tests/unit/", "tests/simulation/")):
        return NONE
    return OPERATED if path.startswith("tests/integration/") and '"operatorworld"' in _text(path) else PLAIN


@functools.cache
def _text(path: str) -> str:
    return (ROOT / path).read_text()
