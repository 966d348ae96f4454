"""News from one part of the agent for the parts above it, which it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVarTuple

Args = TypeVarTuple("Args")


class Listeners(Generic[*Args]):
    """The callbacks for one kind of news, called in the order in which they were added."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[Callable[[*Args], object]] = []

    def listen(self, callback: Callable[[*Args], object]) -> None:
        """Call ``callback`` at each piece of news from now on."""
        self._callbacks.append(callback)

    def notify(self, *args: *Args) -> None:
        """Call all callbacks with this piece of news."""
        for callback in self._callbacks:
            callback(*args)
