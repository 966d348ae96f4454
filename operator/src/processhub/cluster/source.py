"""Where an informer gets its objects from: those of a kind and namespace that have certain labels and fields.

A list that is lost on the way is noticed after some seconds. The API server may need longer for its first byte, for a
large list or while it is overloaded. So a list that was silent for too long gets twice as long the next time, and one
that was read decides how long the next may be silent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

from processhub.cluster.client import LIST_SECONDS, Client
from processhub.cluster.decoding import Undecodable, WatchEvent
from processhub.cluster.errors import ApiError, ConnectionFailedError
from processhub.cluster.kinds import Kind, untyped

T = TypeVar("T")

_SILENCE_SECONDS = 5.0
_AS_LONG_AGAIN = 3.0  # times as long as the last list took in all


class Source(Generic[T]):
    """Reads the chosen objects. ``silence`` is how long the next list may be silent, in seconds."""

    def __init__(self, client: Client, kind: Kind[T], namespace: str | None, labels: str, fields: str) -> None:
        self._client, self.kind, self.namespace = client, kind, namespace
        self._selected = {"labels": labels, "fields": fields}
        self.silence = _SILENCE_SECONDS

    async def list(self, namespace: str | None = None) -> tuple[list[T | Undecodable], str]:
        """List them (of one namespace) as ``Client.list`` does.

        Raises ApiError, also if the API server is silent for too long.
        """
        clock = asyncio.get_running_loop().time
        began, silence = clock(), self.silence
        try:
            found = await self._client.list(self.kind, namespace or self.namespace, **self._selected, silence=silence)
        except ApiError:
            if clock() - began >= silence:
                self.silence = min(2 * silence, LIST_SECONDS)
            raise
        if namespace in (None, self.namespace):  # The list of one namespace says nothing about that of all.
            self.silence = min(max(_SILENCE_SECONDS, _AS_LONG_AGAIN * (clock() - began)), LIST_SECONDS)
        return found

    def watch(self, version: str) -> AsyncIterator[Sequence[WatchEvent]]:
        """Watch them as ``Client.watch`` does. Raises ApiError, GoneError."""
        return self._client.watch(self.kind, self.namespace, version, **self._selected)

    async def latest_version(self) -> str:
        """The resourceVersion that a list would have now. A request that is lost is sent again. Raises ApiError."""
        for silence in (_SILENCE_SECONDS, 2 * _SILENCE_SECONDS):
            with contextlib.suppress(ConnectionFailedError):
                return await self._latest_version(silence)
        return await self._latest_version(LIST_SECONDS)

    async def _latest_version(self, silence: float) -> str:
        return await self._client.latest_version(self.kind, self.namespace, **self._selected, silence=silence)

    async def get(self, namespace: str, name: str) -> dict[str, Any]:
        """One of them as plain data, by a consistent read. Raises ApiError."""
        kind = untyped(self.kind.api_version, self.kind.plural, namespaced=self.kind.namespaced)
        return await self._client.get(kind, namespace, name)
