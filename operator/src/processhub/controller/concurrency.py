"""Doing several things at once as one step, and ending them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_all(*work: Awaitable[T]) -> list[T]:
    """All results, once all of the work has ended; then raises the first error of any.

    ``asyncio.gather`` alone raises at once and lets the others go on: a write of this step could land beside the next.
    """
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until all have ended, whatever in."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
