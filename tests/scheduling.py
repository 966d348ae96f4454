"""Which test process runs which test, if several run at once.

Tests that share a slow fixture (an operator and its hubs, a cluster) run in one process, which sets it up once. A
process keeps to one kind of cluster while there are tests for it: each cluster that it starts takes five seconds of a
core, and then a share of each second until the process changes to the other kind (tests/integration/ownclusters.py).
All other tests run in any free process: the long ones one by one and first, so that none is left with one at the end;
the short ones a few at once, because to hand one out takes a millisecond of CPU. xdist's own groups have no effect on
this pytest, and do not know session fixtures.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parents[1]
# What a test needs: the cluster with the operator installed, the one without, or none. LONG needs none: the tests of a
# file in which some take so long that they are not recorded (CONTRIBUTING.md, Coverage).
# Processes take these two orders in turn. The short tests that need no cluster even out the end, but installing the
# operator costs more than that.
OPERATED, PLAIN, LONG, NONE = "operated", "plain", "long", "none"
TURNS = ((OPERATED, PLAIN, LONG, NONE), (PLAIN, LONG, NONE, OPERATED))
AT_ONCE = 8


class ClusterScheduling(LoadScopeScheduling):
    """Scheduling by the cluster and the fixtures of a test."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        self._units = Units()

    def _split_scope(self, nodeid: str) -> str:
        return self._units.of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        turn = TURNS[self.nodes.index(node) % len(TURNS)]
        unit = next(unit for need in turn for unit in self.workqueue if need_of(unit) == need)
        self.workqueue.move_to_end(unit, last=False)
        super()._assign_work_unit(node)


class Units:
    """The tests that run together. It is asked for all tests in their order first, then for any of them again."""

    def __init__(self) -> None:
        self._units: dict[str, str] = {}
        self._short: Counter[str] = Counter()

    def of(self, nodeid: str) -> str:
        """Return the tests that a test runs together with: as ``unit_of``, or short ones beside it in its file."""
        if nodeid not in self._units:
            self._units[nodeid] = self._unit(nodeid)
        return self._units[nodeid]

    def _unit(self, nodeid: str) -> str:
        unit = unit_of(nodeid)
        if need_of(unit) != NONE:
            return unit
        path = nodeid.partition("::")[0]
        self._short[path] += 1
        return f"{path}::{(self._short[path] - 1) // AT_ONCE}"


def unit_of(nodeid: str) -> str:
    """Return the tests that a test runs together with for what they share: its folder, its file, or only itself."""
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
        return LONG if "no_cover" in _text(path) else NONE
    return OPERATED if path.startswith("tests/integration/") and '"operatorworld"' in _text(path) else PLAIN


@functools.cache
def _text(path: str) -> str:
    return (ROOT / path).read_text()
