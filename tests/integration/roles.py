"""An actor that writes down which role it has, and the check that no two copies of a child were ever active at once."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

# The module as a ConfigMap brings it to the members. Each row: boottime, id, member, epoch, role.
MODULE = """
import asyncio, json, os, time
from processhub import Actor

class Worker(Actor):
    async def init(self, args):
        self.path = os.path.join(args["folder"], self.member + "-" + str(os.getpid()))
        self.told = None
        self.task = asyncio.get_running_loop().create_task(self.write())

    async def redundancy_signal(self, role):
        self.told = role

    async def write(self):
        while True:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            row = json.dumps([now, self.id, self.member, self.epoch, self.role, self.told])
            with open(self.path, "a") as file:
                file.write(row + "\\n")
            await asyncio.sleep(0.1)
"""


@dataclass(frozen=True)
class Row:
    """One line of a worker: when (CLOCK_BOOTTIME seconds), who, under which epoch, in which role, what it was told."""

    at: float
    id: str
    member: str
    epoch: int
    role: str
    told: str | None


def rows_in(folder: Path) -> list[Row]:
    """All rows in order of time; a line that is cut off at the end of a killed process is left out."""
    rows = []
    for path in folder.iterdir():
        whole = (line for line in path.read_text().splitlines() if line.endswith("]"))
        rows += [Row(*json.loads(line)) for line in whole]
    return sorted(rows, key=lambda row: row.at)


def two_active(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows in which a copy was still active after a newer epoch had been."""
    found = []
    newest: dict[str, Row] = {}
    for row in rows:
        if row.role != "Active":
            continue
        before = newest.get(row.id)
        if before is not None and row.epoch < before.epoch:
            found.append((before, row))
        elif before is None or row.epoch > before.epoch:
            newest[row.id] = row
        elif row.member != before.member:
            found.append((before, row))  # one epoch, two members
    return found


def active_members(rows: list[Row]) -> dict[str, list[str]]:
    """The members in whose hands each id's active role was, in order."""
    hands: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.role == "Active" and hands[row.id][-1:] != [row.member]:
            hands[row.id].append(row.member)
    return hands
