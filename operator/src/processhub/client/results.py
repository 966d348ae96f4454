"""The results of calls. Each one accounts for every child of its call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from processhub.client.records import Processes


class ChildError(msgspec.Struct, frozen=True):
    """The reason why one child was not started or stopped."""

    reason: str
    """A value of ``Reason`` or ``ClientReason``."""
    message: str
    """A sentence for people."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Rollback(msgspec.Struct, frozen=True):
    """The result of rolling a start back."""

    removed: tuple[str, ...]
    """The ids of which nothing is left."""
    left: dict[str, ChildError]
    """By id: why the child could not be removed."""


class Result:
    """The result of a start. Every id of the call is in it.

    An id is in exactly one of ``started``, ``errors`` and, after a rollback, ``rollback.removed``. An id that was
    removed and had failed itself is also in ``errors``.
    """

    def __init__(self, wait: Callable[[float], Awaitable[object]] | None = None) -> None:
        self.started: dict[str, Processes] = {}
        """By id: the ``(member, pid)`` of each copy; empty if the call did not wait, and the child was only created."""
        self.errors: dict[str, ChildError] = {}
        """By id: why the child was not started."""
        self.objects: dict[str, str] = {}
        """By id: the name of the Child object that the call has created or found."""
        self.rollback: Rollback | None = None
        """The children that were removed again, or None if nothing was rolled back."""
        self._wait = wait

    @property
    def ok(self) -> bool:
        """Whether all children were started."""
        return not self.errors

    async def wait(self, timeout: float = 10) -> Result:
        """Wait until each child runs or is known not to, ``timeout`` seconds at most; returns the result itself.

        Children that do not run by then are in ``errors`` with reason Timeout.
        """
        if self._wait is not None:
            await self._wait(timeout)
        return self

    def __repr__(self) -> str:
        return f"<Result: {len(self.started)} started, {len(self.errors)} errors, rollback={self.rollback}>"


class StopResult:
    """The result of a stop. Every id of the call is in it."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        """The ids that were ordered to stop; if the call waited, those that have ended."""
        self.errors: dict[str, ChildError] = {}
        """By id: why the child was not stopped."""
        self.objects: dict[str, str] = {}
        """By id: the name of the Child object that was deleted."""
        self.on_demand: set[str] = set()
        """Those of the stopped ids that the next request starts again (spec.onDemand of the Hub)."""

    @property
    def ok(self) -> bool:
        """Whether all children were stopped."""
        return not self.errors

    def __repr__(self) -> str:
        return f"<StopResult: {len(self.stopped)} stopped, {len(self.errors)} errors>"
