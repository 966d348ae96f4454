"""A queue of keys with one worker for each key: the first event runs at once, those within 100 ms run together."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from processhub.cluster.errors import ApiError
from processhub.cluster.tasks import cancel_all, wait_for_event

K = TypeVar("K", bound=Hashable)
log = logging.getLogger(__name__)

DEBOUNCE_SECONDS = 0.1
_BACKOFF_MIN, _BACKOFF_MAX = 0.2, 30.0
_REST_MAX = 0.3  # seconds
_PATIENCE = 0.5  # seconds between the beginnings of two runs, if nothing waits for the second


class _Added(NamedTuple):
    """Whether a key was added since its last run began, and whether something waits for the next one."""

    any: asyncio.Event
    awaited: asyncio.Event


class WorkQueue(Generic[K]):
    """Calls ``work(key)`` for each added key; its result is the seconds after which it should run again, or None.

    A key that has been quiet runs at once. A key that ran within the debounce time waits for its end. If a run took
    longer, the key rests for up to as long as the run took, so that many events make runs larger, not more frequent.
    For example, with events all the time and runs of 20 ms, the key runs every 100 ms; with runs of 200 ms, it runs
    every 400 ms; with patient events only, every 500 ms. An exception is logged, and the key is retried with back-off.
    """

    def __init__(self, work: Callable[[K], Awaitable[float | None]], debounce: float = DEBOUNCE_SECONDS) -> None:
        self._work, self._debounce = work, debounce
        self._added: dict[K, _Added] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._closed = False

    def add(self, key: K, *, patient: bool = False) -> None:
        """Have ``key`` worked on soon, unless the queue was closed. Call it from the event loop.

        ``patient``: nothing waits for that, so the next run may begin half a second after the last one.
        """
        if self._closed:
            return  # the watches continue after the queue was closed
        added = self._added.get(key)
        if added is None:
            added = self._added[key] = _Added(asyncio.Event(), asyncio.Event())
        added.any.set()
        if not patient:
            added.awaited.set()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._serve(key, added), name=f"queue {key}")

    async def close(self) -> None:
        """Cancel all work, wait until it has ended, and start none any more."""
        self._closed = True
        await cancel_all(self._tasks.values())
        self._tasks.clear()
        self._added.clear()

    async def _serve(self, key: K, added: _Added) -> None:
        """Work on one key until it is quiet and needs no further run. ``add()`` starts a new worker then."""
        loop = asyncio.get_running_loop()
        backoff = _BACKOFF_MIN
        again: float | None = None
        patient_until = -math.inf
        while True:
            due = math.inf if again is None else loop.time() + again
            # The worker outlasts the time for which events may be patient, as it knows since when they are.
            await _set_or_time(added.any, patient_until if again is None else due)
            if again is None and not added.any.is_set():
                break
            await _set_or_time(added.awaited, min(due, patient_until))
            added.any.clear()
            added.awaited.clear()
            began = loop.time()
            patient_until = began + _PATIENCE
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
        del self._tasks[key], self._added[key]


async def _set_or_time(event: asyncio.Event, at: float) -> None:
    """Wait for the event, until ``at`` by the loop's time."""
    if (seconds := at - asyncio.get_running_loop().time()) > 0:
        await wait_for_event(event, seconds)


def _told_to_end() -> bool:
    """Whether a CancelledError is this task's own, and not that of something that its work awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
