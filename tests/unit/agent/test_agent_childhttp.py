"""Requests to children that serve HTTP: when the body is fetched, and the answer for a child that does not listen."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from processhub.agent.children.childhttp import ChildHttp
from processhub.agent.request import Request, WithdrawnError

PLACE = "its HUB_SOCKET"


class Sender:
    """The member that forwards a request: it sends the body when asked for it."""

    def __init__(self, body: bytes | OSError) -> None:
        self.body, self.asked = body, 0
        self.request = Request("call", None, fetch=self._send)

    async def _send(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.body, OSError):
            raise self.body
        return self.body


marks: list[str] = []  # the X-Request-Id of each request that a child received


@asynccontextmanager
async def child(socket: Path) -> AsyncIterator[list[tuple[bytes, str]]]:
    """A child that listens; the bodies that it received, each with its Content-Length."""
    got: list[tuple[bytes, str]] = []

    async def call(request: web.Request) -> web.Response:
        got.append((await request.read(), request.headers.get("Content-Length", "")))
        marks.append(request.headers.get("X-Request-Id", ""))
        return web.json_response(7)

    app = web.Application()
    app.add_routes([web.post("/call", call)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield got
    finally:
        await runner.cleanup()


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[ChildHttp]:
    made = ChildHttp(str(tmp_path / "socket"))
    yield made
    await made.close()


async def test_the_body_of_a_forwarded_request_is_fetched_once_the_child_accepts_a_connection(
    tmp_path: Path, http: ChildHttp
) -> None:
    sender = Sender(b'{"op": "get"}')
    posted = asyncio.create_task(http.post("http://child", sender.request, PLACE))
    async with asyncio.timeout(20):
        while not sender.request.obstacle:
            await asyncio.sleep(0.01)
    assert (sender.asked, sender.request.begun) == (0, False)
    assert sender.request.obstacle == "nothing accepts connections on its HUB_SOCKET"

    async with child(tmp_path / "socket") as got:
        answer = await asyncio.wait_for(posted, 20)

    assert (answer.status, answer.body, sender.asked, sender.request.begun) == (200, b"7", 1, True)
    assert got == [(b'{"op": "get"}', "13")]


async def test_an_exec_child_gets_the_headers_that_are_passed_on(tmp_path: Path, http: ChildHttp) -> None:
    marks.clear()
    async with child(tmp_path / "socket"):
        await http.post("http://child", Request("call", b"1", headers={"x-request-id": "r1"}), PLACE)
        await http.post("http://child", Request("call", b"1"), PLACE)

    assert marks == ["r1", ""]


async def test_a_withdrawn_request_reaches_no_child(tmp_path: Path, http: ChildHttp) -> None:
    sender = Sender(ConnectionResetError("the member has gone"))
    async with child(tmp_path / "socket") as got:
        with pytest.raises(WithdrawnError, match="the member has gone"):
            await http.post("http://child", sender.request, PLACE)

    assert (got, sender.request.begun) == ([], False)


async def test_a_body_in_transit_is_not_lost_when_the_child_restarts(tmp_path: Path, http: ChildHttp) -> None:
    sender = Sender(b"1")
    async with child(tmp_path / "socket") as got:
        fetching = asyncio.create_task(sender.request.content())
        await asyncio.sleep(0)
        fetching.cancel()
        await asyncio.wait((fetching,))
        answer = await http.post("http://child", sender.request, PLACE)

    assert (answer.body, got, sender.asked) == (b"7", [(b"1", "1")], 1)


async def test_an_answers_type_can_be_passed_on_whatever_bytes_the_child_writes(
    tmp_path: Path, http: ChildHttp
) -> None:
    """Another member may have asked, and the answers of all children go over one connection to it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; name=caf\xe9\r\nContent-Length: 1\r\n\r\n7")
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "socket"):
        got = await http.post("http://child", Request("call", b"1"), PLACE)

    assert got == (200, b"7", "text/plain; name=caf")
