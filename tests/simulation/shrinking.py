"""Finds the same violation with fewer acts."""

from __future__ import annotations

import re

from .running import Outcome
from .scenario import run_seed


def shrunk(outcome: Outcome, tries: int) -> Outcome:
    """Return a run of the seed without as many acts as these tries allow, which ends in a similar violation."""
    numbers = range(sum(bool(re.search(r" seed +act \d+$", line)) for line in outcome.trace))
    kept, size = list(numbers), max(1, len(numbers) // 2)
    while tries > 0:
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            tries -= 1
            found = run_seed(outcome.seed, frozenset(numbers) - frozenset(fewer))
            if _kind(found) == _kind(outcome):
                outcome, kept = found, fewer
                break
            if tries <= 0:
                return outcome
        else:
            if size == 1:
                return outcome
            size //= 2
    return outcome


def _kind(outcome: Outcome) -> str:
    """Return the violation without names and numbers."""
    return re.sub(r"[\w/.-]*\d[\w/.-]*|\(.*?\)|\[.*?\]", "", outcome.violation)[:60]
