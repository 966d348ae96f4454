"""The background tasks of an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from processhub.agent.listeners import Listeners


class Tasks:
    """Tasks that run until the agent ends. ``failed`` notifies of an error that ended one of them."""

    def __init__(self) -> None:
        self.failed: Listeners[BaseException] = Listeners()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.notify(error)
