"""WebSockets of a client: their handshake ends, and their credentials are read again as those of any request."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from builders import client_of, make_client
from processhub.cluster import sending
from processhub.cluster.client import Client
from processhub.cluster.config import Config, ConfigError
from processhub.cluster.errors import ConnectionFailedError, ForbiddenError

PATH, PROTOCOL = "/exec", "v4.channel.k8s.io"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_get(PATH, handler)
    return app


async def first_text(client: Client) -> str:
    async with client.websocket(PATH, {}, PROTOCOL) as open_socket:
        return await open_socket.receive_str(timeout=5)


async def echo_token(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Authorization") == "Bearer old":
        raise web.HTTPUnauthorized
    response = web.WebSocketResponse(protocols=(PROTOCOL,))
    await response.prepare(request)
    await response.send_str(request.headers["Authorization"])
    return response


def with_token(config: Config, value: str) -> Config:
    async def token() -> str:
        return f"Bearer {value}"

    return dataclasses.replace(config, token=token)


async def test_a_handshake_that_is_not_answered_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_HANDSHAKE_SECONDS", 0.2)

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with client_of(application(never)) as client:
        with pytest.raises(ConnectionFailedError):
            async with asyncio.timeout(5):
                await first_text(client)


async def test_a_rotated_token_is_read_again() -> None:
    async with TestServer(application(echo_token)) as server:
        config = make_client(server.make_url("")).config

        async def reload() -> Config:
            return with_token(config, "new")

        async with Client(with_token(config, "old"), reload) as client:
            assert await first_text(client) == "Bearer new"


async def test_credentials_that_a_plugin_does_not_give_are_an_error_that_callers_know() -> None:
    async def token() -> str:
        raise ConfigError("the exec plug-in ended with exit code 1")

    async with TestServer(application(echo_token)) as server:
        config = dataclasses.replace(make_client(server.make_url("")).config, token=token)
        async with Client(config) as client:
            with pytest.raises(ForbiddenError, match="ended with exit code 1"):
                await first_text(client)


async def test_a_connection_is_probed_while_nothing_arrives() -> None:
    async with client_of(application(echo_token)) as client:
        config = with_token(client.config, "new")
        client.config = config
        async with client.websocket(PATH, {}, PROTOCOL) as open_socket:
            kept = open_socket.get_extra_info("socket")

            assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle, between, count = (
                kept.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + between * count == 20
            # An end that takes nothing for a while, as a command that does not read, is not cut off.
            assert not kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
