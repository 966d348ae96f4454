"""``kubectl hub ui``: a read-only page on localhost, with what the user of the command line may read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from processhub.api.naming import natural_order
from processhub.cli.errors import DONE, CliError
from processhub.cli.output import out, say
from processhub.cli.scope import Scope, opened_scope
from processhub.cli.shared import Target
from processhub.cli.status import plain_status
from processhub.cli.uipage import PAGE, SCRIPT, STYLE
from processhub.client.session import Session

_HOST = "127.0.0.1"
_SHOWN = 500  # children of a hub
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve(target: Target, *, everywhere: bool, port: int) -> int:
    """Serve the page until interrupted."""
    async with opened_scope(target, everywhere=everywhere) as scope:
        runner = web.AppRunner(_application(scope), access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, _HOST, port)
            try:
                await site.start()
            except OSError as error:
                why = f"port {port} of {_HOST} can't be used: {error.strerror}"
                raise CliError(f"{why}; name another with --port") from None
            out(f"http://{_HOST}:{runner.addresses[0][1]}/")
            say(f"{scope.where}, read-only; stop with Ctrl-C. All who can connect to this port see what you may read")
            async for _ in scope.changes():
                pass  # the page reads what the scope has
        finally:
            await runner.cleanup()
    return DONE


def shown(scope: Scope, wanted: str) -> list[dict[str, Any]]:
    """What the page shows: the hubs, each with its children whose id or member contains the text."""
    return [_hub(session, wanted) for session in scope.sessions]


def _application(scope: Scope) -> web.Application:
    async def hubs(request: web.Request) -> web.Response:
        wanted = request.query.get("filter", "")
        return web.Response(body=msgspec.json.encode(shown(scope, wanted)), content_type="application/json")

    app = web.Application(middlewares=[_only_here])
    app.add_routes(
        [
            web.get("/", _fixed(PAGE, "text/html")),
            web.get("/ui.js", _fixed(SCRIPT, "text/javascript")),
            web.get("/ui.css", _fixed(STYLE, "text/css")),
            web.get("/hubs.json", hubs),
        ]
    )
    return app


def _fixed(text: str, content_type: str) -> _Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=content_type)

    return answer


@web.middleware
async def _only_here(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuse what a page of another origin sends here by a name of its own (DNS rebinding)."""
    name = request.host.rpartition(":")[0] if ":" in request.host else request.host
    if name not in (_HOST, "localhost"):
        return web.Response(status=403, text=f"open http://{_HOST}, not {name}")
    answer = await handler(request)
    answer.headers.update(_HEADERS)
    return answer


def _hub(session: Session, wanted: str) -> dict[str, Any]:
    records = session.registry.records
    registry: list[dict[str, Any]] = []
    for child_id in sorted(records, key=natural_order):
        nodes = records[child_id].nodes
        if wanted in child_id or any(wanted in node.name for node in nodes):
            registry.append({"id": child_id, "nodes": msgspec.to_builtins(nodes)})
        if len(registry) == _SHOWN:
            break
    return {**plain_status(session), "registry": registry, "registrySize": len(records)}
