"""Requests to children that serve HTTP themselves: exec children on HUB_SOCKET, pod children on their port.

A request is a ``POST /call`` or ``POST /cast`` on a connection of its own. Connections are not kept alive: a server may
close one just as the next request is sent, and the outcome of that request would be unknown.

The body is fetched when the child has accepted the connection. So a request to a child that does not listen yet is not
begun anywhere, neither here nor at the member that forwarded it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import aiohttp

from processhub.agent.request import OutcomeUnknownError, Request, Response, WithdrawnError
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

        Raises OutcomeUnknownError if the connection breaks after the request was sent, and WithdrawnError if the
        request's sender has gone before.
        """
        session = self._open()
        headers = {"Content-Type": request.content_type, "Content-Length": str(request.size)}
        if request.key:
            headers[KEY_HEADER] = request.key
        pause = _AGAIN_MIN
        while True:
            sent = _Body(request)
            try:
                async with session.post(
                    f"{base}/{request.kind}", data=sent, headers=headers, allow_redirects=False
                ) as answer:
                    content = await _bounded(answer)
                    return Response(answer.status, content, answer.headers.get("Content-Type", ""))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if request.begun:
                    raise OutcomeUnknownError(f"its connection broke: {error or type(error).__name__}") from error
                if sent.withdrawn is not None:
                    raise sent.withdrawn from error
                request.obstacle = self._obstacle(base, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _AGAIN_MAX)

    async def close(self) -> None:
        """Break all connections, and with them the requests that are under way."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector = aiohttp.TCPConnector(limit=0, force_close=True)
            if self._socket:
                connector = aiohttp.UnixConnector(self._socket, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _obstacle(self, base: str, error: Exception) -> str:
        """Why no connection to the child was made, as a clause."""
        where = "HUB_SOCKET" if self._socket else base.removeprefix("http://")
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            return f"it does not listen on {where}"
        return f"{where} can't be reached: {error or type(error).__name__}"


class _Body:
    """The body of a request as aiohttp sends it: fetched when the connection is there, and sent with the headers."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.withdrawn: WithdrawnError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            content = await self._request.content()
        except WithdrawnError as error:
            self.withdrawn = error
            raise
        self._request.handed_over.set()
        yield content


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_chunked(65536):
        content += chunk
        if len(content) > _ANSWER_MAX:
            raise OutcomeUnknownError(f"its answer has more than {_ANSWER_MAX} bytes")
    return bytes(content)
