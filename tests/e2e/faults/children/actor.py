"""An actor that writes the same rows as writer.py."""

from __future__ import annotations

import asyncio

from writer import SECONDS, Rows

from processhub import Actor


class Writer(Actor):
    """Writes rows, and answers each call with its count."""

    async def init(self, args: dict[str, object]) -> None:
        """Start to write rows."""
        self._rows = Rows(self.hub.name, self.id, self.member)
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while True:
            self._rows.write(self.epoch, self.role)
            await asyncio.sleep(SECONDS)

    async def handle_call(self, request: object) -> int:
        """Return the count."""
        return self._rows.count

    async def prepare_handover(self) -> int:
        """Stop writing and hand the count over."""
        self._task.cancel()
        return self._rows.count

    async def accept_handover(self, state: int) -> None:
        """Continue from the count that was handed over."""
        self._rows.count = state

    async def terminate(self, reason: str) -> None:
        """Stop writing."""
        self._task.cancel()
        self._rows.close()
