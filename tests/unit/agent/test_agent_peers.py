"""Requests that go to another member: their outcome by the member's response, or without one."""

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
from processhub.agent.listeners import Signal
from processhub.agent.peers.client import Peers
from processhub.agent.peers.link import Forwarding
from processhub.agent.peers.statesender import SMALL_MAX, Outgoing, Receipt
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


async def earlier(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Read the head of a request as a member of an earlier version: whether it is one to a child, and no connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"POST"):
        return True
    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()
    return False


@asynccontextmanager
async def member(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[None]:
    """Run another member that responds like this."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, PORT, reuse_address=True).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_a_request_that_its_member_did_not_pass_to_the_child_was_not_handed_over(tmp_path: Path) -> None:
    async def moved(request: web.Request) -> web.Response:
        if request.method == "GET":
            raise web.HTTPNotFound
        assert await request.read() == b"1"
        return respond(Problem(409, "stale_epoch", "it left before the turn of this one came"))

    request, peers = Request("call", b"1"), peers_of(tmp_path)
    async with member(moved):
        answer = await peers.forward(Forwarding(OWNER, "a", request, 40, Signal(), lambda: True))
    await peers.close()

    assert answer is None
    assert not request.begun, "the next owner would count its time from here, and not look whether it is still one"


async def test_behind_a_proxy_that_buffers_bodies_the_outcome_of_a_lost_owners_request_is_unknown(
    tmp_path: Path,
) -> None:
    """docs/operations.md says what such a proxy costs; it can't make a request run twice."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await earlier(reader, writer):
            return
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # though the request waits in the owner's queue
        await reader.read(1)
        writer.close()

    request, peers = Request("call", b"1"), peers_of(tmp_path)
    async with await asyncio.start_server(proxy, ADDRESS, PORT, reuse_address=True):
        with pytest.raises(Problem) as told:
            await peers.forward(Forwarding(OWNER, "a", request, 40, Signal(), lambda: True))
    await peers.close()

    assert (told.value.status, told.value.kind) == (502, "outcome_unknown")


async def withdrawn(peers: Peers, turns: int) -> tuple[bytes | None, bool]:
    """Withdraw a request this many turns of the loop after the owner has asked for its body.

    Returns the response, and whether the owner has got the body.
    """
    changed, got, lost = Signal(), asyncio.Event(), asyncio.Event()

    def lose(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(lose, turns - 1)
        else:
            lost.set()
            changed.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            if not await earlier(reader, writer):
                return
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            lose(turns)
            if await reader.read(1):
                got.set()
                writer.write(f"HTTP/1.1 200 OK\r\n{ANSWER_HEADER}: child\r\nContent-Length: 1\r\n\r\n7".encode())
        writer.close()

    async with await asyncio.start_server(serve, ADDRESS, PORT, reuse_address=True):
        answer = await peers.forward(
            Forwarding(OWNER, "a", Request("call", b"1"), 40, changed, lambda: not lost.is_set())
        )
    return answer and answer.body, got.is_set()


async def test_a_request_withdrawn_at_its_turn_is_either_not_sent_or_answered(tmp_path: Path) -> None:
    """Whenever its owner turns out not to be the owner any more, no outcome is left unknown."""
    peers = peers_of(tmp_path)
    results = {await withdrawn(peers, turns) for turns in range(20)}
    await peers.close()

    assert results == {(None, False), (b"7", True)}


@pytest.mark.parametrize("kept", ["in a file", "in memory"])
async def test_a_large_state_is_sent_from_where_it_is(tmp_path: Path, kept: str) -> None:
    got: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(status=204)

    content, path, peers = b"1" * 2 * SMALL_MAX, tmp_path / "state", peers_of(tmp_path)
    path.write_bytes(content)
    state = Outgoing("a", "u", 7, "c", path if kept == "in a file" else content, len(content))
    async with member(take):
        receipt = await peers.send_state(OWNER.address, state)
    await peers.close()

    assert (receipt, got) == (Receipt(204), [content])
