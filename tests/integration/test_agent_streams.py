"""Requests to the HTTP server of a child, through real agents: streamed both ways, and bound to the epoch."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from agentharness import Agent, Member, actor, new_member, program, until
from hubcalls import Caller

from localcluster.cluster import Cluster

SERVER = """
import asyncio, os
from aiohttp import WSMsgType, web

async def echo(request):
    body = await request.read()
    seen = {"method": request.method, "path": request.path_qs, "body": len(body), "headers": dict(request.headers)}
    return web.json_response(seen, status=409 if "conflict" in request.path else 200, headers={"X-Own": "yes"})

async def both(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    async for chunk in request.content.iter_any():
        await answer.write(chunk.upper())
    return answer

async def endless(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b"tick")
        await asyncio.sleep(0.05)

async def call(request):
    await asyncio.sleep(1000)

async def socket(request):
    answer = web.WebSocketResponse(protocols=("p1",))
    await answer.prepare(request)
    async for message in answer:
        if message.type is WSMsgType.TEXT and message.data == "close":
            await answer.close(code=4001, message=b"as asked")
        elif message.type is WSMsgType.TEXT:
            await answer.send_str(message.data.upper())
        else:
            await answer.send_bytes(message.data[::-1])
    return answer

app = web.Application(client_max_size=10_000_000)
app.add_routes([
    web.post("/call", call), web.post("/both", both), web.get("/endless", endless), web.get("/socket", socket),
    web.route("*", "/{path:.*}", echo),
])
web.run_app(app, path=os.environ["HUB_SOCKET"], print=None)
"""
CHILD = "tenant/1 ü"
ENCODED = "tenant%2F1%20%C3%BC"


@pytest.fixture
async def member(cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Member]:
    async with new_member(tmp_path, str(cluster.kubeconfig), namespace, lease_seconds=6, request_seconds=20) as member:
        yield member


@pytest.fixture
async def agents(member: Member) -> tuple[Agent, Agent]:
    """The member that runs the child, and another one."""
    agents = member.start_agent(), (await member.peer()).start_agent()
    workload = program(sys.executable, "-c", SERVER)
    await member.write({CHILD: workload, "python": actor("processhub.examples:Counter")})
    await member.running(CHILD)
    return agents


@pytest.fixture
async def caller(member: Member) -> AsyncIterator[Caller]:
    async with Caller(member.token) as caller:
        yield caller


def url(agent: Agent, path: str, child: str = ENCODED) -> str:
    return f"http://{agent.ip}:8080/v1/children/{child}/http/{path}"


async def answers(caller: Caller, agent: Agent) -> None:
    """Wait until a member passes streams to the child."""

    async def there() -> bool:
        try:
            return (await caller.get(url(agent, ""))).status == 200
        except aiohttp.ClientConnectorError:
            return False  # it does not listen yet

    await until(there, what="streams are passed on")


async def test_requests_are_passed_to_the_childs_server_past_its_queue(
    member: Member, agents: tuple[Agent, Agent], caller: Caller
) -> None:
    for agent in agents:
        await answers(caller, agent)
    call = asyncio.create_task(caller.call(agents[0].ip, CHILD, {}))  # it is not answered
    for agent in agents:
        reply = await caller.send("PUT", url(agent, "a%2Fb/c?d=%20e"), data=b"x" * 5_000_000, headers={"X-Mine": "1"})

        assert reply.status == 200, reply
        seen = reply.value
        assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/a%2Fb/c?d=%20e", 5_000_000)
        assert (seen["headers"]["X-Mine"], seen["headers"]["Content-Length"]) == ("1", "5000000")
        assert "Authorization" not in seen["headers"]
        assert reply.headers["X-Own"] == "yes"
        assert (await caller.get(url(agent, "conflict"))).status == 409, "the child's own answer"
        assert (await caller.send("HEAD", url(agent, "x"))).headers["X-Own"] == "yes"
        python = await caller.get(url(agent, "x", "python"))
        assert (python.status, python.code) == (400, "bad_request")
        unknown = await caller.get(url(agent, "x", "nobody"))
        assert (unknown.status, unknown.code) == (404, "not_found")
        async with Caller("nonsense") as stranger:
            assert (await stranger.get(url(agent, "x"))).status == 401
    assert not call.done()
    call.cancel()


@asynccontextmanager
async def session_of(member: Member) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of a caller with a token, for a minute at most."""
    headers = {"Authorization": f"Bearer {member.token}"}
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.timeout(60):
        yield session


async def test_bodies_are_streamed_both_ways_and_break_with_the_epoch(
    member: Member, agents: tuple[Agent, Agent], caller: Caller
) -> None:
    endless: list[aiohttp.ClientResponse] = []
    async with session_of(member) as session:
        for agent in agents:
            await answers(caller, agent)
            parts: asyncio.Queue[bytes] = asyncio.Queue()

            async def body(parts: asyncio.Queue[bytes] = parts) -> AsyncIterator[bytes]:
                while part := await parts.get():
                    yield part

            parts.put_nowait(b"one")
            async with session.post(url(agent, "both"), data=body()) as answer:
                assert await answer.content.readexactly(3) == b"ONE"
                parts.put_nowait(b"two")  # after the answer to the first
                assert await answer.content.readexactly(3) == b"TWO"
                parts.put_nowait(b"")
                assert await answer.content.read() == b""
            endless.append(await session.get(url(agent, "endless")))
            assert await endless[-1].content.readexactly(8) == b"ticktick"

        await member.write({CHILD: None})

        for answer in endless:
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()


async def test_websockets_are_passed_on_and_closed_with_1012_at_the_end_of_the_epoch(
    member: Member, agents: tuple[Agent, Agent], caller: Caller
) -> None:
    sockets: list[aiohttp.ClientWebSocketResponse] = []
    async with session_of(member) as session:
        for agent in agents:
            await answers(caller, agent)
            first = await session.ws_connect(url(agent, "socket"), protocols=("p0", "p1"))
            assert first.protocol == "p1"
            await first.send_str("close")
            closed = await first.receive()
            assert (closed.data, closed.extra) == (4001, "as asked")
            sockets.append(await session.ws_connect(url(agent, "socket")))
            await sockets[-1].send_str("ü")
            assert await sockets[-1].receive_str() == "Ü"
            await sockets[-1].send_bytes(b"ab" * 100_000)
            assert await sockets[-1].receive_bytes() == b"ba" * 100_000
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(url(agent, "no-socket"))
            assert refused.value.status == 200

        await member.write({CHILD: None})

        for socket in sockets:
            assert (await socket.receive()).data == 1012


async def test_compressed_bodies_reach_the_child_whole(
    member: Member, agents: tuple[Agent, Agent], caller: Caller
) -> None:
    compressed = {"Content-Encoding": "gzip"}
    async with session_of(member) as session:
        for agent in agents:
            await answers(caller, agent)
            async with session.put(url(agent, "x"), data=gzip.compress(b"x" * 1000), headers=compressed) as answer:
                seen = await answer.json()
            assert (seen["body"], seen["headers"]["Content-Encoding"]) == (1000, "gzip"), "the child's server undoes it"

            call = f"http://{agent.ip}:8080/v1/children/python/call"
            async with session.post(call, data=gzip.compress(b'{"op": "add"}'), headers=compressed) as answer:
                assert answer.status == 200
            async with session.post(call, data=b'{"op": "add"}', headers=compressed) as answer:
                assert (answer.status, (await answer.json())["code"]) == (400, "bad_request")
