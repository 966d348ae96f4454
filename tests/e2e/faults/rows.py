"""Reads the rows that children wrote (children/writer.py) and finds two active writers and lost states in them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_LAST_BYTES = 400  # longer than a row


@dataclass(frozen=True)
class Row:
    """A row of a child's file; ``time`` is in seconds of CLOCK_BOOTTIME, ``writer`` names the incarnation."""

    epoch: int
    role: str
    time: float
    member: str
    writer: str
    count: int

    @classmethod
    def parse(cls, line: str) -> Row:
        """Parse a line. Raises ValueError."""
        epoch, role, time, member, writer, count = line.split(" ")
        return cls(int(epoch), role, float(time), member, writer, int(count))


@dataclass
class Findings:
    """What is wrong in the rows of one child; only rows of active writers count, in the order of the file."""

    # Rows of a lower epoch than an earlier row's: a file that checks epochs refuses them.
    stale: list[Row] = field(default_factory=list)
    # Rows that such a file accepts, although another writer has written since this writer's last row.
    double: list[Row] = field(default_factory=list)
    # First rows of writers that continue from a lower count than an earlier writer had reached.
    forgot: list[Row] = field(default_factory=list)

    @property
    def stale_seconds(self) -> float:
        """The seconds from the first to the last stale row."""
        return self.stale[-1].time - self.stale[0].time if self.stale else 0.0


def examine(rows: Iterable[Row]) -> Findings:
    """Examine the rows of one child, in the order of its file."""
    found = Findings()
    highest, writing, count = -1, "", 0
    succeeded: set[str] = set()
    for row in rows:
        if row.role != "Active":
            continue
        if row.epoch < highest:
            found.stale.append(row)
            continue
        if row.writer != writing:
            if row.writer in succeeded:
                found.double.append(row)
            elif writing and row.count <= count:
                found.forgot.append(row)
            succeeded.add(writing)
            writing = row.writer
        highest, count = row.epoch, row.count
    return found


class Ledger:
    """The files of the children of one hub."""

    def __init__(self, folder: Path, hub: str) -> None:
        self._folder, self._hub = folder, hub

    def rows(self) -> dict[str, list[Row]]:
        """Return all rows by child id. Of a file that ends in the middle of a row, that row is left out."""
        return {path.name.partition(".")[2]: _whole(path) for path in self._folder.glob(f"{self._hub}.*")}

    def last(self) -> dict[str, list[Row]]:
        """Return the last few rows of each child, by id."""
        found = {}
        for path in self._folder.glob(f"{self._hub}.*"):
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = file.read().decode().split("\n")[1:-1]
            found[path.name.partition(".")[2]] = [Row.parse(line) for line in lines]
        return found

    def examine(self) -> dict[str, Findings]:
        """Return what is wrong with each child."""
        return {child_id: examine(rows) for child_id, rows in self.rows().items()}


def _whole(path: Path) -> list[Row]:
    return [Row.parse(line) for line in path.read_text().split("\n")[:-1]]


def first_after(rows: Iterable[Row], moment: float, *, not_by: frozenset[str]) -> Row | None:
    """Return the first active row after this time that none of these members wrote."""
    return next((row for row in rows if row.time > moment and row.role == "Active" and row.member not in not_by), None)
