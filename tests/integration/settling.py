"""Waits until a check of a cluster succeeds, and checks that a state lasts."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from waiting import PASSING, pauses

from localcluster.layout import ClusterError
from processhub.cluster.errors import NotFoundError

T = TypeVar("T")
PATIENCE = 40.0  # for changes that take a second or two on an idle machine


async def settles(check: Callable[[], Awaitable[T]], within: float = PATIENCE, every: float | None = None) -> T:
    """Return the result of ``check`` once it raises neither AssertionError nor LookupError; else raise its last error.

    A ValueError is retried too: unpacking raises it while there are too few objects. So is a ClusterError: kubectl
    finds nothing yet, or no log of a container that is starting. ``every`` is the interval in seconds.
    """
    deadline = time.monotonic() + within
    pause = itertools.repeat(every) if every else pauses()
    while True:
        try:
            return await check()
        except (AssertionError, NotFoundError, *PASSING, ClusterError, LookupError, ValueError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(next(pause))


async def stays(check: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Assert that ``check`` holds now and for this long, for states with no condition to wait for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await check()
        await asyncio.sleep(0.2)
