"""``Actor``, the base class of Python children. Standard library only: the children's own Python imports it.

For example::

    from processhub import Actor

    class Counter(Actor):
        async def init(self, args):
            self.state = args.get("start", 0)

        async def handle_call(self, request):
            self.state += 1
            return self.state

The Child names the class as ``python: {target: "my_module:Counter", args: {start: 5}}``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from processhub.methods import handle_of, marked
from processhub.requesterrors import Timeout

A = TypeVar("A", bound="Actor")

# Sends a request to another child, or looks something up: (operation, id or tag, value, to) → the answer.
# The operations are call, cast, where, tagged and members.
Ask = Callable[[str, str, Any, str], Awaitable[Any]]


async def _nobody(operation: str, child_id: str, value: Any, to: str) -> Any:
    raise RuntimeError("self.hub can be asked from the actor's init on, in a member of a hub")


class HubHandle:
    """The hub as an actor sees it: ``self.hub``. Its methods may be awaited while a message is handled."""

    def __init__(self, name: str, namespace: str, member: str, ask: Ask = _nobody) -> None:
        self.name, self.namespace, self.member = name, namespace, member
        self._ask = ask

    async def call(self, child_id: str, request: Any, *, timeout: float | None = None) -> Any:
        """Send another child a request; returns its answer. Both must fit JSON.

        ``timeout`` (seconds) covers all waiting. Without it the hub's own limits apply. Raises OutcomeUnknown,
        NoOwner, ChildNotFound, Busy, Timeout and Partitioned, which are imported from ``processhub``. Raises
        RuntimeError if an actor calls itself while it handles a message, and ValueError if the request does not fit
        JSON.
        """
        return await self._limited("call", child_id, request, "one", timeout)

    async def cast(self, child_id: str, message: Any, *, to: str = "one", timeout: float | None = None) -> None:
        """Send another child a message; returns when it is in the child's queue. ``to="all"``: every copy of the child.

        Raises the errors of ``call``.
        """
        await self._limited("cast", child_id, message, to, timeout)

    async def where(self, child_id: str) -> list[dict[str, Any]]:
        """The copies of a child on record, the active one first; none if the hub has no such child.

        Each has the ``name`` of its member, ``pod``, ``role``, ``state``, ``pid`` and ``epoch``. It is answered from
        memory.
        """
        found: list[dict[str, Any]] = await self._ask("where", child_id, None, "one")
        return found

    async def is_alive(self, child_id: str) -> bool:
        """Whether the child's active copy runs."""
        copies = await self.where(child_id)
        return bool(copies) and (copies[0]["role"], copies[0]["state"]) == ("Active", "Running")

    async def tag_query(self, tag: str) -> list[str]:
        """The ids of the children with the tag, sorted."""
        found: list[str] = await self._ask("tagged", tag, None, "one")
        return found

    async def members(self) -> list[dict[str, Any]]:
        """The members of the hub: ``name``, ``pod``, ``children`` and ``running`` (numbers of children)."""
        found: list[dict[str, Any]] = await self._ask("members", "", None, "one")
        return found

    def actor(self, child_id: str, kind: type[A], *, timeout: float | None = None) -> A:
        """A handle by which the methods of another actor are called: ``await self.hub.actor("a", Counter).add(2)``.

        ``kind`` is the actor's class. The methods are those that are marked with ``processhub.method``. They raise the
        errors of ``call``.
        """
        return handle_of(kind, lambda request: self.call(child_id, request, timeout=timeout))

    async def _limited(self, operation: str, child_id: str, value: Any, to: str, timeout: float | None) -> Any:
        # The Python of a user's image may not have asyncio.timeout yet.
        try:
            return await asyncio.wait_for(self._ask(operation, child_id, value, to), timeout)
        except asyncio.TimeoutError:  # noqa: UP041 the built-in one from 3.11 on
            raise Timeout(f"child {child_id!r} has not answered within {timeout:g} s") from None


