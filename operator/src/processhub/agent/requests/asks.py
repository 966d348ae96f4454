"""Asks: the ids that the operator is to place on demand, because no member may start them by itself.

They stand in the status of slice 0 while requests wait for them here (docs/protocol.md, rule 26). An ask proves nothing
and promises nothing: it may be lost, or repeated.
"""

from __future__ import annotations

from collections import Counter

from processhub.agent.listeners import Listeners
from processhub.api.slice import MAX_ASKS


class Asks:
    """The ids that requests of this member wait for. ``changed(urgent)`` notifies when the list to report differs.

    One ask serves all requests for an id. The first ids that were asked for are reported, up to the limit of the list.
    """

    def __init__(self) -> None:
        self.changed: Listeners[bool] = Listeners()
        self._waiting: Counter[str] = Counter()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids to report, sorted."""
        return tuple(sorted(list(self._waiting)[:MAX_ASKS]))

    def ask(self, child_id: str) -> RequestedId:
        """An ask of one request, which asks for nothing yet."""
        return RequestedId(self, child_id)

    def add(self, child_id: str) -> None:
        """Ask for the id on behalf of one more request."""
        self._waiting[child_id] += 1
        if self._waiting[child_id] == 1:
            self.changed.notify(True)

    def withdraw(self, child_id: str) -> None:
        """Ask for the id on behalf of one request less."""
        self._waiting[child_id] -= 1
        if not self._waiting[child_id]:
            del self._waiting[child_id]
            # An id beyond the limit of the list takes the place of this one.
            self.changed.notify(len(self._waiting) >= MAX_ASKS)


class RequestedId:
    """The ask of one request for one id, withdrawn when the block ends."""

    __slots__ = ("_asks", "_child_id", "_stands")

    def __init__(self, asks: Asks, child_id: str) -> None:
        self._asks, self._child_id, self._stands = asks, child_id, False

    def __enter__(self) -> RequestedId:
        return self

    def __exit__(self, *_: object) -> None:
        self.withdraw()

    def make(self) -> None:
        """Have the operator asked, unless it is already."""
        if not self._stands:
            self._stands = True
            self._asks.add(self._child_id)

    def withdraw(self) -> None:
        """Have the operator asked no more for this request."""
        if self._stands:
            self._stands = False
            self._asks.withdraw(self._child_id)
