"""The simulator on some seeds, its proof that it finds broken rules, and that a seed can be replayed.

Each runs in its own process, as with ``make simulate``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .mutants import MUTANTS, ON_DEMAND

TESTS = Path(__file__).resolve().parents[1]
SEEDS = 6  # as many as take at most 15 s of CPU
# Mutants that need many seeds, which takes 20 s of a core.
SLOW = ("started-anywhere", "status-marked-once")


def simulate(*arguments: object, hash_seed: int = 0, code: int = 0) -> str:
    """Return the output of the simulator."""
    path = os.pathsep.join((str(TESTS), str(TESTS / "unit")))
    environ = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed)}
    # Recording the executed lines would take three times as long (CONTRIBUTING.md, Coverage).
    environ = {name: value for name, value in environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "simulation", *map(str, arguments)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == code, (ended.stdout + ended.stderr)[-20_000:]
    return ended.stdout


def test_no_promise_is_broken_in_the_first_seeds() -> None:
    printed = simulate("--seeds", SEEDS)

    faults = re.search(r"(\d+) faults", printed)
    assert faults is not None
    assert int(faults[1]) > 20 * SEEDS


def test_a_seed_gives_the_same_run_whatever_the_hash_seed() -> None:
    first, second = (simulate("--seeds", 1, "--seed", 7, "--trace", hash_seed=seed) for seed in (1, 2))

    assert first.count("\n") > 500
    assert _without_summary(first) == _without_summary(second)


def _without_summary(printed: str) -> list[str]:
    """Return the trace without its last line, which has the time that the run took."""
    return printed.splitlines()[:-1]


@pytest.mark.parametrize(
    "mutant",
    [
        *(mutant for mutant in MUTANTS if mutant not in SLOW),
        pytest.param(SLOW[0], id="started-anywhere", marks=pytest.mark.nightly),
        pytest.param(SLOW[1], id="status-marked-once", marks=pytest.mark.nightly),
    ],
)
def test_a_broken_rule_is_found_within_a_few_seeds(mutant: str) -> None:
    # Each change of the product changes what the seeds do: most find the mutant at once, and a few take some more.
    seeds = ("--seed", 1, "--step", 2) if mutant in ON_DEMAND else ()
    printed = simulate("--seeds", 20, *seeds, "--mutant", mutant, "--until-found", code=1)

    assert re.search(r"^seed \d+: ", printed, re.M)
    assert re.search(rf"^    make simulate SEEDS=1 SEED=\d+ TRACE=1 MUTANT={mutant}$", printed, re.M)
