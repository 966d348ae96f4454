"""Running several coroutines as one step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def gather_all(*work: Awaitable[T]) -> list[T]:
    """Return all results once all of the work has ended; then the first error, if any, is raised.

    ``asyncio.gather`` alone raises at once and leaves the others running: a write of this step could then be made
    during the next.
    """
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
