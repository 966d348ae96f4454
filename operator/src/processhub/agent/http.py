"""The member's HTTP server: probes, metrics and the registry's look-ups."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import unquote

import msgspec
from aiohttp import web

from processhub.agent import registry
from processhub.agent.env import PORT, Environment
from processhub.agent.metrics import Metrics
from processhub.agent.supervisor import Supervisor
from processhub.agent.sync import Sync

log = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):  # noqa: N818 RFC 9457's word
    """An answer that is an error: HTTP status, the type's last part and a sentence."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail


class Server:
    """Listens on the pod's address, and on 127.0.0.1 for the pod's own processes and port-forwards."""

    def __init__(
        self,
        env: Environment,
        sync: Sync,
        supervisor: Supervisor,
        metrics: Metrics,
        healthy: Callable[[], bool],
        ready: Callable[[], str],
    ) -> None:
        self._env, self._sync, self._supervisor, self._metrics = env, sync, supervisor, metrics
        self._healthy, self._ready = healthy, ready
        app = web.Application(middlewares=[_problems, self._authorized])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show_metrics),
                web.get("/v1/children", self._children),
                # The id is percent-encoded and may hold slashes: matched on the raw path.
                web.get("/v1/children/{id:.+}", self._child),
                web.get("/v1/members", self._members),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def start(self) -> None:
        """Listen. Raises OSError where the pod's address is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._env.pod_ip, PORT, reuse_address=True).start()
        if not self._env.pod_ip.startswith("127."):
            try:
                await web.TCPSite(self._runner, _LOOPBACK, PORT, reuse_address=True).start()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                log.warning("%s:%d is taken (host network?): answering on the pod's address alone", _LOOPBACK, PORT)

    async def stop(self) -> None:
        """Close all connections."""
        await self._runner.cleanup()

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Look-ups are open inside the cluster's network for now; requests to children will need a token here."""
        return await handler(request)

    async def _healthz(self, _: web.Request) -> web.Response:
        if not self._healthy():
            raise Problem(503, "unhealthy", "the thread that keeps the Lease is stuck")
        return web.Response(text="ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        if why := self._ready():
            raise Problem(503, "not_ready", why)
        return web.Response(text="ok")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _children(self, request: web.Request) -> web.Response:
        self._check_synced()
        query = request.query
        if unknown := query.keys() - {"tag", "member"}:
            raise Problem(
                400, "bad_request", f"unknown parameter {', '.join(sorted(unknown))}; there are tag and member"
            )
        return _json(registry.entries(self._sync.registry(), tag=query.get("tag", ""), member=query.get("member", "")))

    async def _child(self, request: web.Request) -> web.Response:
        self._check_synced()
        child_id = unquote(request.rel_url.raw_path.removeprefix("/v1/children/"))
        entry = registry.lookup(self._sync.registry(), child_id)
        if entry is None:
            raise Problem(404, "not_found", f"hub {self._env.hub} has no child {child_id!r}")
        return _json(entry)

    async def _members(self, _: web.Request) -> web.Response:
        self._check_synced()
        return _json(registry.members(self._sync.registry()))

    def _check_synced(self) -> None:
        if not self._sync.informer.synced.is_set():
            raise Problem(503, "not_ready", "the registry is not read yet")


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as RFC 9457 problems."""
    try:
        return await handler(request)
    except Problem as problem:
        return _problem(problem.status, problem.kind, problem.detail)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "bad_request")
        return _problem(error.status, kind, f"{request.method} {request.path}: {error.reason}")


def _problem(status: int, kind: str, detail: str) -> web.Response:
    body = {
        "type": f"https://processhub.dev/problems/{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": kind,
        "detail": detail,
    }
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/problem+json")


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
