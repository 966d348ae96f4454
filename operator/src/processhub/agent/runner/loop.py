"""An asyncio event loop that gives its thread back whenever it would wait.

Thousands of actors have a loop each, and a few threads run them. The selector makes this possible. Where an ordinary
selector would sleep, this one raises ``Parked`` out of ``run_forever`` and keeps what to wait for. At that point the
loop has taken nothing from its queues, so nothing is lost: the next ``run_forever`` continues there. A loop needs no
descriptor until its actor registers one.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import types
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

# Within this time the outcome of a failed task is retrieved, or the task counts as unawaited, unless it may be later.
_AWAITED_SECONDS = 1.0
_EMPTY: tuple[Iterable[Any], ...] = ([], (), set(), {}, {}.values(), {}.items())
_ITERATORS: tuple[type[Any], ...] = tuple(type(iter(each)) for each in _EMPTY)
_HOLDERS: tuple[type[Any], ...] = (
    list,
    tuple,
    set,
    frozenset,
    dict,
    types.CellType,
    types.CoroutineType,
    types.AsyncGeneratorType,
    *_ITERATORS,
)


class Parked(BaseException):
    """Raised out of ``run_forever``. It is not an Exception, so that no handler in between catches it."""


class ParkingSelector(selectors.BaseSelector):
    """A selector that raises ``Parked`` where an ordinary selector would sleep."""

    def __init__(self) -> None:
        self._inner: Any = None
        self.timeout: float | None = None  # seconds that the loop would have slept; None: until it is woken

    @property
    def watched(self) -> int | None:
        """A descriptor that is readable when one of the loop's own is ready; None if the loop has registered none."""
        if self._inner is None or not self._inner.get_map():
            return None
        fd: int = self._inner.fileno()
        return fd

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Register a file object, as described for BaseSelector."""
        if self._inner is None:
            self._inner = selectors.EpollSelector()
        key: selectors.SelectorKey = self._inner.register(fileobj, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Unregister a file object, as described for BaseSelector."""
        if self._inner is None:
            raise KeyError(f"{fileobj!r} is not registered")
        key: selectors.SelectorKey = self._inner.unregister(fileobj)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change the events of a file object, as described for BaseSelector."""
        if self._inner is None:
            raise KeyError(f"{fileobj!r} is not registered")
        key: selectors.SelectorKey = self._inner.modify(fileobj, events, data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the descriptors that are ready now. Raises Parked where an ordinary selector would sleep."""
        events: list[tuple[selectors.SelectorKey, int]] = []
        if self.watched is not None:
            events = self._inner.select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        self.timeout = timeout
        raise Parked

    def close(self) -> None:
        """Close the selector."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the registered file objects, as described for BaseSelector."""
        return self._inner.get_map() if self._inner is not None else {}


class ActorLoop(asyncio.SelectorEventLoop):
    """The event loop of one actor.

    ``on_wake()`` is called, from any thread, when something was scheduled while the loop may be parked. ``tasks`` holds
    the tasks of this loop alone, because ``asyncio.all_tasks`` goes through those of all loops of the process.
    ``unawaited(error)`` is called when a task has failed and its outcome was not retrieved within a second, nor may be
    later.
    """

    def __init__(self, on_wake: Callable[[], None]) -> None:
        self.on_wake = on_wake
        self.unawaited: Callable[[BaseException], None] | None = None
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.parking = ParkingSelector()
        super().__init__(self.parking)

    @property
    def has_more(self) -> bool:
        """Whether more than a callback goes on: a task, or a thread or an asynchronous generator that may."""
        more: Any = self  # the last two are private to the base class
        return any(not task.done() for task in self.tasks) or bool(more._default_executor or more._asyncgens)

    def create_task(self, coro: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create the task as any loop does, and record it."""
        task = super().create_task(coro, **more)
        self.tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        if self.unawaited is not None and _is_unawaited(task):
            self.call_later(_AWAITED_SECONDS, self._still_unawaited, task, _AWAITED_SECONDS)

    def _still_unawaited(self, task: asyncio.Task[Any], seconds: float) -> None:
        if self.unawaited is None or not _is_unawaited(task):
            return
        if _has(task, [other.get_coro() for other in asyncio.all_tasks(self)]):
            self.call_later(2 * seconds, self._still_unawaited, task, 2 * seconds)
            return
        error = task.exception()
        assert error is not None
        self.unawaited(error)

    # Other threads use this pipe to wake a sleeping loop. These loops never sleep, so two descriptors an actor are
    # saved.
    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        self.on_wake()


def _is_unawaited(task: asyncio.Task[Any]) -> bool:
    """Whether a task has failed and its exception was not retrieved: asyncio logs that when the task is collected."""
    return not task.cancelled() and bool(getattr(task, "_log_traceback", False))


def _has(task: asyncio.Task[Any], coroutines: list[Any]) -> bool:
    """Whether one of the coroutines, which go on, has the task in a variable or in a collection: it may await it yet.

    So has ``asyncio.wait``, and a loop that awaits one task after the other. An attribute of an object does not count.
    """
    todo, seen = coroutines, set[int]()
    while todo:
        holder = todo.pop()
        for found in gc.get_referents(holder):
            if found is task:
                return True
            if isinstance(found, types.FrameType):  # of a coroutine, before Python 3.11
                seen |= {id(found.f_globals), id(found.f_builtins)}
            elif not isinstance(found, _HOLDERS):
                continue
            if id(found) not in seen:
                seen.add(id(found))
                todo.append(found)
    return False
