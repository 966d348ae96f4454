"""The simulator on some seeds, its proof that it finds broken rules, and that a seed can be replayed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .__main__ import main
from .mutants import EDITING, MUTANTS, ON_DEMAND

pytestmark = pytest.mark.no_cover  # to record each line takes three times as long (CONTRIBUTING.md, Coverage)
TESTS = Path(__file__).resolve().parents[1]
SEEDS = 6  # as many as take at most 15 s of CPU


def simulated(seed: int) -> list[str]:
    """Return the trace of a seed in a process with another hash seed, as with ``make simulate``."""
    path = os.pathsep.join((str(TESTS), str(TESTS / "unit")))
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environ = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": other}
    # That its lines are recorded would take three times as long too.
    environ = {name: value for name, value in environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "simulation", "--seeds", "1", "--seed", str(seed), "--trace"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-20_000:]
    return ended.stdout.splitlines()[:-1]  # the last one has the time that it took


def test_no_promise_is_broken_in_the_first_seeds_whatever_the_hash_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """A seed gives the same run in each process, also after others."""
    assert main(["--seeds", str(SEEDS), "--trace"]) == 0

    *traces, summary = capsys.readouterr().out.splitlines()
    faults = re.search(r"(\d+) faults", summary)
    assert faults is not None
    assert int(faults[1]) > 20 * SEEDS
    again = simulated(3)
    assert len(again) > 500
    began = traces.index(again[0])
    assert traces[began : began + len(again)] == again


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found_within_a_few_seeds(mutant: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The first of them has found it: where a change of the product has changed the seeds, it takes some more.
    step = 2 if mutant in ON_DEMAND else 5 if mutant in EDITING else 1
    seeds = ("--seed", str(MUTANTS[mutant].found_by), "--step", str(step))

    assert main(["--seeds", "20", *seeds, "--mutant", mutant, "--until-found"]) == 1

    printed = capsys.readouterr().out
    assert re.search(r"^seed \d+: ", printed, re.M)
    assert re.search(rf"^    make simulate SEEDS=1 SEED=\d+ TRACE=1 MUTANT={mutant}$", printed, re.M)
