"""Streams to children of other members that do not take them: what the caller is answered, and what is routed again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from builders import loopback
from processhub.agent.env import PORT, Environment
from processhub.agent.peers.client import Peers
from processhub.agent.peers.link import UnreachableError
from processhub.agent.problems import Problem, respond
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.requests.streams import Streams
from processhub.agent.tls.identity import MemberTls

HERE, THERE = loopback(1), loopback(2)  # this member's address, and the other's
OWNER = RoutedCopy("hub-2", f"{THERE}:{PORT}", "Active", 3, wait=False, running=True)
WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@asynccontextmanager
async def streams_of(folder: Path, token: str = "the-token") -> AsyncIterator[Streams]:
    """The streams of this member, whose token is in a file that can't be read if the token is empty."""
    file = folder / "token"
    if token:
        file.write_text(token)
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", HERE, "node", run_dir=folder, token_file=str(file))
    tls = MemberTls(env)
    peers = Peers(env, tls)
    yield Streams(env, None, None, {}, tls, peers.token)  # type: ignore[arg-type]  # they are not asked
    await peers.close()


@asynccontextmanager
async def refusing(problem: Problem) -> AsyncIterator[None]:
    """The other member, which answers all with this problem."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return respond(problem)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, THERE, PORT).start()
    yield
    await runner.cleanup()


async def offered(streams: Streams, headers: dict[str, str]) -> web.StreamResponse | None:
    request = make_mocked_request("GET", "/v1/children/a/http/x", headers)
    return await streams._offer(request, OWNER, "a", "x")


async def test_a_stream_to_a_lost_owner_is_routed_again_also_without_a_token_of_this_member(tmp_path: Path) -> None:
    async with streams_of(tmp_path, token="") as streams:
        with pytest.raises(UnreachableError) as lost:
            await offered(streams, {})

    refused = f"no connection to {THERE}:{PORT}: Connection refused"
    assert str(lost.value) == f"member hub-2 ({THERE}:{PORT}) can't be reached from member hub-1: {refused}"


@pytest.mark.parametrize("headers", [{}, WEBSOCKET], ids=["plain", "websocket"])
@pytest.mark.parametrize("status", [401, 403])
async def test_a_caller_is_not_told_that_its_token_is_wrong_when_that_of_this_member_is(
    tmp_path: Path, status: int, headers: dict[str, str]
) -> None:
    async with streams_of(tmp_path) as streams, refusing(Problem(status, "unauthorized", "another token")):
        with pytest.raises(Problem, match="member hub-2 does not take this member's token") as refused:
            await offered(streams, headers)

    assert (refused.value.status, refused.value.kind) == (503, "no_owner")


@pytest.mark.parametrize("headers", [{}, WEBSOCKET], ids=["plain", "websocket"])
async def test_a_stream_to_a_member_that_requires_tls_by_now_is_routed_again(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with streams_of(tmp_path) as streams, refusing(Problem(426, "tls_required", "use https")):
        assert await offered(streams, headers) is None
