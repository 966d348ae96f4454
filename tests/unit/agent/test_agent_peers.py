"""Requests that go to another member: what becomes of them by what that one says, or does not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from processhub.agent.env import PORT, Environment
from processhub.agent.peers.client import Peers
from processhub.agent.problems import Problem, respond
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.request import Request

ADDRESS = "127.0.7.2"  # the other member's; this one's end has the next
OWNER = RoutedCopy("hub-2", ADDRESS, "Active", 3, wait=False, running=True)


def environment(folder: Path) -> Environment:
    return Environment("hub", "n", "h", "hub-1", "hub-1", "p", "127.0.7.1", "node", run_dir=folder)


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

    request, peers = Request("call", b"1"), Peers(environment(tmp_path))
    async with member(moved):
        answer = await peers.forward(OWNER, "a", request, 40, asyncio.Event(), lambda: True)
    await peers.close()

    assert answer is None
    assert not request.begun, "the next owner would count its time from here, and not look whether it is still one"
