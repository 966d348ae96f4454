"""One actor in the runner: it is loaded and initialised, handles one message at a time, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import inspect
import json
import os
import sys
import weakref
from collections import deque
from typing import Any, Protocol

from processhub.actor import Actor, HubHandle
from processhub.agent.envfiles import read_value
from processhub.agent.frames import ANSWER_MAX, STATE_IN_MESSAGE_MAX, Message
from processhub.agent.runner.failures import print_trace, text_of
from processhub.agent.runner.loop import ActorLoop
from processhub.agent.runner.outgoing import OutgoingRequests
from processhub.agent.runner.output import CURRENT, ChildLines
from processhub.agent.runner.scheduler import Scheduler, Strand
from processhub.jsontext import NotJsonError, json_text
from processhub.methods import MethodError, call_method, names_method

_ASYNC_METHODS = (
    "init", "handle_call", "handle_cast", "handle_info", "redundancy_signal", "prepare_handover", "accept_handover",
    "can_migrate", "terminate",
)  # fmt: skip
_STOPPED = ("Exited", "stopped", "")  # the end of an actor that was not a failure: reason, text and message
_CLEANUP_SECONDS = 1.0  # time for the actor's own tasks to end after they were cancelled
_MARGIN = 0.25  # share of the grace that is kept for the clean-up after a cancelled handler
# Whether it can be seen that nothing holds a loop, and whether a task can be created in the context of an earlier one.
_CAN_SLEEP = sys.implementation.name == "cpython" and sys.version_info >= (3, 11)


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
        print_trace(error)
        raise TargetError(f"module {name}: {type(error).__name__}: {text_of(error)}") from error
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise TargetError(f"module {name} has no {path}")
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Actor)):
        raise TargetError(f"{target} is not a class derived from processhub.Actor")
    if (method := _not_async(found)) is not None:  # type: ignore[arg-type]  # a class is hashable
        raise TargetError(f"{target}.{method} must be 'async def {method}(…)'")
    return found


@functools.lru_cache(maxsize=64)  # asked at each start, and a tenth of its time otherwise
def _not_async(kind: type) -> str | None:
    """The first method of the class that should be ``async def`` and is not, or None."""
    return next((name for name in _ASYNC_METHODS if not inspect.iscoroutinefunction(getattr(kind, name))), None)


class ActorHost(Protocol):
    """The process that hosts the actors. Its methods may be called from any thread."""

    hub: HubHandle

    def send(self, message: Message) -> None:
        """Send an event to the agent."""

    def came_up(self, key: str) -> None:
        """Report soon that the actor is up."""

    def over(self, key: str) -> None:
        """Forget the actor: nothing of it will run any more."""


class Hosted(Strand):
    """Runs the actor of one start order, from the first ``wake`` on, and sends its events to the agent.

    An event loop costs more than all else that an actor needs at first. So an actor *sleeps* once it is up, if its
    ``init`` has left nothing on the loop: no task, timer or descriptor, nor any other reference to it. The loop then
    goes to the next actor that starts, and the actor gets one again with its next message. Its context stays its own.
    After its first request it sleeps again, in the same way: many actors are started for one request.
    """

    __slots__ = (
        "_actor", "_arrived", "_child", "_cleaning", "_context", "_end", "_host", "_mailbox", "_order", "_requests",
        "_stop", "_stop_seen", "_task", "key",
    )  # fmt: skip

    def __init__(self, order: Message, host: ActorHost, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self.key: str = order["key"]
        self._order, self._host = order, host
        self._child = (str(order["id"]), int(order["epoch"]))
        self._requests: OutgoingRequests | None = None
        self._mailbox: deque[Message] | tuple[()] = ()  # most actors get no message for long
        self._actor: Actor | None = None  # set once it is up
        self._arrived: asyncio.Event | None = None
        self._context: contextvars.Context | None = None  # of the actor's code, over all of its tasks
        self._task: asyncio.Task[None] | None = None
        self._stop: tuple[float, str] | None = None  # grace and reason; set by other threads
        self._stop_seen = self._cleaning = False
        self._end = _STOPPED

    # Called on the thread that takes the agent's messages.

    def deliver(self, message: Message) -> None:
        """Queue a message behind the waiting ones."""
        if isinstance(self._mailbox, tuple):
            self._mailbox = deque()
        self._mailbox.append(message)
        self.wake()

    def stop(self, grace: float, reason: str) -> None:
        """End the actor after the message that it handles; after ``grace`` seconds its handler is cancelled."""
        self._stop, self._stop_seen = (grace, reason), False
        self.wake()

    def answered(self, message: Message) -> None:
        """Take the answer to a request of the actor."""
        if self._requests is not None:
            self._requests.answered(message)

    # Called on pool threads, one at a time.

    def begin(self, loop: ActorLoop) -> None:
        """Start the actor, or go on with it, on a loop that it did not have before."""
        kind: type[Actor] | None = None
        if self._actor is None:
            token = CURRENT.set(self._child)
            try:
                kind = load(self._order["target"])
            except TargetError as error:
                self._end = ("ImportError", "not started", str(error))
                self.end()
                return
            finally:
                CURRENT.reset(token)
            self._context = contextvars.copy_context()
        loop.unawaited = self.failed
        self._task = self._new_task(loop, kind)
        self._task.add_done_callback(self._task_over)
        self.attend()

    def _new_task(self, loop: ActorLoop, kind: type[Actor] | None) -> asyncio.Task[None]:
        """The task of the actor's own code. It is not among the tasks of the loop, which are those that it starts."""
        if sys.version_info >= (3, 11):  # noqa: UP036 an image's own Python may be older than the agent's
            return asyncio.Task(self._live(kind), loop=loop, context=self._context)
        return asyncio.Task(self._live(kind), loop=loop)

    def _task_over(self, _: asyncio.Task[None]) -> None:
        if self.sleeps:
            self._task = None
        else:
            self.end()

    def attend(self) -> None:
        """Look at what other threads have left: messages, and the order to stop."""
        if self._mailbox and self._arrived is not None:
            self._arrived.set()
        if self._stop is not None and not self._stop_seen:
            self._stop_requested()

    def _stop_requested(self) -> None:
        self._stop_seen = True
        if self._arrived is not None:
            self._arrived.set()
        assert self._stop is not None
        loop, grace = self.loop, self._stop[0]
        if grace <= 0:
            self._cancel()
        elif loop is not None:
            loop.call_later(grace * (1 - _MARGIN), self._cancel)

    def _cancel(self) -> None:
        # The clean-up is never cancelled: its end proves that nothing of the actor runs any more.
        if self._task is not None and not self._cleaning:
            self._task.cancel()

    async def _live(self, kind: type[Actor] | None) -> None:
        """Run the actor; ``kind`` is its class if it has not come up yet."""
        try:
            holders = None
            if kind is not None:
                holders = await self._come_up(kind)
                if holders is None:
                    return
            actor = self._actor
            assert actor is not None
            await self._serve(actor, holders)
            if self._stop is not None and self._end is _STOPPED and not self.sleeps:
                await actor.terminate(self._stop[1])
        except asyncio.CancelledError as error:
            if self._stop is None and self._end is _STOPPED:
                self._crashed(error)
        except BaseException as error:  # noqa: BLE001 SystemExit too is a crash of this actor, and must not end the others
            self._crashed(error)
        finally:
            if not self.sleeps:
                self._cleaning = True
                await self._clean_up()

    async def _come_up(self, kind: type[Actor]) -> tuple[int, int] | None:
        """Initialise the actor; returns what held the loop before, or None if there is nothing to do for it now."""
        CURRENT.set(self._child)
        if self._stop is not None:
            return None
        loop, order = asyncio.get_running_loop(), self._order
        before = _holders(loop)
        actor = self._make(kind)
        await actor.init(order["args"])
        if (text := self._inherited()) is not None:
            await actor.accept_handover(json.loads(text))
        if order.get("signal"):
            await actor.redundancy_signal(actor.role)
        self._actor, self._order = actor, {}
        self._host.came_up(self.key)
        unchanged = _holders(loop) == before  # what is on the stack holds it too, so there is nothing else here
        if not self._mailbox and unchanged and self._falls_asleep(loop):
            return None
        return before

    def _falls_asleep(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the actor, which has left nothing on the loop, goes to sleep now."""
        if _CAN_SLEEP and self._stop is None and self._end is _STOPPED:
            self.sleeps = _is_plain(loop)
        return self.sleeps

    def _inherited(self) -> str | None:
        """The JSON text of the state that the actor starts with, or None."""
        if path := self._order.get("state_file"):
            with open(path) as file:
                return file.read()
        state: str | None = self._order.pop("state", None)  # the text is not needed any more
        return state

    def _make(self, kind: type[Actor]) -> Actor:
        actor = kind.__new__(kind)
        actor.id, actor.epoch = self._child
        hub = self._host.hub
        actor.member, actor.role = hub.member, self._order["role"]
        actor.hub = HubHandle(hub.name, hub.namespace, hub.member, self._ask)
        if "env" in self._order:
            files = {name: read_value(name, path) for name, path in self._order["env_files"].items()}
            actor.env = {**self._order["env"], **files}
        actor._crash = self.failed
        actor.__init__()  # type: ignore[misc]  # called after the fields are set, so that it can use them
        return actor

    async def _ask(self, operation: str, child_id: str, value: Any, to: str) -> Any:
        return await self._outgoing().ask(operation, child_id, value, to)

    def _outgoing(self) -> OutgoingRequests:
        """The actor's requests to other children: most actors never have one."""
        if self._requests is None:
            self._requests = OutgoingRequests(self.key, self._child[0], self._host.send)
        return self._requests

    async def _serve(self, actor: Actor, holders: tuple[int, int] | None) -> None:
        """Handle messages until the actor is to stop, or sleeps after its first request.

        ``holders``: what held the loop before, None if the actor has slept.
        """
        arrived = self._arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        if holders is None and self._requests is None:
            holders = _holders(loop)  # it has handled no request yet
        while self._stop is None and self._end is _STOPPED:  # its code may have ignored the cancellation after a crash
            mailbox = self._mailbox
            if not mailbox:
                unchanged = holders is not None and _holders(loop) == holders
                if unchanged and self._falls_asleep(loop):
                    self._arrived = None
                    return
                holders = None
                arrived.clear()
                await arrived.wait()
                continue
            message = mailbox.popleft()
            operation = message["op"]
            if operation in ("call", "cast"):
                await self._handle(actor, operation, message)
            elif operation == "handover":
                await self._hand_over(actor, message)
            elif operation == "role":
                actor.role, actor.epoch = message["role"], message["epoch"]
                if message.get("signal"):
                    await actor.redundancy_signal(actor.role)
        # Messages that were handed over before the order to stop are answered, within the grace.
        for message in [message for message in self._mailbox if message["op"] in ("call", "cast")]:
            if self._end is _STOPPED:
                await self._handle(actor, message["op"], message)

    async def _handle(self, actor: Actor, operation: str, message: Message) -> None:
        answer: Message = {"ev": "answer", "key": self.key, "call": message["call"]}
        try:
            request = json.loads(message["payload"].decode())
        except (ValueError, RecursionError) as error:
            self._host.send({**answer, "bad": f"the request can't be decoded: {error}"})
            return
        actor.headers = headers = message.get("headers", {})
        actor.idempotency_key = headers.get("idempotency-key", "")
        requests = self._outgoing()
        requests.handling = asyncio.current_task()
        try:
            value = None
            if actor._methods and names_method(request):
                value = await call_method(actor, request)
            elif operation == "call":
                value = await actor.handle_call(request)
            else:
                await actor.handle_cast(request)
        except MethodError as error:
            self._host.send({**answer, "bad": text_of(error), "status": 400})
            return
        finally:
            requests.handling = None
        try:
            payload = json_text(value, default=str).encode()
        except NotJsonError as error:
            answer["bad"] = f"the answer of handle_call does not fit JSON: {text_of(error)}"
        else:
            if len(payload) <= ANSWER_MAX:
                answer["payload"] = payload
            else:
                answer["bad"] = f"the answer of handle_call has {len(payload)} bytes, the limit is {ANSWER_MAX}"
        self._host.send(answer)

    async def _hand_over(self, actor: Actor, message: Message) -> None:
        """Send the state to the agent, or write it to a file as a whole if it is large, and end the actor.

        With ``ask`` in the message, this is done only if the actor agrees.
        """
        if message["ask"] and not await self._agrees(actor, float(message["patience"])):
            self._host.send({"ev": "kept", "key": self.key, "order": message["order"]})
            return
        state = json.dumps(await actor.prepare_handover(), separators=(",", ":"))
        handed: Message = {"ev": "handed", "key": self.key}
        # The length is in bytes too, because json.dumps writes ASCII.
        if len(state) <= STATE_IN_MESSAGE_MAX or not _write(message["path"], state):
            handed["payload"] = state.encode()
        self._host.send(handed)
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
        text = f"{type(error).__name__}: {text_of(error)}".rstrip(": ")[:300]
        self._end = ("Exited", text, "")
        print_trace(error)
        if self._actor is not None and self._goes_on():
            self._host.send({"ev": "crashed", "key": self.key, "text": text})  # the end may take long, or never come

    def _goes_on(self) -> bool:
        """Whether anything of the actor still runs beside the code that has failed."""
        handling = self._requests is not None and self._requests.handling is not None
        return handling or (self.loop is not None and self.loop.has_more)

    def failed(self, error: BaseException) -> None:
        """Treat the failure of a task that nobody awaits as a crash, and clean up; also SystemExit in any task."""
        if not self._cleaning and self._end is _STOPPED:
            self._crashed(error)
            self._cancel()

    def finished(self) -> None:
        """Report the end: nothing of the actor will run any more."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, ChildLines):
                stream.forget(self._child)
        self._host.over(self.key)
        reason, text, message = self._end
        self._host.send({"ev": "ended", "key": self.key, "reason": reason, "text": text, "message": message})


def _holders(loop: asyncio.AbstractEventLoop) -> tuple[int, int]:
    """The numbers of references and of weak references to the loop."""
    return (sys.getrefcount(loop), weakref.getweakrefcount(loop)) if _CAN_SLEEP else (0, 0)


def _is_plain(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop is as it was made. Some of its settings hold no reference to it."""
    return loop.get_exception_handler() is None and loop.get_task_factory() is None and not loop.get_debug()


def _write(path: str, text: str) -> bool:
    """Write the file as a whole; returns False if that is not possible, as on a full disk."""
    scratch = path + ".part"
    try:
        with open(scratch, "w") as file:
            file.write(text)
        os.replace(scratch, path)  # noqa: PTH105 a runner that needs no pathlib is up sooner, and smaller by 0.6 MiB
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch)  # noqa: PTH108 as above
        return False
    return True
