"""Requests to children that serve HTTP themselves: exec children on HUB_SOCKET, pod children on their port.

A request is a ``POST /call`` or ``POST /cast`` on a connection of its own. Connections are not kept alive: a server may
close one just as the next request is sent, and the outcome of that request would be unknown.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

import aiohttp

from processhub.agent.frames import ANSWER_MAX
from processhub.agent.request import OutcomeUnknownError, Request, Response

if TYPE_CHECKING:
    from aiohttp.tracing import Trace

_CONNECT_SECONDS = 2.0
_AGAIN_MIN, _AGAIN_MAX = 0.02, 0.5  # seconds between two attempts to connect
_asked: ContextVar[Request] = ContextVar("request")  # the request that this task sends


class _Connector(aiohttp.BaseConnector):
    """Hands a request over once the child has accepted its connection: only then its body is fetched."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Connect to the child, and put the body into the request."""
        connection, request = await super().connect(req, traces, timeout), _asked.get()
        try:
            await req.update_body(await request.content())
        except BaseException:
            connection.close()
            raise
        request.handed_over.set()
        return connection


class _TcpConnector(_Connector, aiohttp.TCPConnector):
    """Connects to the ports of pod children."""


class _UnixConnector(_Connector, aiohttp.UnixConnector):
    """Connects to the socket of an exec child."""


class ChildHttp:
    """The connection to one exec child (``socket``: its Unix socket), or to all pod children (by address)."""

    def __init__(self, socket: str = "") -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def post(self, base: str, request: Request, place: str) -> Response:
        """Send the request as soon as the child accepts a connection; returns its answer, whatever the status.

        ``place`` names in messages where the child must listen. Raises OutcomeUnknownError if the connection breaks
        after it was made, and WithdrawnError.
        """
        session = self._open()
        headers = {"Content-Type": request.content_type, **request.headers}
        pause = _AGAIN_MIN
        _asked.set(request)
        while True:
            try:
                async with session.post(f"{base}/{request.kind}", headers=headers, allow_redirects=False) as answer:
                    content = await _bounded(answer)
                    # Bytes that are no UTF-8 can't be passed on to another member.
                    kind = answer.headers.get("Content-Type", "").encode(errors="ignore").decode()
                    return Response(answer.status, content, kind)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if request.begun:
                    raise OutcomeUnknownError(f"its connection broke: {error or type(error).__name__}") from error
                request.obstacle = f"nothing accepts connections on {place}"
            await asyncio.sleep(pause)
            pause = min(pause * 2, _AGAIN_MAX)

    async def close(self) -> None:
        """Break all connections, and with them the requests that are under way."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector = _TcpConnector(limit=0, force_close=True)
            if self._socket:
                connector = _UnixConnector(self._socket, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_chunked(65536):
        content += chunk
        if len(content) > ANSWER_MAX:
            raise OutcomeUnknownError(f"its answer has more than {ANSWER_MAX} bytes")
    return bytes(content)
