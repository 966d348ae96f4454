"""Tables of outcomes for the terminal: one run, and two runs side by side. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from bench.measure import Outcome, Value, number, verdict

_HEADER = ("figure", "what", "result", "runs", "goal")
_COMPARED = ("figure", "what", "before", "now", "now ÷ before", "")
_NOISE = 0.1  # a change that runs on one machine show anyway
_MANY = 6  # samples that a row has room for


def text_table(outcomes: Sequence[Outcome]) -> str:
    """Columns of plain text."""
    return _columns([_HEADER, *_rows(outcomes)])


def comparison(before: Sequence[Outcome], now: Sequence[Outcome]) -> str:
    """The ratio of each value to that of an earlier run, in columns of plain text.

    What only one of the runs has is named below. Both should be of the same machine.
    """
    earlier, rows = _by_name(before), [_COMPARED]
    present = _by_name(now)
    for (figure, name), value in present.items():
        known = earlier.get((figure, name))
        if known is None or known.unit != value.unit:
            continue
        ratio = value.result / known.result if known.result else None
        texts = (f"{number(known.result)} {value.unit}".strip(), f"{number(value.result)} {value.unit}".strip())
        rows.append((figure, name, *texts, "" if ratio is None else number(ratio), _change(value, ratio)))
    return "\n".join([_columns(rows), *_only("before", earlier, present), *_only("now", present, earlier)])


def _only(when: str, values: Iterable[tuple[str, str]], others: Collection[tuple[str, str]]) -> list[str]:
    """What the other run does not have: whole figures in one line, then values of figures that both have."""
    shared = {figure for figure, _ in others}
    alone = dict.fromkeys(figure for figure, _ in values if figure not in shared)
    left = [f"only {when}: {', '.join(alone)}"] if alone else []
    return left + [
        f"only {when}: {figure}, {name}" for figure, name in values if figure in shared and (figure, name) not in others
    ]


def _change(value: Value, ratio: float | None) -> str:
    if ratio is None or abs(ratio - 1) <= _NOISE:
        return ""
    return "better" if (ratio < 1) == (value.better == "lower") else "worse"


def _by_name(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], Value]:
    return {(outcome.figure, value.name): value for outcome in outcomes for value in outcome.values}


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for outcome in outcomes:
        if outcome.failed:
            rows.append((outcome.figure, outcome.title, "failed", "", outcome.failed.splitlines()[0][:120]))
        rows += [
            (outcome.figure, value.name, f"{number(value.result)} {value.unit}", _samples(value), verdict(value))
            for value in outcome.values
        ]
    return rows


def _samples(value: Value) -> str:
    if len(value.samples) > _MANY:
        return f"{number(min(value.samples))} to {number(max(value.samples))}, {len(value.samples)} times"
    return " ".join(number(sample) for sample in value.samples) if len(value.samples) > 1 else ""