class Actor:
    """A small stateful worker. It handles one message at a time. An exception is a crash, after which it is restarted.

    All methods are ``async``. An actor may block (``time.sleep``) without harm to others, but it can't be stopped while
    it does. If it still blocks stopSeconds after the order to stop, or after a crash, its runner process is killed.
    Other actors run in the same process, so an actor must end the threads and processes that it started, in
    ``terminate``.

    ``self.spawn`` and ``self.every`` start work beside the messages. An exception there is a crash too, and so is one
    in a task that the actor created by ``asyncio.create_task`` and does not await.
    """

    id: str
    """The child's id."""
    member: str
    """The name of the member that the actor runs on."""
    epoch: int
    """The number of this incarnation, higher than any before. Outside stores can reject late writers by it."""
    role: str
    """``Active`` or ``Passive``, at present."""
    hub: HubHandle
    """The hub, for requests to other children."""
    state: Any = None
    """The state that a handover takes along by default: anything that fits JSON."""
    env: dict[str, str] = {}  # noqa: RUF012 replaced, never changed
    """The variables of the Child's ``python.env``; those of the member's container are in ``os.environ``."""
    headers: dict[str, str] = {}  # noqa: RUF012 replaced, never changed
    """Headers of the present request, as far as the caller gave them: ``traceparent``, ``tracestate``, ``baggage``,
    ``x-request-id`` and ``idempotency-key``."""
    idempotency_key: str = ""
    """The caller's Idempotency-Key of the present request, "" if it gave none."""
    _crash: Callable[[BaseException], None] | None = None  # set by the runner
    _methods: frozenset[str] = frozenset()  # the names of those that are marked with processhub.method

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._methods = marked(cls)
        if taken := sorted(cls._methods & Actor.__annotations__.keys()):
            raise TypeError(f"{cls.__name__}.{taken[0]}: an actor has a field of this name; rename the method")

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine beside the messages. An exception in it is a crash. It is cancelled when the actor ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(self._spawned_ended)
        return task

    def every(self, seconds: float, function: Callable[[], Any]) -> asyncio.Task[Any]:
        """Call a function, ``async`` or not, every ``seconds`` beside the messages. Cancel the task to stop that.

        The next call comes ``seconds`` after the last one returned. An exception in it is a crash.
        """

        async def call() -> None:
            while True:
                await asyncio.sleep(seconds)
                result = function()
                if inspect.isawaitable(result):
                    await result

        return self.spawn(call())

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        if self._crash is not None and not task.cancelled() and (error := task.exception()) is not None:
            self._crash(error)

    async def init(self, args: dict[str, Any]) -> None:
        """Prepare the actor; ``args`` are those of the Child. The child is Running when this returns."""

    async def handle_call(self, request: Any) -> Any:
        """Answer a request. An exception is a crash: the caller gets OutcomeUnknown.

        A request that names a method which is marked with ``processhub.method`` goes to that method instead.

        The result goes back as JSON. For one that does not fit JSON, such as NaN, the caller gets status 500 and the
        reason, and the actor keeps running.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define handle_call")

    async def handle_cast(self, message: Any) -> None:
        """Handle a message that needs no answer."""
        raise NotImplementedError(f"{type(self).__name__} does not define handle_cast")

    async def handle_info(self, message: Any) -> None:
        """Handle a message of the hub itself. At present the hub sends none: roles come to ``redundancy_signal``."""

    async def redundancy_signal(self, role: str) -> None:
        """Take note of the role, ``Active`` or ``Passive``: once after init, then at each change.

        This is called for the roles that the hub's ``spec.redundancy.redundancySignal`` includes; by default it
        includes none.
        """

    async def prepare_handover(self) -> Any:
        """Return the state for the child's next run (HotSwap), at most 64 MiB that fit JSON.

        It is called before a move, and before the end for an edit or a suspension. No message follows. Stop here
        whatever the actor does by itself.
        """
        return self.state

    async def accept_handover(self, state: Any) -> None:
        """Take over the state that the last run left: after ``init``, before the child is Running.

        This is called after a move, an edit or a suspension with a state (HotSwap), never after a crash.
        """
        self.state = state

    async def can_migrate(self) -> bool | float:
        """Whether the actor may be moved now (HotSwap). A number asks for another call after so many seconds.

        After False, or after handoverTimeoutSeconds in all, a move by choice is deferred, for at least 30 s. A member
        that is emptied does not ask.
        """
        return True

    async def terminate(self, reason: str) -> None:
        """Clean up: the last call before an orderly end. It is not called after a crash."""
