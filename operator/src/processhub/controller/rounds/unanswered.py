"""Requests that are not answered yet. An admission webhook may hold each write for up to 30 s.

A round that waited so long would start no child and notice no lost member. So it awaits such an answer for a moment
only; a later round takes it up. That is for writes which no plan depends on: a slice is written by the round itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class UnansweredError(Exception):
    """The request is under way."""


class OpenRequests:
    """The requests of one hub that are under way, by what each is for."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def __contains__(self, what: str) -> bool:
        return what in self._tasks

    async def result(self, what: str, work: Callable[[], Awaitable[T]] | None, seconds: float) -> T | None:
        """The result of what is under way, or of the ``work`` that is begun now; None if there is neither.

        Raises what that raises, and UnansweredError.
        """
        task: asyncio.Task[T] | None = self._tasks.get(what)
        if task is None and work is not None:
            task = self._tasks[what] = asyncio.create_task(_run(work), name=what)
        if task is None:
            return None
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise UnansweredError
        del self._tasks[what]
        return task.result()

    def drop(self, what: str) -> None:
        """End a request whose answer is not wanted any more."""
        if (task := self._tasks.pop(what, None)) is not None and not task.cancel() and not task.cancelled():
            task.exception()  # It is looked at, so that nothing logs it.

    def close(self) -> None:
        """End all requests."""
        for what in list(self._tasks):
            self.drop(what)


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
