"""A queue of keys: one worker a key at a time, the first event at once, what follows within 100 ms together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from processhub.cluster.errors import ApiError

K = TypeVar("K", bound=Hashable)
log = logging.getLogger(__name__)

DEBOUNCE_SECONDS = 0.1
_BACKOFF_MIN, _BACKOFF_MAX = 0.2, 30.0
_REST_MAX = 0.3  # seconds


class WorkQueue(Generic[K]):
    """Calls ``work(key)`` for each added key; its result is the seconds after which it wants to run again, or None.

    Leading edge: a key that has been quiet runs at once; one that ran within the debounce waits for its end, and
    longer where a run takes long: it rests for up to as long as it ran, so that a storm makes runs larger, not more.
    An exception is logged and tried again with back-off.
    """

    def __init__(self, work: Callable[[K], Awaitable[float | None]], debounce: float = DEBOUNCE_SECONDS) -> None:
        self._work, self._debounce = work, debounce
        self._dirty: dict[K, asyncio.Event] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._closed = False

    def add(self, key: K) -> None:
        """Have ``key`` worked on soon, unless the queue was closed. Call from the event loop."""
        if self._closed:
            return  # the watches outlive the work
        event = self._dirty.get(key)
        if event is None:
            event = self._dirty[key] = asyncio.Event()
        event.set()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._serve(key, event), name=f"queue {key}")

    async def close(self) -> None:
        """Cancel all work and wait until it has ended; none begins any more."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._dirty.clear()

    async def _serve(self, key: K, dirty: asyncio.Event) -> None:
        """Work on one key until it is quiet and wants no further run; add() starts a new worker then."""
        loop = asyncio.get_running_loop()
        backoff = _BACKOFF_MIN
        again: float | None = None
        while dirty.is_set() or again is not None:
            # Not wait_for: of Python 3.11 that loses a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await dirty.wait()
            dirty.clear()
            began = loop.time()
            try:
                again = await self._work(key)
                backoff = _BACKOFF_MIN
            except ApiError as error:
                log.warning("work on %s failed; again in %.1f s: %s", key, backoff, error.message[:500])
                again, backoff = backoff, min(backoff * 2, _BACKOFF_MAX)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _told_to_end():
                    raise
                log.exception("work on %s failed; again in %.1f s", key, backoff)
                again, backoff = backoff, min(backoff * 2, _BACKOFF_MAX)
            took = loop.time() - began
            await asyncio.sleep(max(self._debounce - took, min(took, _REST_MAX)))
        del self._tasks[key], self._dirty[key]


def _told_to_end() -> bool:
    """Whether a CancelledError is this task's own, not one of something that its work waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
