"""Tables out of outcomes: for the terminal, and for docs/benchmarks.md. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.measure import Outcome, Value, number, verdict

_HEADER = ("figure", "what", "median", "runs", "goal")


def text_table(outcomes: Sequence[Outcome]) -> str:
    """Columns of plain text."""
    rows = [_HEADER, *_rows(outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def markdown(outcomes: Sequence[Outcome], machine: Mapping[str, str], command: str, notes: str = "") -> str:
    """docs/benchmarks.md: how it was measured, on what, the table, what was missed."""
    about = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    rows = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in _rows(outcomes))
    missed = [
        f"- {outcome.title}, {value.name}: {number(value.median)} {value.unit}, goal {verdict(value)}."
        for outcome in outcomes
        for value in outcome.values
        if value.met is False
    ]
    missed += [f"- {outcome.title}: not measured. {outcome.failed}" for outcome in outcomes if outcome.failed]
    return f"""# Benchmarks

Made by `{command}`; don't edit the tables by hand. The values are medians; the runs are beside them. All
were measured in one go on the local cluster. Control plane, operator, members, children and the measuring client share
the machine.

| | |
|---|---|
{about}

| {" | ".join(_HEADER)} |
|---|---|---|---|---|
{rows}

## What is missed

{chr(10).join(missed) or "Nothing: each goal is met."}

{notes.strip()}
"""


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for outcome in outcomes:
        if outcome.failed:
            rows.append((outcome.figure, outcome.title, "failed", "", outcome.failed.splitlines()[0][:120]))
        rows += [
            (outcome.figure, value.name, f"{number(value.median)} {value.unit}", _samples(value), verdict(value))
            for value in outcome.values
        ]
    return rows


def _samples(value: Value) -> str:
    return " ".join(number(sample) for sample in value.samples) if len(value.samples) > 1 else ""
