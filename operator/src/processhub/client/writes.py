"""Many requests at once: a bounded number in flight, with retries while the API server is overloaded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from processhub.cluster.errors import ApiError, ConnectionFailedError, UnavailableError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 32
_ATTEMPTS = 8
_BACKOFF_MAX_SECONDS = 5.0


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Run ``work`` on each item, IN_FLIGHT at a time.

    When it is cancelled, it begins no further item, waits for those in flight (whose outcome would be unknown
    otherwise), and then raises CancelledError. The first error of ``work`` is handled in the same way.
    """
    remaining = iter(items)
    stopped = False

    async def worker() -> None:
        nonlocal stopped
        for item in remaining:
            if stopped:
                return
            try:
                await work(item)
            except BaseException:
                stopped = True
                raise

    workers = asyncio.gather(*(worker() for _ in range(IN_FLIGHT)), return_exceptions=True)
    try:
        outcomes = await asyncio.shield(workers)
    except asyncio.CancelledError:
        stopped = True
        await workers
        raise
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def with_retries(request: Callable[[], Awaitable[R]], *, reads: bool = False) -> R:
    """Send the request and return its answer.

    If the server is overloaded (429, 5xx), the request is sent again after the pause that the server asks for. One that
    only ``reads`` is sent again also if there is no answer.
    """
    errors: tuple[type[ApiError], ...] = (UnavailableError, ConnectionFailedError) if reads else (UnavailableError,)
    backoff = 0.1
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await request()
        except errors as error:
            if attempt == _ATTEMPTS:
                raise
            asked = error.retry_after if isinstance(error, UnavailableError) else 0.0
            pause = max(asked, backoff * random.uniform(0.5, 1.0))  # noqa: S311 jitter only
            await asyncio.sleep(min(pause, _BACKOFF_MAX_SECONDS))
            backoff *= 2
    raise AssertionError("unreachable")
