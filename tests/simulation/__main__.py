"""Runs seeds: ``python -m simulation --seeds 100 [--seed 0]``."""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
from collections.abc import Sequence

from .mutants import MUTANTS, RARE
from .running import Outcome
from .scenario import run_seed
from .shrinking import shrunk

_SHOWN = 200  # the last lines of a trace, which are printed; --trace prints all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds; returns 1 if one breaks a promise. ``arguments``: of the command line unless given."""
    asked = _asked(arguments)
    broken = (MUTANTS | RARE)[asked.mutant].put_in() if asked.mutant else contextlib.nullcontext()
    with broken:
        return _run(asked)


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument(
        "--step", type=int, default=1, help="2: only seeds with, or only seeds without children on demand"
    )
    parser.add_argument("--trace", action="store_true", help="print the whole trace of each seed")
    parser.add_argument(
        "--shrink", type=int, default=0, help="leave out acts of a seed with a violation, so many tries"
    )
    parser.add_argument("--until-found", action="store_true", help="end with the first violation")
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS | RARE), help="break a rule of the product first (mutants.py)"
    )
    return parser.parse_args(arguments)


def _run(asked: argparse.Namespace) -> int:
    began, outcomes = time.monotonic(), []
    for seed in range(asked.seed, asked.seed + asked.seeds * asked.step, asked.step):
        outcome = run_seed(seed)
        outcomes.append(outcome)
        if asked.trace:
            _write(*outcome.trace)
        if outcome.violation:
            if asked.shrink:
                outcome = shrunk(outcome, asked.shrink)
            _show(outcome, asked.mutant or "", whole=asked.trace)
            if asked.until_found:
                break
    _write(_summary(outcomes, time.monotonic() - began))
    return int(any(outcome.violation for outcome in outcomes))


def _show(outcome: Outcome, mutant: str, *, whole: bool) -> None:
    lines = [] if whole else _shortened(outcome.trace)
    again = f"make simulate SEEDS=1 SEED={outcome.seed} TRACE=1" + (f" MUTANT={mutant}" if mutant else "")
    lines += [f"seed {outcome.seed}: {outcome.violation}", "to run it again, with the whole trace:", f"    {again}"]
    _write(*lines)


def _shortened(trace: tuple[str, ...]) -> list[str]:
    """Return the faults, the users' acts, and all of the last lines."""
    before = [line for line in trace[:-_SHOWN] if " FAULT " in line or line[12:].startswith(("seed", "user", "admin"))]
    return [*before, "…", *trace[-_SHOWN:]]


def _write(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _summary(outcomes: list[Outcome], seconds: float) -> str:
    hours = sum(outcome.seconds for outcome in outcomes) / 3600
    failed = sum(bool(outcome.violation) for outcome in outcomes)
    return (
        f"{len(outcomes)} seeds, {sum(outcome.faults for outcome in outcomes)} faults, "
        f"{sum(outcome.requests for outcome in outcomes)} requests, {hours:.1f} virtual hours in {seconds:.0f} s "
        f"({hours / seconds * 60:.1f} a minute), {failed} seeds with a violation"
    )


if __name__ == "__main__":
    gc.freeze()  # so that each collection visits the objects of a run, and not all modules
    sys.exit(main())
