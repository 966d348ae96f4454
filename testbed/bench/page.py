"""docs/benchmarks.md: what was measured and how, the plots, a table for each part, what is missed and why. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bench import peers
from bench.measure import Outcome, Results, Topic, Value, number, verdict
from bench.topics import PARTS, Part

PLOTS = "benchmarks"  # the folder of the plots, beside the page
_INTRO = """\
# Benchmarks

Written by `make bench BENCH=--docs`; don't edit it by hand. Control plane, operator, members, children and the
measuring client share one machine. Each value is the median of its runs, where the table does not say otherwise."""
_AGAIN = """\
## How to run it again

```sh
make bench                                                      # under 20 minutes; writes into bench-results/
make bench BENCH=--list                                         # the figures
make bench BENCH="--only=start,failover --repeats=1"            # some of them
make bench BENCH="--compare docs/benchmarks/results.json"       # with the ratios to the run of this page
make bench BENCH="--results NOW.json --compare BEFORE.json"     # two earlier runs, nothing is measured
make bench BENCH=--docs                                         # also write this page, its plots and results.json
make bench BENCH="--docs --only=failover"                       # measure these anew, and keep the rest of the page
```

The cluster is the local one ([testbed/localcluster](../testbed/localcluster/README.md)): a real API server and etcd,
and pods as processes of this machine. Use an idle machine: the command prints the load before it begins."""


def page(results: Results, plotted: Collection[Topic], reasons: Mapping[str, str]) -> str:
    """The page. ``plotted``: the parts that have a plot. ``reasons``: figure, or its first words → why it is missed."""
    about = "\n".join(f"| {name} | {value} |" for name, value in results.machine.items())
    parts = [_part(part, results.outcomes, plotted=part.topic in plotted) for part in PARTS]
    missed = _missed(results.outcomes, reasons) or ["Nothing: each goal is met."]
    later = [f"- {outcome.title}: {outcome.apart}" for outcome in results.outcomes if outcome.apart]
    sections = [
        _INTRO,
        f"| | |\n|---|---|\n{about}",
        *(["Measured apart from the rest:\n\n" + "\n".join(later)] if later else []),
        *filter(None, parts),
        "## What is missed\n\n" + "\n\n".join(missed),
        _beside(),
        _AGAIN,
    ]
    return "\n\n".join(sections) + "\n"


def _part(part: Part, outcomes: Sequence[Outcome], *, plotted: bool) -> str:
    rows = [
        f"| {_cell(_what(outcome, value))} | {number(value.result)} {value.unit} | {verdict(value)} |"
        for outcome in outcomes
        for value in outcome.values
        if value.topic == part.topic and value.listed
    ]
    if not rows and not plotted:
        return ""
    text = f"## {part.title}\n\n{part.about}"
    if plotted:
        text += f"\n\n![{part.title}: {part.y}, by {part.x}]({PLOTS}/{part.topic}.svg)"
    if rows:
        text += "\n\n| what | result | goal |\n|---|---|---|\n" + "\n".join(rows)
    return text


def _what(outcome: Outcome, value: Value) -> str:
    many = f", {value.percent:g} % of {len(value.samples)} within" if value.percent != 50 else ""
    return f"{outcome.title}: {value.name}{many}"


def _missed(outcomes: Sequence[Outcome], reasons: Mapping[str, str]) -> list[str]:
    """A line for each figure with a goal that is missed, and below those of one reason that reason."""
    by_reason: dict[str, list[str]] = {}
    for outcome in outcomes:
        values = [value for value in outcome.values if value.met is False]
        off = "; ".join(f"{value.name} {number(value.result)} {value.unit}, goal {verdict(value)}" for value in values)
        if off:
            by_reason.setdefault(reason(outcome.figure, reasons), []).append(f"- {outcome.title}: {off}.")
    groups = ["\n".join([*lines, *(["", why] if why else [])]) for why, lines in by_reason.items()]
    failed = [f"- {outcome.title}: not measured. {outcome.failed}" for outcome in outcomes if outcome.failed]
    return [*groups, *(["\n".join(failed)] if failed else [])]


def reason(figure: str, reasons: Mapping[str, str]) -> str:
    """Why a figure is missed: the text of its name, or of the longest beginning of it that has one; "" if none has."""
    words = figure.split("-")
    for end in range(len(words), 0, -1):
        if (found := reasons.get("-".join(words[:end]))) is not None:
            return found
    return ""


def _beside() -> str:
    rows = "\n".join(f"| {_cell(row.what)} | {_cell(row.here)} | {_cell(row.there)} |" for row in peers.ROWS)
    return f"## Beside other projects\n\n{peers.HOW}\n| what | {peers.HERE} | the other |\n|---|---|---|\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "/")
