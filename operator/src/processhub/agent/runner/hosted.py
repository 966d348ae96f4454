"""One actor in the runner: loaded, initialised, given one message at a time, ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import sys
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from processhub.actor import Actor, HubHandle
from processhub.agent.runner.loop import ActorLoop
from processhub.agent.runner.output import CURRENT, ChildLines
from processhub.agent.runner.scheduler import Scheduler, Strand

Message = dict[str, Any]
_ASYNC_METHODS = (
    "init", "handle_call", "handle_cast", "handle_info", "redundancy_signal", "prepare_handover", "accept_handover",
    "can_migrate", "terminate",
)  # fmt: skip
_CLEANUP_SECONDS = 1.0
_MARGIN = 0.25  # of the grace, kept for the clean-up after a cancelled handler


class TargetError(Exception):
    """The target can't be loaded; the message says why, as a user would want to read it."""


def load(target: str) -> type[Actor]:
    """The class of ``module:Class``. Raises TargetError."""
    name, _, path = target.partition(":")
    if not name or not path:
        raise TargetError(f"target {target!r}: write it as module:Class")
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        _print_trace(error)
        raise TargetError(f"module {name}: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise TargetError(f"module {name} has no {path}")
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Actor)):
        raise TargetError(f"{target} is no class derived from processhub.Actor")
    for method in _ASYNC_METHODS:
        if not inspect.iscoroutinefunction(getattr(found, method)):
            raise TargetError(f"{target}.{method} must be 'async def {method}(…)'")
    return found


class Hosted:
    """The actor for one start order. ``tell(event)`` sends to the agent; ``over(key)`` is called at its end."""

    def __init__(
        self,
        order: Message,
        hub: HubHandle,
        scheduler: Scheduler,
        tell: Callable[[Message], None],
        over: Callable[[str], None],
    ) -> None:
        self.key: str = order["key"]
        self._order, self._hub, self._tell, self._over = order, hub, tell, over
        self._child = (str(order["id"]), int(order["epoch"]))
        self._actor: Actor | None = None
        self._mailbox: deque[Message] = deque()
        self._arrived: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop: tuple[float, str] | None = None  # grace, reason; set from outside
        self._cleaning = self._crash_told = False
        self._end: Message = {"ev": "ended", "key": self.key, "reason": "Exited", "text": "stopped", "message": ""}
        self._strand = Strand(scheduler, self._begin, self._failed, self._finished)
        self._strand.wake()

    # from the runner's main thread

    def deliver(self, message: Message) -> None:
        """Queue a message behind those that wait."""
        self._mailbox.append(message)
        self._poke(self._arrival)

    def stop(self, grace: float, reason: str) -> None:
        """End it in order after the running message; ``grace`` seconds from now the handler is cancelled."""
        self._stop = (grace, reason)
        self._poke(self._told_to_stop)

    def _poke(self, callback: Callable[[], None]) -> None:
        """Have the actor's loop look at what arrived; one that does not exist yet will look when it begins."""
        loop = self._strand.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: the end is told already
                loop.call_soon_threadsafe(callback)

    # on pool threads, one at a time

    def _begin(self, loop: ActorLoop) -> None:
        token = CURRENT.set(self._child)
        try:
            kind = load(self._order["target"])
        except TargetError as error:
            self._ended("ImportError", "not started", str(error))
            self._strand.end()
            return
        finally:
            CURRENT.reset(token)
        self._task = loop.create_task(self._live(kind))
        self._task.add_done_callback(lambda _: self._strand.end())
        if self._stop is not None:
            loop.call_soon(self._told_to_stop)

    def _arrival(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    def _told_to_stop(self) -> None:
        self._arrival()
        assert self._stop is not None
        grace = self._stop[0]
        if grace <= 0:
            self._cancel()
        else:
            asyncio.get_running_loop().call_later(grace * (1 - _MARGIN), self._cancel)

    def _cancel(self) -> None:
        # Never in the midst of the clean-up: its end is the proof that nothing of the actor runs any more.
        if self._task is not None and not self._cleaning:
            self._task.cancel()

    async def _live(self, kind: type[Actor]) -> None:
        CURRENT.set(self._child)
        self._arrived = asyncio.Event()
        try:
            if self._stop is not None:
                return
            actor = self._make(kind)
            await actor.init(self._order["args"])
            self._tell({"ev": "running", "key": self.key})
            await self._serve(actor)
            if self._stop is not None:
                await actor.terminate(self._stop[1])
        except asyncio.CancelledError as error:
            if self._stop is None and not self._crash_told:
                self._crashed(error)
        except BaseException as error:  # noqa: BLE001 SystemExit too is this actor's crash and nobody else's
            self._crashed(error)
        finally:
            self._cleaning = True
            await self._clean_up()

    def _make(self, kind: type[Actor]) -> Actor:
        actor = kind.__new__(kind)
        actor.id, actor.epoch = self._child
        actor.member, actor.role, actor.hub = self._hub.member, self._order["role"], self._hub
        actor.__init__()  # type: ignore[misc]  # after its fields are set, so that it can use them
        self._actor = actor
        return actor

    async def _serve(self, actor: Actor) -> None:
        assert self._arrived is not None
        while self._stop is None:
            if not self._mailbox:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            message = self._mailbox.popleft()
            operation = message["op"]
            if operation == "call":
                value = await actor.handle_call(message["value"])
                self._tell({"ev": "answer", "key": self.key, "call": message["call"], "value": value})
            elif operation == "cast":
                await actor.handle_cast(message["value"])
            elif operation == "info":
                await actor.handle_info(message["value"])
            elif operation == "role":
                actor.role = message["role"]
                if message.get("signal"):
                    await actor.redundancy_signal(actor.role)

    async def _clean_up(self) -> None:
        """End the tasks that the actor started; what resists is never run again once the loop is closed."""
        loop = asyncio.get_running_loop()
        others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_CLEANUP_SECONDS)
        await loop.shutdown_asyncgens()
        # A job of its own that still runs on a thread is part of the actor: its end is waited for.
        await loop.shutdown_default_executor()

    def _crashed(self, error: BaseException) -> None:
        self._crash_told = True
        _print_trace(error)
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        self._ended("Exited", text[:300], "")

    def _ended(self, reason: str, text: str, message: str) -> None:
        self._end.update(reason=reason, text=text, message=message)

    def _failed(self, error: BaseException) -> None:
        """A task of its own raised SystemExit or the like out of the loop: a crash, cleaned up like any other."""
        if not self._cleaning:
            self._crashed(error)
            self._cancel()

    def _finished(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, ChildLines):
                stream.forget(self._child)
        self._over(self.key)
        self._tell(self._end)


def _print_trace(error: BaseException) -> None:
    """The traceback to stderr, without this package's own frames."""
    entries = traceback.extract_tb(error.__traceback__)
    own = [entry for entry in entries if "processhub/agent/runner" not in entry.filename]
    lines = ["Traceback (most recent call last):\n"] if own else []
    lines += traceback.format_list(own) + traceback.format_exception_only(type(error), error)
    sys.stderr.write("".join(lines))
