"""Python handlers: functions in the operator, called ``function(event, args)`` with the CloudEvent and the hook's args.

A hook names an entry point of the group ``processhub.hooks``, and nothing else can be called: the authors of Hubs must
not choose what runs with the operator's rights.

Each call has a thread of its own, and a coroutine function a loop in it. So a handler that blocks or hangs delays its
own hook only. A thread can't be ended from outside. One that exceeds its time is left behind, and counted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from processhub.api.hooks import PythonHandler
from processhub.api.hub import HubSpec
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.webhook import HookError
from processhub.controller.store.hubstate import HubKey
from processhub.core.acceptance import Refusal, invalid
from processhub.extensions import HOOKS, Handler, hook_handlers

LEFT_BEHIND = 8  # the most calls of one hub that may keep running after their time
log = logging.getLogger(__name__)


class HandlerError(Exception):
    """A handler ended neither by returning nor by an error."""


class Handlers:
    """The handlers that hubs may name."""

    def __init__(self) -> None:
        self._known = hook_handlers()
        self._left_behind: Counter[HubKey] = Counter()

    def refusal(self, spec: HubSpec) -> Refusal | None:
        """The refusal for the first hook whose handler can't be used; None if all can."""
        for hook in spec.hooks:
            if hook.python is not None and (why := self._unusable(hook.python.handler)):
                return invalid(f"spec.hooks {hook.name!r}: python.handler {hook.python.handler!r}{why}")
        return None

    def _unusable(self, name: str) -> str:
        """Why the handler of this name can't be called, as the end of a sentence; "" if it can."""
        if name in self._known.found:
            return ""
        if name in self._known.failed:
            return f": its entry point can't be used: {self._known.failed[name]}"
        there = ", ".join(sorted(self._known.found)) or "none"
        return f" is not known; there are {there} (entry points of the group {HOOKS} in the operator's image)"

    async def call(self, hub: HubKey, handler: PythonHandler, event: CloudEventText) -> Any:
        """Call the handler; returns its result. Raises HookError."""
        function = self._known.found[handler.handler]
        if self._left_behind[hub] >= LEFT_BEHIND:
            raise HookError(f"not called: {LEFT_BEHIND} earlier calls of this hub's handlers have not ended yet")
        args = dict(handler.args)
        ended = threading.Event()
        try:
            return await in_thread(
                lambda: _run(function, event.content(), args, handler.timeout_seconds),
                handler.timeout_seconds,
                f"hook {handler.handler}",
                ended,
            )
        except TimeoutError as error:
            self._count(hub, ended)
            raise HookError(f"not done within {handler.timeout_seconds} s") from error
        except Exception as error:
            log.exception("hub %s/%s, handler %s", *hub, handler.handler)
            raise HookError(f"{type(error).__name__}: {error}") from error

    def _count(self, hub: HubKey, ended: threading.Event) -> None:
        if ended.is_set():
            return
        self._left_behind[hub] += 1
        loop = asyncio.get_running_loop()

        def forget() -> None:
            self._left_behind[hub] -= 1
            if not self._left_behind[hub]:
                del self._left_behind[hub]

        def wait() -> None:
            ended.wait()
            if not loop.is_closed():
                loop.call_soon_threadsafe(forget)

        threading.Thread(target=wait, name="hook left behind", daemon=True).start()


async def in_thread(work: Callable[[], Any], seconds: float, name: str, ended: threading.Event | None = None) -> Any:
    """Run ``work`` in a thread of its own; returns its result. Raises TimeoutError; the thread then runs on."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    def body() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 it is raised in the waiting task
            failure = error if isinstance(error, Exception) else HandlerError(f"ended by {type(error).__name__}")
        finally:
            if ended is not None:
                ended.set()
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=body, name=name, daemon=True).start()
    async with asyncio.timeout(seconds):
        return await outcome


def _run(function: Handler, event: dict[str, Any], args: dict[str, Any], seconds: float) -> Any:
    result = function(event, args)
    if inspect.isawaitable(result):

        async def finish() -> Any:
            return await asyncio.wait_for(result, seconds)

        return asyncio.run(finish())
    return result
