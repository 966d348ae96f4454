"""An actor that writes its roles down, and a check that no two copies of a child were ever active at once."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

# The source of the module, for a ConfigMap. Each row: boottime, id, member, epoch, role.
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
    """One row of an actor: the time (CLOCK_BOOTTIME seconds), the id, the member, the epoch and the role."""

    at: float
    id: str
    member: str
    epoch: int
    role: str
    told: str | None


def rows_in(folder: Path) -> list[Row]:
    """Return all rows in order of time, without an incomplete last line of a killed process."""
    rows = []
    for path in folder.iterdir():
        whole = (line for line in path.read_text().splitlines() if line.endswith("]"))
        rows += [Row(*json.loads(line)) for line in whole]
    return sorted(rows, key=lambda row: row.at)


def two_active(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Return the pairs of rows in which a copy was still active after a copy of a newer epoch."""
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
            found.append((before, row))  # the same epoch on two members
    return found


def active_members(rows: list[Row]) -> dict[str, list[str]]:
    """Return the members that had the active role of each id, in order."""
    hands: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.role == "Active" and hands[row.id][-1:] != [row.member]:
            hands[row.id].append(row.member)
    return hands
