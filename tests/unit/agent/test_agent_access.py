"""Which callers and members are accepted, also while the API server does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from builders import make_client
from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.agent.requests import access
from processhub.agent.requests.access import Access
from processhub.cluster.tasks import cancel_all

WAITS = 20  # less than a request to the API server may take


POD = "authentication.kubernetes.io/pod-name"


@asynccontextmanager
async def access_of(folder: Path, users: Mapping[str, object]) -> AsyncIterator[Access]:
    """Return the access check of a member of hub shop in namespace n; ``users`` maps tokens to users."""

    async def review(request: web.Request) -> web.Response:
        token = (await request.json())["spec"]["token"]
        return web.json_response({"status": {"authenticated": True, "audiences": ["processhub"], "user": users[token]}})

    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    env = Environment("shop", "n", "h", "shop-1", "shop-1", "p", "127.0.0.1", "node", run_dir=folder)
    async with TestServer(app) as server, make_client(str(server.make_url("")), "n") as client:
        yield Access(env, client)


def user(account: str, pod: str = "", namespace: str = "n") -> dict[str, object]:
    """Return the user of a token as a TokenReview names it."""
    return {"username": f"system:serviceaccount:{namespace}:{account}", "extra": {POD: [pod]} if pod else {}}


@pytest.mark.parametrize(
    ("token", "member"),
    [
        (user("processhub-shop", "shop-0"), True),
        (user("processhub-shop"), True),
        (user("s3", "shop-0"), True),
        (user("s3", "shop-xk2vq"), True),
        (user("s3", "other-0"), False),
        (user("processhub-shop", "other-0"), False),
        (user("s3", "shop-0123456789abcdef"), False),
        (user("s3"), False),
        (user("processhub-shop", "shop-0", "elsewhere"), False),
    ],
    ids=[
        "own account",
        "own account, no pod",
        "shared account",
        "shared account, DaemonSet",
        "shared account, other hub",
        "own account, other hub",
        "shared account, pod child",
        "shared account, no pod",
        "other namespace",
    ],
)
async def test_members_are_identified_by_their_pods_even_if_hubs_share_an_account(
    tmp_path: Path, token: dict[str, object], member: bool
) -> None:
    async with access_of(tmp_path, {"t": token}) as gate:
        if member:
            await gate.check("Bearer t", members_only=True)
            return
        with pytest.raises(Problem) as refused:
            await gate.check("Bearer t", members_only=True)
        assert refused.value.status in (403, 503)


async def test_a_verdict_remains_valid_while_the_api_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_FRESH_SECONDS", -1.0)
    silent = asyncio.Event()

    async def review(request: web.Request) -> web.Response:
        await request.read()
        if silent.is_set():
            await asyncio.sleep(2 * WAITS)
        user = {"username": "system:serviceaccount:n:somebody"}
        return web.json_response({"status": {"authenticated": True, "audiences": ["processhub"], "user": user}})

    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", "127.0.0.1", "node", run_dir=tmp_path)
    async with make_client(f"http://{host}:{port}", "n") as client:
        gate = Access(env, client)
        await gate.check("Bearer token")
        silent.set()

        async with asyncio.timeout(WAITS):
            await gate.check("Bearer token")
    await runner.cleanup()


async def test_unknown_tokens_leave_connections_for_the_members_own_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs an account to send a token. Each costs a review, which may take long."""
    monkeypatch.setattr(access, "_FRESH_SECONDS", -1.0)
    monkeypatch.setattr(access, "_MAX_WAIT_SECONDS", 0.01)
    silent, reviewing = asyncio.Event(), asyncio.Event()

    async def review(request: web.Request) -> web.Response:
        await request.read()
        if silent.is_set():
            reviewing.set()
        if silent.is_set():
            await asyncio.sleep(2 * WAITS)
        return web.json_response({"status": {"authenticated": True, "audiences": ["processhub"], "user": user("a")}})

    async def own(_: web.Request) -> web.Response:
        return web.Response(text="own")

    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    app.router.add_get("/own", own)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", "127.0.0.1", "node", run_dir=tmp_path)
    async with make_client(f"http://{host}:{port}", "n") as client, asyncio.timeout(WAITS):
        gate = Access(env, client)
        await gate.check("Bearer known")
        silent.set()
        strangers = [asyncio.create_task(gate.check(f"Bearer {number}")) for number in range(1000)]
        await reviewing.wait()

        assert await client.raw("GET", "/own") == b"own"
        await gate.check("Bearer known")
        with pytest.raises(Problem) as refused:
            await gate.check("Bearer one more")

        assert (refused.value.status, refused.value.kind, refused.value.retry_after) == (429, "busy", 1)
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)
        await cancel_all(gate._checks.values())
    await runner.cleanup()
