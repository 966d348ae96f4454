"""One actor in the runner: it is loaded and initialised, handles one message at a time, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processhub.actor import Actor, HubHandle
from processhub.agent.frames import STATE_IN_MESSAGE_MAX
from processhub.agent.runner.loop import ActorLoop
from processhub.agent.runner.outgoing import Message, OutgoingRequests
from processhub.agent.runner.output import CURRENT, ChildLines
from processhub.agent.runner.scheduler import Scheduler, Strand
from processhub.jsontext import NotJsonError, json_text

_ASYNC_METHODS = (
    "init", "handle_call", "handle_cast", "handle_info", "redundancy_signal", "prepare_handover", "accept_handover",
    "can_migrate", "terminate",
)  # fmt: skip
_CLEANUP_SECONDS = 1.0  # time for the actor's own tasks to end after they were cancelled
_MARGIN = 0.25  # share of the grace that is kept for the clean-up after a cancelled handler


class TargetError(Exception):
    """The target can't be loaded. The message says why, in words for the user."""


def load(target: str) -> type[Actor]:
    """Load the class of ``module:Class``. Raises TargetError."""
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
        raise TargetError(f"{target} is not a class derived from processhub.Actor")
    for method in _ASYNC_METHODS:
        if not inspect.iscoroutinefunction(getattr(found, method)):
            raise TargetError(f"{target}.{method} must be 'async def {method}(…)'")
    return found


