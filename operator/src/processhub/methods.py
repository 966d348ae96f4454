"""Methods of actors that are called by name. Standard library only: the children's own Python imports it.

For example::

    import processhub

    class Counter(processhub.Actor):
        @processhub.method
        async def add(self, by: int = 1) -> int:
            self.state = (self.state or 0) + by
            return self.state

    value = await hub.actor("counter", Counter).add(2)

The request is ``{"method": "add", "args": [2], "kwargs": {}}``; ``args`` and ``kwargs`` may be left out. Whatever else
an actor gets goes to its ``handle_call``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A")
_MARK = "__processhub_method__"
_KEYS = {"method", "args", "kwargs"}


class MethodError(Exception):
    """The request names no method of the actor, or does not fit its parameters. The actor was not called."""


def method(function: F) -> F:
    """Let callers call this method of an actor by its name."""
    setattr(function, _MARK, True)
    return function


def marked(kind: type) -> frozenset[str]:
    """The names of the class's methods that are marked with ``method``."""
    return frozenset(name for name in dir(kind) if hasattr(inspect.getattr_static(kind, name), _MARK))


def names_method(request: Any) -> bool:
    """Whether a request is the call of a method."""
    return isinstance(request, dict) and isinstance(request.get("method"), str) and request.keys() <= _KEYS


async def call_method(actor: Any, request: dict[str, Any]) -> Any:
    """Call the method that the request names; returns its result. Raises MethodError."""
    name, args, kwargs = request["method"], request.get("args", []), request.get("kwargs", {})
    kind = type(actor)
    known = marked(kind)
    if name not in known:
        raise MethodError(f"{kind.__name__} has no method {name!r}; there are {', '.join(sorted(known))}")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MethodError(f"{kind.__name__}.{name}: args is a list, and kwargs a mapping")
    function = getattr(actor, name)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise MethodError(f"{kind.__name__}.{name}: {error}") from None
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def handle_of(kind: type[A], call: Callable[[dict[str, Any]], Any]) -> A:
    """An object with the marked methods of the class. ``call(request)`` sends what they are called with."""
    return cast("A", _ActorHandle(kind, call))


class _ActorHandle:
    def __init__(self, kind: type, call: Callable[[dict[str, Any]], Any]) -> None:
        self._kind, self._call = kind, call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kind = self._kind
        if name not in marked(kind):
            raise AttributeError(f"{kind.__name__} has no method {name!r} that is marked with @processhub.method")
        function = getattr(kind, name)

        @functools.wraps(function)
        def send(*args: Any, **kwargs: Any) -> Any:
            inspect.signature(function).bind(None, *args, **kwargs)  # raises TypeError where the method would
            return self._call({"method": name, "args": list(args), "kwargs": kwargs})

        return send
