"""Requests that are sent again while the API server can't answer them, and many at once, a bounded number in flight."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConnectionFailedError, UnavailableError

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 32
_TOO_MANY_REQUESTS = 429
_ATTEMPTS = 8
_BACKOFF_MAX_SECONDS = 5.0


class PatientClient(Client):
    """The API client of users: after a 429, which says that nothing was done, it waits as kubectl does."""

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        send = partial(super()._request, method, path, **options)
        return await retried(send, lambda error: error.status == _TOO_MANY_REQUESTS)


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
    """Send the request and return its answer. If the server fails (5xx), the request is sent again.

    One that only ``reads`` is sent again also if there is no answer. The users' client itself handles a 429.
    """

    def failed(error: ApiError) -> bool:
        if isinstance(error, UnavailableError):
            return error.status != _TOO_MANY_REQUESTS
        return reads and isinstance(error, ConnectionFailedError)

    return await retried(request, failed)


async def retried(request: Callable[[], Awaitable[R]], again: Callable[[ApiError], bool]) -> R:
    """Send the request up to 8 times, as long as it ends in an error that ``again`` accepts; returns its answer.

    The pauses are as long as the server asks for, and longer each time, up to 5 seconds.
    """
    backoff = 0.1
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await request()
        except ApiError as error:
            if attempt == _ATTEMPTS or not again(error):
                raise
            asked = error.retry_after if isinstance(error, UnavailableError) else 0.0
            # Longer at random, so that not all clients come back at once.
            pause = max(asked, backoff) * random.uniform(1.0, 1.25)  # noqa: S311 jitter only
            await asyncio.sleep(min(pause, _BACKOFF_MAX_SECONDS))
            backoff *= 2
    raise AssertionError("unreachable")
