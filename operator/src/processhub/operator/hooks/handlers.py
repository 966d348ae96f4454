"""Python handlers: functions in the operator, called ``function(event, args)`` with the CloudEvent and the hook's args.

Each call has a thread of its own, coroutine functions a loop in it: a handler that blocks or hangs holds up its own
hook only. A thread can't be ended from outside: one that is over its time is left behind, and counted.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from processhub.api.hooks import Hook, PythonHandler
from processhub.api.hub import HubSpec
from processhub.api.reasons import Reason
from processhub.core.acceptance import Refusal
from processhub.operator.hooks.happening import CloudEventText
from processhub.operator.hooks.webhook import HookError
from processhub.operator.hubstate import HubKey

IMPORT_SECONDS = 10.0
LEFT_BEHIND = 8  # calls of one hub that were over their time and run yet
Function = Callable[[dict[str, Any], dict[str, Any]], Any]
log = logging.getLogger(__name__)


class HandlerError(Exception):
    """A handler that can't be used; the message is a clause about it."""


class Handlers:
    """The handlers that hubs name, each imported once."""

    def __init__(self) -> None:
        self._found: dict[str, Function | HandlerError] = {}
        self._left_behind: Counter[HubKey] = Counter()

    async def prepare(self, hooks: Iterable[Hook]) -> None:
        """Import what these hooks name and was not imported yet."""
        for hook in hooks:
            if hook.python is None or hook.python.handler in self._found:
                continue
            name = hook.python.handler
            try:
                found = await in_thread(partial(find, name), IMPORT_SECONDS, f"import {name}")
            except TimeoutError:
                found = HandlerError(f"could not be imported within {IMPORT_SECONDS:g} s")
            except HandlerError as error:
                found = error
            self._found[name] = found

    def refusal(self, spec: HubSpec) -> Refusal | None:
        """The first hook whose handler can't be used."""
        for hook in spec.hooks:
            found = self._found.get(hook.python.handler) if hook.python else None
            if hook.python and isinstance(found, HandlerError):
                return Refusal(
                    Reason.INVALID,
                    f"spec.hooks {hook.name!r}: python.handler {hook.python.handler!r} {found}; name a function of a "
                    "module in the operator's image",
                )
        return None

    async def call(self, hub: HubKey, handler: PythonHandler, event: CloudEventText) -> Any:
        """What the function returned. Raises HookError."""
        function = self._found[handler.handler]
        assert not isinstance(function, HandlerError)
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

        def wait() -> None:
            ended.wait()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._left_behind.subtract, [hub])

        threading.Thread(target=wait, name="hook left behind", daemon=True).start()


def find(name: str) -> Function:
    """The function ``module:function``. Raises HandlerError.

    Nothing of the standard library: a Hub's author must not call ``os.remove`` in the operator.
    """
    module_name, _, function_name = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise HandlerError("is of Python's standard library")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise HandlerError(f"can't be imported: {error}") from error
    except Exception as error:
        raise HandlerError(f"can't be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if function is None:
        raise HandlerError(f"is not there: {module_name} has no {function_name}")
    if not inspect.isfunction(function) or function.__module__.partition(".")[0] in sys.stdlib_module_names:
        raise HandlerError("is no function of that module")
    return function


async def in_thread(work: Callable[[], Any], seconds: float, name: str, ended: threading.Event | None = None) -> Any:
    """The result of ``work`` in a thread of its own. Raises TimeoutError; the thread then runs on."""
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
        except BaseException as error:  # noqa: BLE001 it is raised where it was waited for
            failure = error if isinstance(error, Exception) else HandlerError(f"ended by {type(error).__name__}")
        finally:
            if ended is not None:
                ended.set()
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=body, name=name, daemon=True).start()
    async with asyncio.timeout(seconds):
        return await outcome


def _run(function: Function, event: dict[str, Any], args: dict[str, Any], seconds: float) -> Any:
    result = function(event, args)
    if inspect.isawaitable(result):

        async def finish() -> Any:
            return await asyncio.wait_for(result, seconds)

        return asyncio.run(finish())
    return result
