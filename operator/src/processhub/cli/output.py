"""Output: plain columns as kubectl's, JSON, YAML, names. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from processhub.cli.errors import ReaderGoneError
from processhub.cli.options import Output

_COLOURS = {"Running": "green", "Failed": "red", "Pending": "yellow", "Starting": "yellow", "Stopping": "yellow"}
_COLOURED_ROWS = 500  # colouring thousands of rows takes seconds


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 the command line's messages


def out(text: str) -> None:
    """Print one or more lines to stdout. Raises ReaderGoneError."""
    try:
        print(text, flush=True)  # noqa: T201 the command line's result
    except BrokenPipeError as error:
        # An error of its own, because typer handles a BrokenPipeError as a failure of the command.
        raise ReaderGoneError from error


def structured(value: Any, output: Output) -> None:
    """Print plain data as JSON or YAML."""
    if output is Output.YAML:
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        out(yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True).rstrip("\n"))
        return
    import json

    out(json.dumps(value, indent=4, ensure_ascii=False))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns: on a terminal with colours for states, else as plain text for cut and awk."""
    printable = [[_printable(cell) or "<none>" for cell in row] for row in rows]
    if sys.stdout.isatty() and len(printable) <= _COLOURED_ROWS:
        _rich_table(header, printable)
        return
    widths = [max(map(len, column)) for column in zip(header, *printable, strict=True)]
    lines = ("   ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *printable))
    out("\n".join(lines))


def _printable(text: str) -> str:
    # An id or message must not move the cursor or break the row.
    return "".join(char if char.isprintable() else "?" for char in text)


def _rich_table(header: Sequence[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in header:
        grid.add_column(title, overflow="fold", no_wrap=title != "REASON")
    for row in rows:
        grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console(soft_wrap=True).print(grid)
