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


def simulate(*arguments: object, hash_seed: int) -> str:
    """Return the output of the simulator in a process of its own, as with ``make simulate``."""
    path = os.pathsep.join((str(TESTS), str(TESTS / "unit")))
    environ = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)}
    # That its lines are recorded would take three times as long too.
    environ = {name: value for name, value in environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "simulation", *map(str, arguments)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-20_000:]
    return ended.stdout


def test_no_promise_is_broken_in_the_first_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", str(SEEDS)]) == 0

    faults = re.search(r"(\d+) faults", capsys.readouterr().out)
    assert faults is not None
    assert int(faults[1]) > 20 * SEEDS


def test_a_seed_gives_the_same_run_whatever_the_hash_seed() -> None:
    first, second = (simulate("--seeds", 1, "--seed", 3, "--trace", hash_seed=seed) for seed in (1, 2))

    assert first.count("\n") > 500
    assert _without_summary(first) == _without_summary(second)


def _without_summary(printed: str) -> list[str]:
    """Return the trace without its last line, which has the time that the run took."""
    return printed.splitlines()[:-1]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found_within_a_few_seeds(mutant: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The first of them has found it: where a change of the product has changed the seeds, it takes some more.
    step = 2 if mutant in ON_DEMAND else 5 if mutant in EDITING else 1
    seeds = ("--seed", str(MUTANTS[mutant].found_by), "--step", str(step))

    assert main(["--seeds", "20", *seeds, "--mutant", mutant, "--until-found"]) == 1

    printed = capsys.readouterr().out
    assert re.search(r"^seed \d+: ", printed, re.M)
    assert re.search(rf"^    make simulate SEEDS=1 SEED=\d+ TRACE=1 MUTANT={mutant}$", printed, re.M)
