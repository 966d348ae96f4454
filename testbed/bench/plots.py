"""The plots of docs/benchmarks.md, as SVG: one for each part that has something to show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.measure import Outcome, Topic, Value
from bench.peers import LINES
from bench.topics import IDEAL_JOIN, PARTS, Part

# The same input gives the same file: without ids by chance and the time of drawing. Texts stay texts.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "processhub",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_SIZE = (7.0, 4.0)
_PEER: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0, "marker": "o", "markersize": 4}
_OURS: dict[str, Any] = {"linewidth": 2.0, "marker": "o", "markersize": 5}


def draw_all(outcomes: Sequence[Outcome]) -> dict[Topic, bytes]:
    """The SVG file of each part that has something to show."""
    drawn = {part.topic: draw(part, outcomes) for part in PARTS}
    return {topic: svg for topic, svg in drawn.items() if svg}


def draw(part: Part, outcomes: Sequence[Outcome]) -> bytes:
    """One plot; empty if there is nothing to show in it."""
    values = [value for outcome in outcomes for value in outcome.values if value.topic == part.topic and value.point]
    if not values and not any(line.topic == part.topic for line in LINES):
        return b""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        if part.spread:
            _spread(axes, values)
        else:
            _lines(axes, part, values)
        axes.set_xlabel(part.x)
        axes.set_ylabel(part.y)
        axes.legend(loc="best", fontsize="small")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": part.title})
    return b"\n".join(line.rstrip() for line in file.getvalue().splitlines()) + b"\n"


def _lines(axes: Axes, part: Part, values: Sequence[Value]) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for value in values:
        if value.point is not None and value.point.x is not None:
            series.setdefault(value.point.series, []).append((value.point.x, value.result))
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), label=name, **_OURS)
    for line in LINES:
        if line.topic == part.topic:
            axes.plot(*zip(*line.points, strict=True), label=line.name, **_PEER)
    if part.topic == "moves":
        members = sorted({x for points in series.values() for x, _ in points})
        ideal = [100 / (count + 1) for count in members]
        axes.plot(members, ideal, label=IDEAL_JOIN, color="black", linestyle=":", linewidth=1.0)
    if part.log_x:
        axes.set_xscale("log")
    if part.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    places = {x for points in series.values() for x, _ in points}
    places |= {x for line in LINES if line.topic == part.topic for x, _ in line.points}
    axes.set_xticks(sorted(places))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.10g}"))
        axis.set_minor_formatter(NullFormatter())


def _spread(axes: Axes, values: Sequence[Value]) -> None:
    """The share of the trials that were done by each time, in steps; a goal as a line."""
    shown: set[str] = set()
    for value in values:
        if value.point is None or value.point.series in shown:
            continue
        shown.add(value.point.series)
        ordered = sorted(value.samples)
        shares = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
        axes.step([ordered[0], *ordered], [0, *shares], where="post", label=value.point.series, linewidth=2.0)
    for value in values:
        if value.goal is not None:
            label = f"goal: {value.percent:g} % within {value.goal:g} {value.unit}"
            axes.plot([value.goal], [value.percent], label=label, color="black", linestyle="", marker="x")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
