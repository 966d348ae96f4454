"""The paths /healthz, /readyz and /metrics of an operator replica, leader or standby."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


async def serve(bind: str, port: int, healthy: Callable[[], bool], ready: Callable[[], bool]) -> web.AppRunner:
    """Listen on ``bind:port``; the caller must clean the runner up. Raises OSError if the port is in use."""

    async def answer(good: bool, word: str) -> web.Response:
        return web.Response(text=f"{word}\n" if good else f"not {word}\n", status=200 if good else 503)

    async def healthz(_: web.Request) -> web.Response:
        """Whether this replica works, leader or standby: 200 or 503."""
        return await answer(healthy(), "ok")

    async def readyz(_: web.Request) -> web.Response:
        """Whether this replica has started, to lead or to stand by: 200 or 503."""
        return await answer(ready(), "ready")

    async def metrics(_: web.Request) -> web.Response:
        """The replica's metrics, in Prometheus' text format."""
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, bind, port).start()
    return runner
