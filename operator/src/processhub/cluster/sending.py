"""One request to the API server: its credentials, how it is sent, and the parts of the answer that are used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp
from multidict import CIMultiDict

from processhub.cluster.config import Config, ConfigError
from processhub.cluster.errors import ForbiddenError, api_error
from processhub.cluster.sockets import watched_socket

_HANDSHAKE_SECONDS = 30.0
_CUT_OFF_SECONDS = 20  # after which a connection counts as broken whose other end has gone without a word


class _Content(Protocol):
    def iter_any(self) -> AsyncIterator[bytes]:
        """The body, in pieces as it arrives."""


class Answer(Protocol):
    """The parts of an HTTP answer that the client uses."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers."""

    @property
    def content(self) -> _Content:
        """The body of a watch, as a stream."""

    async def read(self) -> bytes:
        """The whole body."""


def new_session(connections: int = 0) -> aiohttp.ClientSession:
    """A pool of up to so many connections; 0: of any number."""
    connector = aiohttp.TCPConnector(
        limit=connections, keepalive_timeout=60, socket_factory=watched_socket(_CUT_OFF_SECONDS)
    )
    return aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=2**20, auto_decompress=True
    )


def opened(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    """The session. Raises RuntimeError if its client is closed."""
    if session is None:
        raise RuntimeError("the client is closed; use it inside 'async with'")
    return session


@asynccontextmanager
async def sending(
    session: aiohttp.ClientSession,
    config: Config,
    method: str,
    url: str,
    payload: bytes | None,
    content_type: str | None,
    timeout: aiohttp.ClientTimeout,
    accept: str,
) -> AsyncIterator[Answer]:
    """Authenticate and send one request; yields the answer. An error in the block breaks the connection."""
    headers = await _headers(config)
    headers["Accept"] = accept
    if method != "GET":
        # The answer to a write repeats what was written. To compress it costs more than to send it.
        headers["Accept-Encoding"] = "identity"
    if content_type and payload is not None:
        headers["Content-Type"] = content_type
    answer = await session.request(method, url, data=payload, headers=headers, **config.connection, timeout=timeout)
    try:
        yield answer
    except BaseException:
        answer.close()
        raise
    finally:
        answer.release()


async def raise_for_status(answer: Answer) -> None:
    """Raise the ApiError for the answer, if it is an error."""
    if answer.status >= 400:
        raise api_error(answer.status, await answer.read(), answer.headers.get("Retry-After"))


async def shake_hands(
    session: aiohttp.ClientSession, config: Config, where: str, protocol: str
) -> aiohttp.ClientWebSocketResponse:
    """Open a WebSocket to a path with its query. Raises ApiError, aiohttp.ClientError, TimeoutError."""
    headers = await _headers(config)
    try:
        async with asyncio.timeout(config.request_timeout or _HANDSHAKE_SECONDS):
            return await session.ws_connect(
                config.host + where, protocols=(protocol,), headers=headers, **config.connection, max_msg_size=0
            )
    except aiohttp.WSServerHandshakeError as error:
        raise api_error(error.status, f"{where.partition('?')[0]}: HTTP {error.status}".encode()) from error


async def _headers(config: Config) -> CIMultiDict[str]:
    try:
        return await config.headers()
    except ConfigError as error:  # an exec plug-in gave no new credential
        raise ForbiddenError(401, "Unauthorized", str(error)) from error
