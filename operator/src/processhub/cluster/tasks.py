"""What tasks wait for, and their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, for ``seconds`` at most.

    ``asyncio.wait_for`` of Python 3.11 would lose a cancellation that coincides with the event.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, and wait until all of them have ended in whatever way."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
