"""Who may ask, while the API server, which says so, is silent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from builders import make_client
from processhub.agent.env import Environment
from processhub.agent.requests import access
from processhub.agent.requests.access import Access

WAITS = 20  # less than a request to the API server may take


async def test_a_verdict_goes_on_while_the_api_server_says_nothing(
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
