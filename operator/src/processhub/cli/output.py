"""Output: plain columns as kubectl's, JSON, YAML, names. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from processhub.api.naming import child_object_name, natural_order
from processhub.cli.errors import CliError, ReaderGoneError
from processhub.cli.shared import Output

V = TypeVar("V")
_COLOURS = {"Running": "green", "Failed": "red", "Pending": "yellow", "Starting": "yellow", "Stopping": "yellow"}
_GAP = "   "
_NARROWEST = 12  # cells that a column keeps, however narrow the terminal is


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 the command line's messages


def out(text: str) -> None:
    """Print one or more lines to stdout. Raises ReaderGoneError, CliError."""
    with writing():
        print(text, flush=True)  # noqa: T201 the command line's result


@contextmanager
def writing() -> Iterator[None]:
    """Raise ReaderGoneError or CliError for output that can't be written."""
    try:
        yield
    except BrokenPipeError as error:
        # An error of its own, because typer handles a BrokenPipeError as a failure of the command.
        raise ReaderGoneError from error
    except OSError as error:
        raise CliError(f"the output can't be written: {error.strerror or error}") from error


def named(child_id: str, name: str = "") -> str:
    """A child in a line of output: its id as a shell takes it, and its object's name where that differs.

    ``name``: that of the object, where it is another than every client derives from the id.
    """
    name = name or child_object_name(child_id)
    return child_id if name == child_id else f"{shlex.quote(child_id)} (child/{name})"


def in_order(items: Mapping[str, V]) -> list[tuple[str, V]]:
    """The items by name or id, in natural order."""
    return sorted(items.items(), key=lambda pair: natural_order(pair[0]))


def quoted(child_id: str) -> str:
    """The id of a child without an object of its own, as a shell takes it."""
    return shlex.quote(child_id)


def structured(value: Any, output: Output) -> None:
    """Print plain data as JSON or YAML."""
    if output is Output.YAML:
        import msgspec
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        # Reasons are enums, which YAML can't represent.
        plain = msgspec.to_builtins(value)
        out(yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=takes_unicode()).rstrip("\n"))
        return
    import json

    out(json.dumps(value, indent=4, ensure_ascii=not takes_unicode()))


def takes_unicode() -> bool:
    """Whether stdout takes any text. Otherwise JSON and YAML are written in ASCII, with their own escapes."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns under a header."""
    Columns(header).print(rows)


class Columns:
    """Columns under a header, which is printed once; later rows have the widths of the first ones.

    On a terminal, states have colours, and a cell that does not fit is continued below itself. Otherwise each row is
    one line with all of its text, for cut and awk.
    """

    def __init__(self, header: Sequence[str]) -> None:
        self._header = header
        self._widths: list[int] = []

    def print(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows. Raises ReaderGoneError."""
        cells = [[_printable(cell) or "<none>" for cell in row] for row in rows]
        terminal, lines = sys.stdout.isatty(), []
        if not self._widths:
            widths = [max(map(_width, column)) for column in zip(self._header, *cells, strict=True)]
            self._widths = _fitted(widths, shutil.get_terminal_size().columns) if terminal else widths
            lines += self._lines(self._header, bold=True) if terminal else [self._line(self._header)]
        for row in cells:
            lines += self._lines(row) if terminal else [self._line(row)]
        if lines:
            out("\n".join(lines))

    def _line(self, row: Sequence[str]) -> str:
        return _GAP.join(map(_padded, row, self._widths)).rstrip()

    def _lines(self, row: Sequence[str], *, bold: bool = False) -> list[str]:
        """The lines of a row on a terminal."""
        import typer

        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        folded = [_folded(cell, width) for cell, width in zip(row, self._widths, strict=True)]
        lines = []
        for index in range(max(map(len, folded))):
            parts = []
            for cell, pieces, width in zip(row, folded, self._widths, strict=True):
                piece = pieces[index] if index < len(pieces) else ""
                colour = _COLOURS.get(cell)
                styled = piece if plain or not piece else typer.style(piece, fg=colour, bold=bold or None)
                parts.append(styled + " " * (width - _width(piece)))
            lines.append(_GAP.join(parts).rstrip())
        return lines


def _fitted(widths: list[int], room: int) -> list[int]:
    """The widths of columns that together fit into ``room``: the widest are made narrower."""
    fitted = list(widths)
    over = sum(fitted) + len(_GAP) * (len(fitted) - 1) - room
    while over > 0:
        widest = max(range(len(fitted)), key=fitted.__getitem__)
        if fitted[widest] <= _NARROWEST:
            break
        fitted[widest] -= 1
        over -= 1
    return fitted


def _folded(text: str, width: int) -> list[str]:
    if _width(text) <= width:
        return [text]
    from rich.cells import chop_cells

    return chop_cells(text, width)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """The cells of a terminal that the text takes: a Chinese character or an emoji takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _printable(text: str) -> str:
    # An id or message must not move the cursor or break the row.
    return "".join(char if char.isprintable() else "?" for char in text)
