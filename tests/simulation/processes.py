"""Simulated processes on one event loop: each can be killed, or paused and resumed, at any await.

Every callback that a process schedules carries its context, so the loop knows the process of each step. A step of a
killed process never runs, as after SIGKILL: no ``finally``, no handler of a cancellation. The steps of a paused process
wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import virtualtime

from processhub.cluster.timestamps import use_clock

_TURN_SECONDS = 1e-6  # otherwise a sleep that is shorter than the clock's resolution would never end
_LONGEST_SECONDS = 86_400.0
_RESOLUTION = 1e-9
_MANY_TIMERS = 100
BEGIN = datetime(2040, 1, 1, tzinfo=UTC)
_present: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Process:
    """One process. ``skew`` is the error of its machine's clock in seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.skew = name, 0.0
        self.dead = self.paused = False
        self.context = contextvars.Context()
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._waiting: list[_Step | _LaterStep] = []
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

    def holds_back(self, handle: _Step | _LaterStep) -> bool:
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


class _Step:
    """A callback, as ``asyncio.Handle``, with what the loop and asyncio use of it."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self._callback, self._args, self._context = callback, args, context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = _nothing, ()

    def cancelled(self) -> bool:
        return self._cancelled


class _LaterStep(float):
    """The same for a timer. It is its time, so that the heap of timers compares without calls."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_loop", "_scheduled")
    _args: tuple[Any, ...]
    _callback: Callable[..., object]
    _cancelled: bool
    _context: contextvars.Context
    _loop: SimulatedLoop
    _scheduled: bool

    def cancel(self) -> None:
        if not self._cancelled:
            self._loop._timer_cancelled_count += self._scheduled
            self._cancelled = True
            self._callback, self._args = _nothing, ()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return float(self)


def _nothing() -> None:
    """Do nothing, in the place of a cancelled callback."""


class SimulatedLoop(virtualtime._Loop):
    """The event loop of virtual time; its steps belong to processes.

    Nothing but time makes steps due, so an iteration needs a small part of what asyncio's own does. A run has about
    50,000 of them.
    """

    _ready: deque[_Step | _LaterStep]
    _scheduled: list[_LaterStep]
    _timer_cancelled_count: int
    _stopping: bool
    _closed: bool

    def __init__(self) -> None:
        super().__init__()
        self.outside = contextvars.Context()  # of no process
        self.outside.run(use_clock, lambda: BEGIN + timedelta(seconds=self.time()))

    def _run_once(self) -> None:
        """Let time pass until a step is due, and run all that are: each iteration of the loop takes some time."""
        ready, scheduled, clock = self._ready, self._pending(), self._clock
        if ready or self._stopping:
            clock.now += _TURN_SECONDS
        else:
            assert scheduled, "everything waits, and nothing is going to happen"
            clock.now += max(min(scheduled[0] - clock.now, _LONGEST_SECONDS), _TURN_SECONDS)
        end = clock.now + _RESOLUTION
        while scheduled and scheduled[0] < end:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            step = ready.popleft()
            if step._cancelled:
                continue
            context = step._context
            process = context.get(_present)
            if process is not None and not process.runs and process.holds_back(step):
                continue
            try:
                context.run(step._callback, *step._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 as asyncio does
                self.call_exception_handler({"message": f"Exception in callback {step._callback}", "exception": error})

    def _pending(self) -> list[_LaterStep]:
        """Return the timers as a heap that begins with one that is not cancelled, and is not full of cancelled ones."""
        timers = self._scheduled
        if len(timers) > _MANY_TIMERS and self._timer_cancelled_count / len(timers) > 0.5:
            for timer in timers:
                timer._scheduled = not timer._cancelled
            self._scheduled = timers = [timer for timer in timers if timer._scheduled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        else:
            while timers and timers[0]._cancelled:
                heapq.heappop(timers)._scheduled = False
                self._timer_cancelled_count -= 1
        return timers

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        if self._closed:
            self._check_closed()  # type: ignore[attr-defined]
        step = _Step(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(step)
        return step

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        return self.call_at(self._clock.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        if self._closed:
            self._check_closed()  # type: ignore[attr-defined]
        timer = _LaterStep(when)
        timer._callback, timer._args, timer._loop = callback, args, self
        timer._context = contextvars.copy_context() if context is None else context
        timer._cancelled, timer._scheduled = False, True
        heapq.heappush(self._scheduled, timer)
        return timer

    def create_task(self, work: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> Any:
        if self._closed:
            self._check_closed()  # type: ignore[attr-defined]
        context = contextvars.copy_context() if context is None else context
        task: asyncio.Task[Any] = asyncio.Task(work, loop=self, name=name, context=context)
        process = context.get(_present)
        if process is not None:
            process.tasks.add(task)
        return task

    def apart(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task that belongs to no process: it continues whatever happens to them."""
        return self.create_task(work, context=self.outside.copy())

    def later(self, seconds: float, function: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call the function outside of all processes."""
        return self.call_at(self.time() + seconds, function, *args, context=self.outside.copy())

    def run_again(self, handles: list[_Step | _LaterStep]) -> None:
        """Run these steps now, in order."""
        self._ready.extend(handles)
