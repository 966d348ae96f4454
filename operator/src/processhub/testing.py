"""Tests of actors without a cluster. Standard library only.

For example::

    import processhub.testing

    async def test_a_counter_adds():
        async with processhub.testing.host(Counter, {"start": 5}) as counter:
            assert await counter.call({"op": "add"}) == 6
            assert await counter.actor.add(2) == 8

The hosted actor gets what a member gives it: one message at a time, values that went through JSON, and
``redundancy_signal``, ``prepare_handover`` and ``terminate`` at their times. What an actor asks of other children is
answered by the functions in ``children``. An exception of the actor, which is a crash in a member, is raised to the
caller. One of a task of ``self.spawn`` or ``self.every`` is raised to the next caller, or at the end of the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

from processhub.actor import Actor, Ask, HubHandle
from processhub.jsontext import json_text
from processhub.methods import call_method, handle_of, names_method
from processhub.requesterrors import ChildNotFound

A = TypeVar("A", bound=Actor)
_NOTHING = object()


class HostedActor(Generic[A]):
    """An actor that ``host`` runs. ``instance`` is the object itself, whose attributes a test may look at."""

    def __init__(self, instance: A, crashed: asyncio.Future[None]) -> None:
        self.instance = instance
        self._crashed = crashed
        self._turn = asyncio.Lock()

    @property
    def actor(self) -> A:
        """The actor as its callers see it: with the methods that are marked with ``processhub.method``."""
        return handle_of(type(self.instance), self.call)

    async def call(self, request: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Send a request; returns the answer."""
        return await self._message("call", request, headers)

    async def cast(self, message: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a message, and return when the actor has handled it."""
        await self._message("cast", message, headers)

    async def set_role(self, role: str) -> None:
        """Change the role, with the signal that the hub's redundancySignal ``All`` gives."""
        async with self._turn:
            self.instance.role, self.instance.epoch = role, self.instance.epoch + 1
            await self._run(self.instance.redundancy_signal(role))

    async def hand_over(self) -> Any:
        """The state that the actor leaves for its next run. Give it to ``host`` as ``state``."""
        async with self._turn:
            return _through_json(await self._run(self.instance.prepare_handover()))

    async def _message(self, operation: str, value: Any, headers: Mapping[str, str] | None) -> Any:
        actor, value = self.instance, _through_json(value)
        async with self._turn:
            actor.headers = {name.lower(): text for name, text in (headers or {}).items()}
            actor.idempotency_key = actor.headers.get("idempotency-key", "")
            if actor._methods and names_method(value):
                result = await self._run(call_method(actor, value))
            elif operation == "call":
                result = await self._run(actor.handle_call(value))
            else:
                result = await self._run(actor.handle_cast(value))
        return _through_json(result) if operation == "call" else None

    async def _run(self, work: Any) -> Any:
        """Run a handler, unless the actor has crashed. A crash in one of its tasks ends the handler too."""
        handler = asyncio.ensure_future(work)
        try:
            await asyncio.wait((handler, self._crashed), return_when=asyncio.FIRST_COMPLETED)
            if self._crashed.done():
                self._crashed.result()
            return await handler
        finally:
            handler.cancel()


@contextlib.asynccontextmanager
async def host(
    kind: type[A],
    args: Mapping[str, Any] | None = None,
    *,
    child_id: str = "child",
    role: str = "Active",
    env: Mapping[str, str] | None = None,
    state: Any = _NOTHING,
    signal: bool = False,
    children: Mapping[str, Callable[[Any], Any]] | None = None,
) -> AsyncIterator[HostedActor[A]]:
    """Run an actor, and end it in order at the end of the block.

    ``args`` and ``env`` are those of its Child. ``state`` is what an earlier run handed over. With ``signal`` its
    ``redundancy_signal`` is called after ``init``, as by a hub whose redundancySignal includes the role. ``children``
    has other children by id: each is a function, ``async`` or not, of a request.
    """
    crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    spawned: set[asyncio.Task[Any]] = set()
    actor = kind.__new__(kind)
    actor.id, actor.epoch, actor.member, actor.role = child_id, 1, "test-0", role
    actor.hub, actor.env = HubHandle("test", "default", "test-0", _answers(children or {})), dict(env or {})
    _watch(actor, crashed, spawned)
    actor.__init__()  # type: ignore[misc]  # called after the fields are set, as in a member
    try:
        await actor.init(_through_json(dict(args or {})))
        if state is not _NOTHING:
            await actor.accept_handover(_through_json(state))
        if signal:
            await actor.redundancy_signal(role)
        yield HostedActor(actor, crashed)
        if crashed.done():
            crashed.result()
        await actor.terminate("stop")
    finally:
        crashed.cancel()
        for task in spawned:
            task.cancel()
        await asyncio.gather(crashed, *spawned, return_exceptions=True)


def _answers(children: Mapping[str, Callable[[Any], Any]]) -> Ask:
    """What answers the requests of the actor to other children."""

    async def ask(operation: str, child_id: str, value: Any, to: str) -> Any:
        if child_id not in children:
            raise ChildNotFound(f"hub test has no child {child_id!r}; name it in children of processhub.testing.host")
        result = children[child_id](_through_json(value))
        result = await result if inspect.isawaitable(result) else result
        return _through_json(result) if operation == "call" else None

    return ask


def _watch(actor: Actor, crashed: asyncio.Future[None], spawned: set[asyncio.Task[Any]]) -> None:
    """Take note of the actor's tasks, which end with the block, and of an exception in one."""

    def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = type(actor).spawn(actor, coroutine)
        spawned.add(task)
        return task

    def crash(error: BaseException) -> None:
        if not crashed.done():
            crashed.set_exception(error)

    actor.spawn = spawn  # type: ignore[method-assign]
    actor._crash = crash


def _through_json(value: Any) -> Any:
    """The value as the other side gets it. Raises ValueError if it does not fit JSON."""
    return json.loads(json_text(value, default=str))
