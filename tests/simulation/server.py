"""The simulated API server: that of ``memoryapi``, with the controller manager."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from memoryapi import Json, Key, MemoryApi, _parsed

from .processes import SimulatedLoop


class Sent(NamedTuple):
    """A request of a client, beside watches: when it came, its method, its URL, and the bytes of its body."""

    at: float
    method: str
    url: str
    size: int

    @property
    def plural(self) -> str:
        """The kind of its object."""
        return _parsed(self.url)[0].plural


class Server(MemoryApi):
    """The objects. Objects of a deleted owner are collected soon after."""

    def __init__(self, loop: SimulatedLoop, rng: Random) -> None:
        super().__init__()
        self._loop, self._rng = loop, rng
        self._collects = False
        self.requests: list[Sent] = []
        self.listeners.append(self._collect_after)

    def request(self, method: str, url: str, payload: bytes | None, content_type: str | None) -> Json:
        """Return the response's body. All access reviews allow the request. Raises Refused."""
        self.requests.append(Sent(self._loop.time(), method, url, len(payload or b"")))
        if "accessreviews" in url:
            return {"status": {"allowed": True}}
        return super().request(method, url, payload, content_type)

    def forget(self) -> None:
        """Drop the history at the end of a run: it is most of what the collection of garbage would visit then."""
        for kept in (self.changes, self._past, self.writes, self.requests, self._lines_of):
            kept.clear()  # type: ignore[attr-defined]

    def _collect_after(self, _key: Key, _before: Json | None, after: Json | None) -> None:
        if after is None and not self._collects:
            self._collects = True
            self._loop.later(self._rng.uniform(0.1, 2.0), self._collect)

    def _collect(self) -> Any:
        self._collects = False
        self.collect_garbage()