class Hosted:
    """Runs the actor of one start order. ``send(event)`` sends to the agent; ``over(key)`` is called at its end."""

    def __init__(
        self,
        order: Message,
        hub: HubHandle,
        scheduler: Scheduler,
        send: Callable[[Message], None],
        over: Callable[[str], None],
    ) -> None:
        self.key: str = order["key"]
        self._order, self._send, self._over = order, send, over
        self._child = (str(order["id"]), int(order["epoch"]))
        self.requests = OutgoingRequests(self.key, self._child[0], send)
        self._hub = HubHandle(hub.name, hub.namespace, hub.member, self.requests.ask)
        self._mailbox: deque[Message] = deque()
        self._arrived: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop: tuple[float, str] | None = None  # grace and reason; set by other threads
        self._cleaning = self._crash_reported = False
        self._end: Message = {"ev": "ended", "key": self.key, "reason": "Exited", "text": "stopped", "message": ""}
        self._strand = Strand(scheduler, self._begin, self._failed, self._finished)
        self._strand.wake()

    # Called on the thread that takes the agent's messages.

    def deliver(self, message: Message) -> None:
        """Queue a message behind the waiting ones."""
        self._mailbox.append(message)
        self._poke(self._arrival)

    def stop(self, grace: float, reason: str) -> None:
        """End the actor after the message that it handles; after ``grace`` seconds its handler is cancelled."""
        self._stop = (grace, reason)
        self._poke(self._stop_requested)

    def _poke(self, callback: Callable[[], None]) -> None:
        """Have the actor's loop look at the mailbox. A loop that does not exist yet looks there when it begins."""
        loop = self._strand.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the end has been reported already
                loop.call_soon_threadsafe(callback)

    # Called on pool threads, one at a time.

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
        loop.unawaited = self._background_failed
        self._task = loop.create_task(self._live(kind))
        self._task.add_done_callback(lambda _: self._strand.end())
        if self._stop is not None:
            loop.call_soon(self._stop_requested)

    def _arrival(self) -> None:
        if self._arrived is not None:
            self._arrived.set()

    def _stop_requested(self) -> None:
        self._arrival()
        assert self._stop is not None
        grace = self._stop[0]
        if grace <= 0:
            self._cancel()
        else:
            asyncio.get_running_loop().call_later(grace * (1 - _MARGIN), self._cancel)

    def _cancel(self) -> None:
        # The clean-up is never cancelled: its end proves that nothing of the actor runs any more.
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
            if (text := self._inherited()) is not None:
                await actor.accept_handover(json.loads(text))
            if self._order.get("signal"):
                await actor.redundancy_signal(actor.role)
            self._send({"ev": "running", "key": self.key})
            await self._serve(actor)
            if self._stop is not None:
                await actor.terminate(self._stop[1])
        except asyncio.CancelledError as error:
            if self._stop is None and not self._crash_reported:
                self._crashed(error)
        except BaseException as error:  # noqa: BLE001 SystemExit too is a crash of this actor, and must not end the others
            self._crashed(error)
        finally:
            self._cleaning = True
            await self._clean_up()

    def _inherited(self) -> str | None:
        """The JSON text of the state that the actor starts with, or None."""
        if path := self._order.get("state_file"):
            return Path(path).read_text()
        state: str | None = self._order.pop("state", None)  # the text is not needed any more
        return state

    def _make(self, kind: type[Actor]) -> Actor:
        actor = kind.__new__(kind)
        actor.id, actor.epoch = self._child
        actor.member, actor.role, actor.hub = self._hub.member, self._order["role"], self._hub
        actor._crash = self._background_failed
        actor.__init__()  # type: ignore[misc]  # called after the fields are set, so that it can use them
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
            if operation in ("call", "cast"):
                await self._handle(actor, operation, message)
            elif operation == "info":
                await actor.handle_info(message["value"])
            elif operation == "handover":
                await self._hand_over(actor, message)
            elif operation == "role":
                actor.role, actor.epoch = message["role"], message["epoch"]
                if message.get("signal"):
                    await actor.redundancy_signal(actor.role)
        # Messages that were handed over before the order to stop are answered, within the grace.
        for message in [message for message in self._mailbox if message["op"] in ("call", "cast")]:
            await self._handle(actor, message["op"], message)

    async def _handle(self, actor: Actor, operation: str, message: Message) -> None:
        answer: Message = {"ev": "answer", "key": self.key, "call": message["call"]}
        try:
            request = json.loads(message["payload"].decode())
        except (ValueError, RecursionError) as error:
            self._send({**answer, "bad": f"the request can't be decoded: {error}"})
            return
        actor.idempotency_key = message.get("idempotency", "")
        self.requests.handling = asyncio.current_task()
        try:
            value = None
            if operation == "call":
                value = await actor.handle_call(request)
            else:
                await actor.handle_cast(request)
        finally:
            self.requests.handling = None
        try:
            answer["payload"] = json_text(value, default=str).encode()
        except NotJsonError as error:
            answer["bad"] = f"the answer of handle_call does not fit JSON: {error}"
        self._send(answer)

    async def _hand_over(self, actor: Actor, message: Message) -> None:
        """Send the state to the agent, or write it to a file as a whole, and end the actor.

        With ``ask`` in the message, this is done only if the actor agrees.
        """
        if message["ask"] and not await self._agrees(actor, float(message["patience"])):
            self._send({"ev": "kept", "key": self.key, "order": message["order"]})
            return
        state = json.dumps(await actor.prepare_handover(), separators=(",", ":"))
        if len(state) <= STATE_IN_MESSAGE_MAX:  # in bytes too, because json.dumps writes ASCII
            self._send({"ev": "handed", "key": self.key, "state": state})
        else:
            _write(message["path"], state)
            self._send({"ev": "handed", "key": self.key})
        if self._stop is None:
            self._stop = (float(message["grace"]), "stop")
            self._stop_requested()

    async def _agrees(self, actor: Actor, max_wait: float) -> bool:
        """Whether the actor may be moved now. An actor that asks for time gets ``max_wait`` seconds in all."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait
        while True:
            agreed = await actor.can_migrate()
            if isinstance(agreed, bool):
                return agreed
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(max(0.01, float(agreed)), left))

    async def _clean_up(self) -> None:
        """End the tasks that the actor started. A task that resists never runs again once the loop is closed."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ActorLoop)
        others = {task for task in loop.tasks if not task.done()} - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_CLEANUP_SECONDS)
        await loop.shutdown_asyncgens()
        # A job of the actor that still runs on a thread is part of the actor, so its end is awaited.
        await loop.shutdown_default_executor()

    def _crashed(self, error: BaseException) -> None:
        self._crash_reported = True
        _print_trace(error)
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        self._ended("Exited", text[:300], "")

    def _ended(self, reason: str, text: str, message: str) -> None:
        self._end.update(reason=reason, text=text, message=message)

    def _failed(self, error: BaseException) -> None:
        """Treat an error that left the loop, such as SystemExit in a task, as a crash, and clean up."""
        self._background_failed(error)

    def _background_failed(self, error: BaseException) -> None:
        """Treat the failure of a task that nobody awaits as a crash, and clean up."""
        if not self._cleaning and not self._crash_reported:
            self._crashed(error)
            self._cancel()

    def _finished(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, ChildLines):
                stream.forget(self._child)
        self._over(self.key)
        self._send(self._end)


def _write(path: str, text: str) -> None:
    scratch = Path(path + ".part")
    scratch.write_text(text)
    scratch.replace(path)


def _print_trace(error: BaseException) -> None:
    """Print the traceback to stderr, without the frames of this package."""
    entries = traceback.extract_tb(error.__traceback__)
    own = [entry for entry in entries if "processhub/agent/runner" not in entry.filename]
    lines = ["Traceback (most recent call last):\n"] if own else []
    lines += traceback.format_list(own) + traceback.format_exception_only(type(error), error)
    sys.stderr.write("".join(lines))
