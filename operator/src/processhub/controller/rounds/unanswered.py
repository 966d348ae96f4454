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


class Unanswered:
    """The requests of one hub that are under way, by what each is for."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def __contains__(self, what: str) -> bool:
        return what in self._tasks

    async def result(self, what: str, work: Callable[[], Awaitable[T]], seconds: float) -> T:
        """The result of the ``work`` that is under way, or is begun now. Raises what it raises, and UnansweredError."""

        async def done() -> T:
            return await work()

        task: asyncio.Task[T] = self._tasks.get(what) or asyncio.create_task(done(), name=what)
        self._tasks[what] = task
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
