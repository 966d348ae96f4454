"""Requests to members, as callers send them."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import aiohttp
from yarl import URL


class Reply(NamedTuple):
    """The answer of a member; ``value`` is the JSON, or the text if the body is not JSON."""

    status: int
    value: Any
    headers: Any

    @property
    def code(self) -> str:
        """The code of the problem."""
        return str(self.value["code"])


class Caller:
    """A caller with its own token; an async context manager."""

    def __init__(self, token: str) -> None:
        self.token = token

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(self, ip: str, child: str, request: Any, *, kind: str = "call", **more: Any) -> Reply:
        """Call a child through the member at this address; ``more`` are the query and headers."""
        url = f"http://{ip}:8080/v1/children/{quote(child, safe='')}/{kind}{more.get('query', '')}"
        return await self.send("POST", url, json=request, headers=more.get("headers", {}))

    async def get(self, url: str) -> Reply:
        """Get a resource."""
        return await self.send("GET", url)

    async def send(self, method: str, url: str, *, headers: dict[str, str] | None = None, **more: Any) -> Reply:
        """Send any request."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with self._session.request(
            method, URL(url, encoded=True), headers=sent | (headers or {}), **more
        ) as answer:
            value = await (answer.json(content_type=None) if "json" in answer.content_type else answer.text())
            return Reply(answer.status, value, answer.headers)
