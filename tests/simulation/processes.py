"""Simulated processes on one event loop: each can be killed, or paused and resumed, at any await.

Every callback that a process schedules carries its context, so the loop knows the process of each step. A step of a
killed process never runs, as after SIGKILL: no ``finally``, no handler of a cancellation. The steps of a paused process
wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
import weakref
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import virtualtime

from processhub.cluster.timestamps import use_clock

_TURN_SECONDS = 1e-6  # otherwise a sleep that is shorter than the clock's resolution would never end
BEGIN = datetime(2040, 1, 1, tzinfo=UTC)
_present: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Process:
    """One process. ``skew`` is the error of its machine's clock in seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.skew = name, 0.0
        self.dead = self.paused = False
        self.context = contextvars.Context()
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._waiting: list[asyncio.Handle] = []
        self._killed: list[asyncio.Task[Any]] = []  # kept, because collecting a task would run its ``finally``
        self.context.run(_present.set, self)
        self.context.run(use_clock, self.wall_clock)

    @property
    def runs(self) -> bool:
        """Whether it makes progress now."""
        return not self.dead and not self.paused

    def wall_clock(self) -> datetime:
        """The time of day, as this process sees it."""
        return BEGIN + timedelta(seconds=asyncio.get_running_loop().time() + self.skew)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task in this process."""
        return asyncio.get_running_loop().create_task(work, context=self.context.copy())

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call the function in this process, as soon as it runs."""
        asyncio.get_running_loop().call_soon(function, *args, context=self.context.copy())

    def kill(self) -> None:
        """End it between two of its steps."""
        self.dead = True
        self._killed = list(self.tasks)
        self._waiting.clear()

    def pause(self) -> None:
        """Stop it, as by SIGSTOP."""
        self.paused = True

    def resume(self, loop: SimulatedLoop) -> None:
        """Continue it: all steps that became due in the meantime run now, in order."""
        self.paused = False
        waiting, self._waiting = self._waiting, []
        loop.run_again(waiting)

    def holds_back(self, handle: asyncio.Handle) -> bool:
        """Whether a step of this process must not run now."""
        if self.dead:
            return True
        if self.paused:
            self._waiting.append(handle)
        return self.paused


def present_name() -> str:
    """Return the name of the process whose step runs; "" outside of all processes."""
    process = _present.get()
    return process.name if process is not None else ""


class _Step(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(_present)  # type: ignore[attr-defined]
        if process is None or not process.holds_back(self):
            super()._run()


class _LaterStep(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        process = self._context.get(_present)  # type: ignore[attr-defined]
        if process is None or not process.holds_back(self):
            super()._run()


class SimulatedLoop(virtualtime._Loop):
    """The event loop of virtual time; its steps belong to processes."""

    def __init__(self) -> None:
        super().__init__()
        self.outside = contextvars.Context()  # of no process
        self.outside.run(use_clock, lambda: BEGIN + timedelta(seconds=self.time()))
        self.set_task_factory(_new_task)
        self._clock.select = self._pass_time  # type: ignore[method-assign]

    def _pass_time(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let time pass: each iteration of the loop takes some. Nothing is selected, as no step waits for a file."""
        assert timeout is not None, "everything waits, and nothing is going to happen"
        self._clock.now += max(timeout, _TURN_SECONDS)
        return []

    def _write_to_self(self) -> None:
        """Do nothing: no other thread wakes the loop."""

    def _call_soon(self, callback: Any, args: Any, context: contextvars.Context | None) -> asyncio.Handle:
        handle = _Step(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]
        timer = _LaterStep(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        return timer

    def apart(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task that belongs to no process: it continues whatever happens to them."""
        return self.create_task(work, context=self.outside.copy())

    def later(self, seconds: float, function: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call the function outside of all processes."""
        return self.call_at(self.time() + seconds, function, *args, context=self.outside.copy())

    def run_again(self, handles: list[asyncio.Handle]) -> None:
        """Run these steps now, in order."""
        self._ready.extend(handles)  # type: ignore[attr-defined]


def _new_task(loop: asyncio.AbstractEventLoop, work: Any, context: contextvars.Context | None = None) -> Any:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = (context or contextvars.copy_context()).get(_present)
    if process is not None:
        process.tasks.add(task)
    return task
