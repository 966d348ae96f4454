"""The outcomes of calls. Each one accounts for every child of its call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from processhub.client.records import Processes


class ChildError(msgspec.Struct, frozen=True):
    """Why one child was not started or stopped."""

    reason: str
    """A word of ``Reason`` or ``ClientReason``."""
    message: str
    """A sentence for people."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Rollback(msgspec.Struct, frozen=True):
    """What undoing a start came to."""

    removed: tuple[str, ...]
    """The ids of which nothing is left."""
    left: dict[str, ChildError]
    """By id, why it could not be removed."""


class Result:
    """The outcome of a start. Every id of the call is in it.

    It is in exactly one of ``started``, ``errors`` and, where the call was undone, ``rollback.removed``; one that was
    removed and had failed itself is in ``errors`` too.
    """

    def __init__(self, wait: Callable[[float], Awaitable[None]] | None = None) -> None:
        self.started: dict[str, Processes] = {}
        """By id, the ``(member, pid)`` that it runs as; empty where the call did not wait: created."""
        self.errors: dict[str, ChildError] = {}
        """By id, why it was not started."""
        self.rollback: Rollback | None = None
        """What was undone; None where nothing was."""
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
    """The outcome of a stop. Every id of the call is in it."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        """The ids that were told to stop; where the call waited: that have ended."""
        self.errors: dict[str, ChildError] = {}
        """By id, why it was not stopped."""

    @property
    def ok(self) -> bool:
        """Whether all were stopped."""
        return not self.errors

    def __repr__(self) -> str:
        return f"<StopResult: {len(self.stopped)} stopped, {len(self.errors)} errors>"
