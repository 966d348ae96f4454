"""Listeners: how a part of the agent notifies later parts, of which it knows nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVarTuple

Args = TypeVarTuple("Args")


class Listeners(Generic[*Args]):
    """The callbacks for one kind of event, called in the order in which they were added."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[Callable[[*Args], object]] = []

    def listen(self, callback: Callable[[*Args], object]) -> None:
        """Call ``callback`` at each event from now on."""
        self._callbacks.append(callback)

    def notify(self, *args: *Args) -> None:
        """Call all callbacks with the arguments of this event."""
        for callback in self._callbacks:
            callback(*args)


class Signal(asyncio.Event):
    """An event that also calls ``heard()`` whenever it is set: a task for each that waits would cost more."""

    heard: Callable[[], None] | None = None

    def set(self) -> None:
        """Set the event."""
        super().set()
        if self.heard is not None:
            self.heard()
