"""Requests to children that serve HTTP themselves: what is sent, and when it counts as begun."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from processhub.agent.children.childhttp import ChildHttp
from processhub.agent.request import Request, WithdrawnError

WAITS = 40


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[ChildHttp]:
    http = ChildHttp(str(tmp_path / "socket"))
    yield http
    await http.close()


class Program:
    """A child's server, which keeps what it gets and answers 200."""

    def __init__(self) -> None:
        self.got = b""
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            self.got += chunk
            if self.got.endswith(b"[1]"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7")
        writer.close()
        self.left.set()


async def test_the_body_of_a_request_is_fetched_only_when_the_child_listens(tmp_path: Path, http: ChildHttp) -> None:
    fetched = asyncio.Event()

    async def fetch() -> bytes:
        fetched.set()
        return b"[1]"

    request, program = Request("call", None, fetch=fetch, length=3), Program()
    asking = asyncio.create_task(http.post("http://child", request))
    async with asyncio.timeout(WAITS):
        while not request.obstacle:
            await asyncio.sleep(0)
        assert request.obstacle == "it does not listen on HUB_SOCKET"
        assert not fetched.is_set(), "whoever forwarded it would count it as handed over"

        async with await asyncio.start_unix_server(program.serve, tmp_path / "socket"):
            answer = await asking

    assert answer.body == b"7"
    assert program.got.startswith(b"POST /call HTTP/1.1\r\n")
    assert b"content-length: 3\r\n" in program.got.lower()
    assert request.begun


async def test_of_a_request_whose_sender_has_gone_the_child_gets_nothing(tmp_path: Path, http: ChildHttp) -> None:
    async def fetch() -> bytes:
        raise TimeoutError("it hung up")

    request, program = Request("call", None, fetch=fetch, length=3), Program()
    async with await asyncio.start_unix_server(program.serve, tmp_path / "socket"), asyncio.timeout(WAITS):
        with pytest.raises(WithdrawnError, match="it hung up"):
            await http.post("http://child", request)
        await program.left.wait()

    assert program.got == b""
    assert not request.begun
