"""The paths /healthz, /readyz and /metrics of an operator replica, leader or standby."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


async def serve(bind: str, port: int, healthy: Callable[[], bool], missing: Callable[[], str]) -> web.AppRunner:
    """Listen on ``bind:port``; the caller must clean the runner up. Raises OSError if the port is in use.

    ``missing()``: what the replica needs and the cluster does not have, "" if all is there.
    """

    async def healthz(_: web.Request) -> web.Response:
        """Whether this replica works, leader or standby: 200 or 503."""
        good = healthy()
        return web.Response(text="ok\n" if good else "not ok\n", status=200 if good else 503)

    async def readyz(_: web.Request) -> web.Response:
        """Whether this replica can lead or stand by: 200, or 503 with what is missing (CRDs, rights)."""
        why = missing()
        return web.Response(text=f"not ready: {why}\n" if why else "ready\n", status=503 if why else 200)

    async def metrics(_: web.Request) -> web.Response:
        """The replica's metrics, in Prometheus' text format."""
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, bind, port).start()
    return runner
