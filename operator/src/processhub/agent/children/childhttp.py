"""Requests to children that serve HTTP themselves: exec children on HUB_SOCKET, pod children on their port.

A request is a ``POST /call`` or ``POST /cast`` on a connection of its own. Connections are not kept alive: a server may
close one just as the next request is sent, and the outcome of that request would be unknown.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp

from processhub.agent.request import OutcomeUnknownError, Request, Response
from processhub.api.requests import KEY_HEADER

_CONNECT_SECONDS = 2.0
_AGAIN_MIN, _AGAIN_MAX = 0.02, 0.5  # seconds between two attempts to connect
_ANSWER_MAX = 4 * 1024 * 1024


class ChildHttp:
    """The connection to one exec child (``socket``: its Unix socket), or to all pod children (by address)."""

    def __init__(self, socket: str = "") -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def post(self, base: str, request: Request) -> Response:
        """Send the request as soon as the child accepts a connection; returns its answer, whatever the status.

        Raises OutcomeUnknownError if the connection breaks after it was made.
        """
        session = self._open()
        headers = {"Content-Type": request.content_type}
        if request.key:
            headers[KEY_HEADER] = request.key
        body, pause = await request.content(), _AGAIN_MIN
        while True:
            try:
                async with session.post(
                    f"{base}/{request.kind}",
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=request,
                ) as answer:
                    content = await _bounded(answer)
                    return Response(answer.status, content, answer.headers.get("Content-Type", ""))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if request.begun:
                    raise OutcomeUnknownError(f"its connection broke: {error or type(error).__name__}") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, _AGAIN_MAX)

    async def close(self) -> None:
        """Break all connections, and with them the requests that are under way."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            traces = aiohttp.TraceConfig()
            traces.on_connection_create_end.append(_connected)
            connector: aiohttp.BaseConnector = aiohttp.TCPConnector(limit=0, force_close=True)
            if self._socket:
                connector = aiohttp.UnixConnector(self._socket, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                trace_configs=[traces],
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_chunked(65536):
        content += chunk
        if len(content) > _ANSWER_MAX:
            raise OutcomeUnknownError(f"its answer has more than {_ANSWER_MAX} bytes")
    return bytes(content)


async def _connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    request = context.trace_request_ctx
    assert isinstance(request, Request)
    request.handed_over.set()
