"""The floor of calls: a bare server of the HTTP library that members use, which answers what a member answers.

``python -m bench.floor ADDRESS PORT`` prints a line when it listens, and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

from processhub.api.requests import ANSWER_HEADER


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b"1", headers={ANSWER_HEADER: "child", "Content-Type": "application/json"})


async def _serve(address: str, port: int) -> None:
    app = web.Application()
    app.router.add_post("/v1/children/{id:.+}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2])))
