"""The rows of writer.py, written by an actor."""

from __future__ import annotations

import asyncio

from writer import SECONDS, Rows

from processhub import Actor


class Writer(Actor):
    """The rows of an actor; it answers a request with its count."""

    async def init(self, args: dict[str, object]) -> None:
        """Begin to write."""
        self._rows = Rows(self.hub.name, self.id, self.member)
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while True:
            self._rows.write(self.epoch, self.role)
            await asyncio.sleep(SECONDS)

    async def handle_call(self, request: object) -> int:
        """The count."""
        return self._rows.count

    async def prepare_handover(self) -> int:
        """Write no more; the count."""
        self._task.cancel()
        return self._rows.count

    async def accept_handover(self, state: int) -> None:
        """Count on."""
        self._rows.count = state

    async def terminate(self, reason: str) -> None:
        """Write no more."""
        self._task.cancel()
        self._rows.close()
