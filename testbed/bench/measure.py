"""Values, what counts of their samples, and whether a goal is met. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec

Better = Literal["lower", "higher"]
Topic = Literal["starts", "activations", "calls", "moves", "failover"]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a value in the plot of its topic: the line that it belongs to, and its x there.

    Where ``x`` is None, the plot shows the value's samples.
    """

    series: str
    x: float | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value with a sample for each run, or for each of many trials of one run.

    ``goal``: what it is to be, None if there is nothing to be met. ``percent``: which percentile of the samples counts.
    ``topic``: the part of docs/benchmarks.md that it belongs to, "" for none. ``listed``: whether it is a row of the
    table there. ``point``: its place in the plot there, None for none.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    goal: float | None = None
    better: Better = "lower"
    percent: float = 50
    topic: Topic | Literal[""] = ""
    listed: bool = True
    point: Point | None = None

    @property
    def median(self) -> float:
        """The median of the samples."""
        return median(self.samples)

    @property
    def result(self) -> float:
        """What counts: the median, or another percentile."""
        return self.median if self.percent == 50 else percentile(self.samples, self.percent)

    @property
    def met(self) -> bool | None:
        """Whether the result meets the goal; None without a goal."""
        if self.goal is None:
            return None
        return self.result <= self.goal if self.better == "lower" else self.result >= self.goal


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: what it was measured on, and the outcome of each figure. It is stored as JSON."""

    machine: dict[str, str]
    outcomes: tuple[Outcome, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a figure: its values, or the message that explains why there are none.

    ``apart``: when and of which commit, if it was not measured together with the others.
    """

    figure: str
    title: str
    values: tuple[Value, ...] = ()
    failed: str = ""
    seconds: float = 0.0
    apart: str = ""


def merged(results: Results, part: Results) -> Results:
    """The results with the figures of a later run of some of them."""
    apart = f"{part.machine['measured']}, commit {part.machine['commit']}, load before {part.machine['load before']}"
    later = {outcome.figure: msgspec.structs.replace(outcome, apart=apart) for outcome in part.outcomes}
    kept = [later.pop(outcome.figure, outcome) for outcome in results.outcomes]
    return msgspec.structs.replace(results, outcomes=(*kept, *later.values()))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile. Raises ValueError if there are no samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def gathered(runs: Sequence[Sequence[Value]]) -> tuple[Value, ...]:
    """The values of several runs, each with the samples of all runs."""
    by_name: dict[str, Value] = {}
    for run in runs:
        for value in run:
            known = by_name.get(value.name)
            samples = (*known.samples, *value.samples) if known else value.samples
            by_name[value.name] = msgspec.structs.replace(value, samples=samples)
    return tuple(by_name.values())


def number(value: float) -> str:
    """Three significant digits, thousands apart: ``0.0123``, ``1.05``, ``98.6``, ``1,240``."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    if rounded >= 1000:
        return f"{rounded:,.0f}"
    return f"{rounded:.{max(0, min(digits, 4))}f}"


def verdict(value: Value) -> str:
    """``≤ 2: met``, ``≤ 2: missed by 30 %``; empty without a goal."""
    if value.goal is None:
        return ""
    sign = "≤" if value.better == "lower" else "≥"
    if value.met:
        return f"{sign} {number(value.goal)}: met"
    if not value.goal:
        return f"{sign} 0: missed"
    off = value.result / value.goal - 1 if value.better == "lower" else 1 - value.result / value.goal
    return f"{sign} {number(value.goal)}: missed by {max(1, round(100 * off))} %"
