"""The children of the fault tests: each writes a row ten times a second, as this exec program or as actor.py.

Each child appends to one file of its own in a folder that all nodes share. The order of the rows is the order in which
they were written, whatever the clocks show. A row is ``epoch role time member writer count``. The time is
CLOCK_BOOTTIME (one kernel runs all nodes), the writer names this incarnation, and the count is the child's state, which
a handover keeps.

It uses the standard library alone, so that it runs with the image's own Python.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from pathlib import Path

ROWS = Path("/rows")
SECONDS = 0.1


class Rows:
    """The file of one child."""

    def __init__(self, hub: str, child_id: str, member: str) -> None:
        self._file = os.open(ROWS / f"{hub}.{child_id}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._member, self._writer = member, secrets.token_hex(4)
        self.count = 0

    def write(self, epoch: int, role: str) -> None:
        """Append a row in a single write."""
        self.count += 1
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(self._file, f"{epoch} {role} {now:.3f} {self._member} {self._writer} {self.count}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def main() -> None:
    """Write the rows of an exec child; on SIGTERM, leave the count for the next member."""
    handover = Path(os.environ["HUB_HANDOVER_FILE"]) if os.environ.get("HUB_HANDOVER_FILE") else None
    rows = Rows(os.environ["HUB_NAME"], os.environ["HUB_CHILD_ID"], os.environ["HUB_MEMBER"])
    if handover and handover.exists() and (state := handover.read_text()):
        rows.count = int(state)

    def end(*_: object) -> None:
        if handover:
            handover.write_text(str(rows.count))
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    role, epoch = Path(os.environ["HUB_ROLE_FILE"]), Path(os.environ["HUB_EPOCH_FILE"])
    while True:
        # The role is read first: a reader that sees a new role also sees the epoch that came with it.
        now = role.read_text().strip()
        rows.write(int(epoch.read_text()), now)
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()
