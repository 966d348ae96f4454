"""What a call came to: every child accounted for, whatever their number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from processhub.client.errors import ChildError
from processhub.client.records import Processes


class Rollback(msgspec.Struct, frozen=True):
    """What undoing a start came to: ids removed without a trace, and those that are left, each with its reason."""

    removed: tuple[str, ...]
    left: dict[str, ChildError]


class Result:
    """The outcome of a start.

    ``started``: by id, the ``(member, pid)`` it runs as; without waiting the list is empty and the id means created.
    ``errors``: by id, why it was not started. ``rollback``: None where nothing was undone; else what was, and every
    id is in exactly one of ``started``, ``errors`` and ``rollback.removed`` (a removed one that had failed itself is
    in ``errors`` too).
    """

    def __init__(self, wait: Callable[[float], Awaitable[None]] | None = None) -> None:
        self.started: dict[str, Processes] = {}
        self.errors: dict[str, ChildError] = {}
        self.rollback: Rollback | None = None
        self._wait = wait

    @property
    def ok(self) -> bool:
        """Whether all were started."""
        return not self.errors

    async def wait(self, timeout: float = 10) -> Result:
        """Wait until each child runs or is known not to, ``timeout`` seconds at most; returns the result itself.

        Those still on their way then are in ``errors`` with reason Timeout.
        """
        if self._wait is not None:
            await self._wait(timeout)
        return self

    def __repr__(self) -> str:
        return f"<Result: {len(self.started)} started, {len(self.errors)} errors, rollback={self.rollback}>"


class StopResult:
    """The outcome of a stop: ``stopped`` ids (ordered to, or, with waiting, ended), and by id why others were not."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.errors: dict[str, ChildError] = {}

    @property
    def ok(self) -> bool:
        """Whether all were stopped."""
        return not self.errors

    def __repr__(self) -> str:
        return f"<StopResult: {len(self.stopped)} stopped, {len(self.errors)} errors>"
