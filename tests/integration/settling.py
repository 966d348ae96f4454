"""Waiting until something is so on a cluster, and seeing that it stays so."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from waiting import pauses

from processhub.cluster.errors import NotFoundError

T = TypeVar("T")
PATIENCE = 40.0  # for what takes a second or two on an idle machine


async def settles(check: Callable[[], Awaitable[T]], within: float = PATIENCE, every: float | None = None) -> T:
    """What ``check`` returns as soon as it asserts nothing wrong and finds what it looks up; else its last error.

    A ValueError too: so many are not there yet as it unpacks. ``every``: seconds between two looks.
    """
    deadline = time.monotonic() + within
    pause = itertools.repeat(every) if every else pauses()
    while True:
        try:
            return await check()
        except (AssertionError, NotFoundError, LookupError, ValueError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(next(pause))


async def stays(check: Callable[[], Awaitable[None]], seconds: float) -> None:
    """``check`` holds now and for so long: for what must not happen there is no condition to wait for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await check()
        await asyncio.sleep(0.2)
