"""Requests that go to another member: what becomes of them by what that one says, or does not say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from builders import loopback
from processhub.agent.env import PORT, Environment
from processhub.agent.peers.client import Peers
from processhub.agent.problems import Problem, respond
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.request import Request
from processhub.agent.tls.identity import MemberTls
from processhub.api.requests import ANSWER_HEADER

HERE, ADDRESS = loopback(1), loopback(2)  # the second is the other member's
OWNER = RoutedCopy("hub-2", f"{ADDRESS}:{PORT}", "Active", 3, wait=False, running=True)


def environment(folder: Path) -> Environment:
    return Environment("hub", "n", "h", "hub-1", "hub-1", "p", HERE, "node", run_dir=folder)


def peers_of(folder: Path) -> Peers:
    env = environment(folder)
    return Peers(env, MemberTls(env))


@asynccontextmanager
async def member(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[None]:
    """Another member that answers so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, PORT, reuse_address=True).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_what_a_member_took_and_did_not_give_to_the_child_was_not_handed_over(tmp_path: Path) -> None:
    async def moved(request: web.Request) -> web.Response:
        assert await request.read() == b"1"
        return respond(Problem(409, "stale_epoch", "it left before the turn of this one came"))

    request, peers = Request("call", b"1"), peers_of(tmp_path)
    async with member(moved):
        answer = await peers.forward(OWNER, "a", request, 40, asyncio.Event(), lambda: True)
    await peers.close()

    assert answer is None
    assert not request.begun, "the next owner would count its time from here, and not look whether it is still one"


async def test_behind_a_proxy_that_asks_for_the_body_itself_a_lost_owner_leaves_the_outcome_open(
    tmp_path: Path,
) -> None:
    """docs/operations.md says what such a proxy takes; what it can't take is that nothing is run twice."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # though the request waits in the owner's queue
        await reader.read(1)
        writer.close()

    request, peers = Request("call", b"1"), peers_of(tmp_path)
    async with await asyncio.start_server(proxy, ADDRESS, PORT, reuse_address=True):
        with pytest.raises(Problem) as told:
            await peers.forward(OWNER, "a", request, 40, asyncio.Event(), lambda: True)
    await peers.close()

    assert (told.value.status, told.value.kind) == (502, "outcome_unknown")


async def withdrawn(peers: Peers, turns: int) -> tuple[bytes | None, bool]:
    """What a request comes to that is withdrawn so many turns of the loop after the owner has asked for its body.

    Returns the answer, and whether the owner has got the body.
    """
    changed, got, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def lose(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(lose, turns - 1)
        else:
            lost.set()
            changed.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            lose(turns)
            if await reader.read(1):
                got.set()
                writer.write(f"HTTP/1.1 200 OK\r\n{ANSWER_HEADER}: child\r\nContent-Length: 1\r\n\r\n7".encode())
        writer.close()

    async with await asyncio.start_server(serve, ADDRESS, PORT, reuse_address=True):
        answer = await peers.forward(OWNER, "a", Request("call", b"1"), 40, changed, lambda: not lost.is_set())
    return answer and answer.body, got.is_set()


async def test_a_request_that_is_withdrawn_when_its_turn_comes_is_either_not_sent_or_answered(tmp_path: Path) -> None:
    """Whatever the moment at which its owner turns out to be one no more, no outcome is left unknown."""
    peers = peers_of(tmp_path)
    results = {await withdrawn(peers, turns) for turns in range(20)}
    await peers.close()

    assert results == {(None, False), (b"7", True)}
