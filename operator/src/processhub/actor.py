"""``Actor``: what a Python child derives from. Standard library only: it is imported by the children's own Python.

For example::

    from processhub import Actor

    class Counter(Actor):
        async def init(self, args):
            self.state = args.get("start", 0)

        async def handle_call(self, request):
            self.state += 1
            return self.state

The Child names it as ``python: {target: "my_module:Counter", args: {start: 5}}``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from processhub.requesterrors import Timeout

# (call or cast, id, value, to) → the answer
Ask = Callable[[str, str, Any, str], Awaitable[Any]]


async def _nobody(operation: str, child_id: str, value: Any, to: str) -> Any:
    raise RuntimeError("self.hub can be asked from the actor's init on, in a member of a hub")


class HubHandle:
    """The hub as an actor sees it: ``self.hub``. Others may be asked in the midst of a message of one's own."""

    def __init__(self, name: str, namespace: str, member: str, ask: Ask = _nobody) -> None:
        self.name, self.namespace, self.member = name, namespace, member
        self._ask = ask

    async def call(self, child_id: str, request: Any, *, timeout: float | None = None) -> Any:
        """Ask another child and return its answer; both fit JSON. ``timeout`` (seconds) covers all waiting.

        The hub's own limits hold without it. Raises HubError's subclasses of processhub.requesterrors: OutcomeUnknown,
        NoOwner, ChildNotFound, Busy, Timeout, Partitioned; RuntimeError where an actor calls itself while it handles a
        message.
        """
        return await self._limited("call", child_id, request, "one", timeout)

    async def cast(self, child_id: str, message: Any, *, to: str = "one", timeout: float | None = None) -> None:
        """Tell another child something; returns when it is in the child's queue. ``to="all"``: every copy of it.

        Raises as ``call``.
        """
        await self._limited("cast", child_id, message, to, timeout)

    async def _limited(self, operation: str, child_id: str, value: Any, to: str, timeout: float | None) -> Any:
        # Not asyncio.timeout: the Python of a user's image may be older than ours.
        try:
            return await asyncio.wait_for(self._ask(operation, child_id, value, to), timeout)
        except asyncio.TimeoutError:  # noqa: UP041 the built-in one from 3.11 on
            raise Timeout(f"child {child_id!r} has not answered within {timeout:g} s") from None


class Actor:
    """A small stateful worker. One message is handled at a time; an exception is a crash, and it is restarted.

    All methods are ``async``. An actor may block (``time.sleep``) without harm to others, but it can't be stopped
    while it does: one that still blocks stopSeconds after the order takes its runner process with it. Others live in
    that process, so what an actor started by itself, threads or processes, is its own to end in ``terminate``.

    Work beside the messages is started by ``self.spawn`` and ``self.every``. A task that an actor began by
    ``asyncio.create_task`` and does not await is the same: where it fails, the actor has crashed.
    """

    id: str
    """The child's id."""
    member: str
    """The name of the member that it runs on."""
    epoch: int
    """The number of this incarnation: higher than any before, for what is kept outside to refuse late writers by."""
    role: str
    """``Active`` or ``Passive``, now."""
    hub: HubHandle
    """The hub, to ask other children."""
    state: Any = None
    """What a handover takes along, by default; anything that fits JSON."""
    idempotency_key: str = ""
    """The caller's Idempotency-Key of the request at hand, "" where it gave none."""
    _crash: Callable[[BaseException], None] | None = None  # set by the runner

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine beside the messages; an exception in it is the actor's crash. It is cancelled at its end."""
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(self._spawned_ended)
        return task

    def every(self, seconds: float, function: Callable[[], Any]) -> asyncio.Task[Any]:
        """Call a function every so many seconds, ``async`` or not, beside the messages; cancel the task to end that.

        The next call comes ``seconds`` after the last one returned. An exception in it is the actor's crash.
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
        """Get ready; ``args`` are those of the Child. The child is Running when this returns."""

    async def handle_call(self, request: Any) -> Any:
        """Answer a request; the result goes back as JSON. An exception is a crash: the caller gets OutcomeUnknown."""
        raise NotImplementedError(f"{type(self).__name__} does not define handle_call")

    async def handle_cast(self, message: Any) -> None:
        """Take a message that nobody waits for an answer to."""
        raise NotImplementedError(f"{type(self).__name__} does not define handle_cast")

    async def handle_info(self, message: Any) -> None:
        """Take a message of the hub itself."""

    async def redundancy_signal(self, role: str) -> None:
        """Hear of the role, ``Active`` or ``Passive``: once after init, then on each change.

        Called for the roles that the hub's ``spec.redundancy.redundancySignal`` includes: none, by default.
        """

    async def prepare_handover(self) -> Any:
        """The state to hand over to this child's next member (HotSwap); it must fit JSON, in 64 MiB at most.

        No message comes after it. Stop here what the actor does by itself.
        """
        return self.state

    async def accept_handover(self, state: Any) -> None:
        """Take over the state from this child's last member: after ``init``, before the child is Running.

        Called after a move that brought a state along, never after a crash.
        """
        self.state = state

    async def can_migrate(self) -> bool | float:
        """Whether it may be moved now (HotSwap); a number asks to be asked again after so many seconds.

        After False, or after handoverTimeoutSeconds in all, a move by choice is put off, for 30 s at least. A member
        that is emptied does not ask.
        """
        return True

    async def terminate(self, reason: str) -> None:
        """The last call before it ends in order; not called after a crash."""
