"""The member's HTTP server: probes, metrics, look-ups in the registry, and requests to children."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec
from aiohttp import StreamReader
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from processhub import __version__
from processhub.agent import web
from processhub.agent.env import Environment
from processhub.agent.metrics import Metrics
from processhub.agent.peers.line import BODY_MAX, MESSAGE_MAX, PATH, Line
from processhub.agent.peers.statesender import Batch, Receipt
from processhub.agent.problems import Problem, problems
from processhub.agent.registry import lookup
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.request import JSON, Request, Response
from processhub.agent.requests import openapi
from processhub.agent.requests.access import Access
from processhub.agent.requests.bodies import read_json, room_for
from processhub.agent.requests.forwarded import ForwardingSession
from processhub.agent.requests.listener import Ports
from processhub.agent.requests.router import Router
from processhub.agent.requests.routes import Routes
from processhub.agent.requests.streams import Streams, send_continue
from processhub.agent.tls.identity import MemberTls
from processhub.api.requests import ANSWER_HEADER, EPOCH_HEADER, PASSED_HEADERS

log = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
_OPEN = ("/healthz", "/readyz", "/metrics", "/openapi.json")  # paths that need no token
_PEER_SECONDS = 5.0  # time in which a member sends the body when its request's turn has come
_CHILDREN, _HANDOVERS = "/v1/children/", "/v1/handovers"
_CLOSE_SECONDS = 0.5  # within which another member answers that a connection is closed
_CHUNK = 256 * 1024
_BODIES_MAX = 128 * 1024 * 1024  # bytes of the bodies of callers' requests, which wait here for their turn
_RETRY_AFTER = 1  # seconds


@dataclass(frozen=True)
class Served:
    """The parts that a member's server passes requests to: ``handovers`` and ``states`` receive children's states."""

    env: Environment
    slices: SliceWatcher
    router: Router
    access: Access
    handovers: Callable[[str, str, int, str, AsyncIterator[bytes]], Awaitable[None]]
    states: Callable[[Batch], tuple[Receipt, ...]]
    metrics: Metrics
    healthy: Callable[[], bool]
    ready: Callable[[], str]
    tls: MemberTls
    streams: Streams


class Server:
    """Listens on the pod's address, and on 127.0.0.1 for processes of the pod and port-forwards."""

    def __init__(self, served: Served) -> None:
        self._env, self._slices, self._router, self._access = served.env, served.slices, served.router, served.access
        self._served, self._metrics = served, served.metrics
        self._leaving = False
        self._at_work = 0  # number of requests of callers that are being answered
        self._bodies = 0  # bytes of their bodies
        self._idle = asyncio.Event()
        self._sessions: set[ForwardingSession] = set()
        self._routes = Routes(
            (
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show_metrics),
                web.get("/openapi.json", self._describe),
                web.get("/v1/children", self._children),
                # The id is percent-encoded and may contain slashes, so the handlers decode the raw path.
                web.get("/v1/children/{id:.+}", self._child),
                web.post("/v1/children/{id:.+}", self._request),
                web.route("*", "/v1/children/{id}/http/{path:.*}", self._stream),
                web.put("/v1/handovers/{id:.+}", self._handover),
                web.post("/v1/handovers", self._small_handovers),
                web.get("/v1/members", self._members),
                web.get("/v1/requests", self._connection),
            )
        )
        # A caller that hangs up withdraws its request, unless that was already handed to the child.
        server = web.Server(
            self._answer,
            request_factory=_request,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,  # a stream passes compressed bodies on as they are
        )
        self._ports = Ports(server, served.tls, served.env.port)

    async def start(self) -> None:
        """Start to listen. Raises OSError if the pod's address is in use."""
        await self._ports.listen(self._env.pod_ip)
        if not self._env.pod_ip.startswith("127."):
            try:
                await self._ports.listen(_LOOPBACK)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken = f"{_LOOPBACK}:{self._env.port}"
                log.warning("%s is in use (host network?): listening on the pod's address only", taken)

    def leave(self) -> None:
        """Close each connection after its next answer, so that callers go to other members while this one ends."""
        self._leaving = True

    async def finish(self, seconds: float) -> None:
        """Accept no more requests, and wait until those that came are answered, for ``seconds`` at most."""
        self._router.leave()
        self._served.streams.close()
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._at_work:
                    await self._idle.wait()
                await self._router.delivered()

    async def stop(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(session.close() for session in self._sessions))
        await self._ports.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request."""
        answer = await problems(request, self._authorized)
        if self._leaving:
            answer.force_close()
        return answer

    async def _authorized(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path not in _OPEN:
            self._ports.check_encrypted(request, self._env.hub)
            # The child's queue waits for the body of a request that a member has routed, so others may not send such
            # requests.
            members_only = path.startswith(_HANDOVERS) or path == PATH or EPOCH_HEADER in request.headers
            await self._access.check(request.headers.get("Authorization"), members_only=members_only)
        handler = self._routes.find(request.method, path)
        if handler not in (self._request, self._stream):  # which do that when the request's turn has come
            await send_continue(request)
        return await handler(request)

    async def _healthz(self, _: web.BaseRequest) -> web.Response:
        """Whether the agent works: 200, or 503 where the thread that keeps the Lease is stuck. Without a token."""
        if not self._served.healthy():
            raise Problem(503, "unhealthy", "the thread that keeps the Lease is stuck")
        return web.Response(text="ok")

    async def _readyz(self, _: web.BaseRequest) -> web.Response:
        """Whether the member is ready: 200, or 503 with what it waits for. Without a token."""
        if why := self._served.ready():
            raise Problem(503, "not_ready", why)
        return web.Response(text="ok")

    async def _show_metrics(self, _: web.BaseRequest) -> web.Response:
        """The member's metrics, in Prometheus' text format. Without a token."""
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _describe(self, _: web.BaseRequest) -> web.Response:
        """The routes for callers as an OpenAPI document. Without a token."""
        return _json(openapi.document(__version__))

    async def _children(self, request: web.BaseRequest) -> web.Response:
        """The children on record in the hub, sorted by id; ``?tag=`` and ``?member=`` choose among them.

        With several tags, those that have all of them.
        """
        self._check_synced()
        query = request.query
        if unknown := query.keys() - {"tag", "member"}:
            raise Problem(
                400, "bad_request", f"unknown parameter {', '.join(sorted(unknown))}; there are tag and member"
            )
        if len(query.getall("member", ())) > 1:
            raise Problem(400, "bad_request", "there can be one parameter member")
        tags = [tag for tag in query.getall("tag", ()) if tag]
        return _json(lookup.children(self._slices.registry(), tags=tags, member=query.get("member", "")))

    async def _child(self, request: web.BaseRequest) -> web.Response:
        """One child on record: its copies, the active one first."""
        self._check_synced()
        encoded = request.rel_url.raw_path.removeprefix(_CHILDREN)
        child_id = _decoded(encoded)
        entry = lookup.child(self._slices.registry(), child_id)
        if entry is None and encoded.endswith(("/call", "/cast")):
            raise Problem(
                405, "method_not_allowed", f"send requests to a child by POST, not {request.method}", allow="POST"
            )
        if entry is None:
            raise Problem(404, "not_found", f"hub {self._env.hub} has no child {child_id!r}")
        return _json(entry)

    async def _request(self, request: web.BaseRequest) -> web.Response:
        """Send a request to a child: ``POST /v1/children/<id>/call`` or ``…/cast``, with JSON.

        The id is percent-encoded. The answer to a call is the child's. A cast is answered 202 when it is in the child's
        queue; ``?to=all`` sends it to every running copy. The body may have 4 MiB. The headers
        ``Idempotency-Key``, ``traceparent``, ``tracestate``, ``baggage`` and ``x-request-id`` are passed on to the
        child.
        """
        own = EPOCH_HEADER not in request.headers
        kind = "cast" if request.rel_url.raw_path.endswith("/cast") else "call"
        self._at_work += 1
        try:
            answer = await self._serve(request)
        except Problem as problem:
            if own:
                self._metrics.count_request(kind, problem.status)
            raise
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()
        if own:
            self._metrics.count_request(kind, answer.status)
        return answer

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request of any method to the HTTP server of the child, past its queue.

        It goes to HUB_SOCKET of an exec child and to the port of a pod child. Bodies are streamed both ways, and
        WebSockets are passed on. When the child is stopped, restarted or moved, its member ends the stream: a WebSocket
        with close code 1012. All headers are passed on but ``Authorization``.
        """
        encoded, _, path = request.rel_url.raw_path.removeprefix(_CHILDREN).partition("/http/")
        self._check_synced()
        self._router.check_stays()
        if request.rel_url.raw_query_string:
            path = f"{path}?{request.rel_url.raw_query_string}"
        return await self._served.streams.serve(request, _decoded(encoded), path)

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        encoded, _, kind = request.rel_url.raw_path.removeprefix(_CHILDREN).rpartition("/")
        if kind not in ("call", "cast") or not encoded:
            raise Problem(404, "not_found", f"POST to {_CHILDREN}<id>/call or …/cast, the id percent-encoded")
        self._check_synced()
        self._router.check_stays()
        child_id, to = _decoded(encoded), "one"
        if request.rel_url.raw_query_string:
            to = request.query.get("to", "one")
            if request.query.keys() - {"to"} or to not in ("one", "all") or (to == "all" and kind == "call"):
                raise Problem(400, "bad_request", "the only parameter is to=all, and only for cast")
        headers = _passed_on(request)
        routed_by = request.headers.get(EPOCH_HEADER)
        if routed_by is not None:
            if not routed_by.isdecimal():
                raise Problem(400, "bad_request", f"{EPOCH_HEADER} is a number, and set by members only")
            forwarded = Request(kind, None, request.content_type, headers, fetch=lambda: _fetch(request))
            answer = await self._router.serve_forwarded(child_id, int(routed_by), forwarded)
        else:
            with self._held(request):
                await send_continue(request)
                own = Request(kind, await read_json(request), request.content_type, headers)
                if to == "all":
                    return _json({"members": await self._router.send_to_all(child_id, own)}, 202, answered=True)
                answer = await self._router.send(child_id, own)
        marks = {ANSWER_HEADER: "child"}
        if answer.content_type:
            marks["Content-Type"] = answer.content_type
        return web.Response(body=answer.body, status=answer.status, headers=marks)

    @contextlib.contextmanager
    def _held(self, request: web.BaseRequest) -> Iterator[None]:
        """Count the request's body among those that wait here. Raises Problem 429 if they would take too much."""
        size = room_for(request)
        if self._bodies + size > _BODIES_MAX:
            what = f"requests of {_BODIES_MAX >> 20} MiB wait at member {self._env.member} already; try again later"
            raise Problem(429, "busy", what, _RETRY_AFTER)
        self._bodies += size
        try:
            yield
        finally:
            self._bodies -= size

    async def _connection(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """The connection on which another member forwards requests to this one: a WebSocket. For members only."""
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_MAX, compress=False, timeout=_CLOSE_SECONDS)
        if not socket.can_prepare(request):
            raise Problem(426, "bad_request", f"{PATH} is for WebSockets, of other members")
        await socket.prepare(request)
        authorization = request.headers.get("Authorization")

        async def check() -> None:
            self._ports.check_encrypted(request, self._env.hub)
            await self._access.check(authorization, members_only=True)

        session = ForwardingSession(Line(socket), self._serve_on_connection, check)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
        return socket

    async def _serve_on_connection(self, child_id: str, epoch: int, request: Request) -> Response:
        self._at_work += 1
        try:
            self._check_synced()
            return await self._router.serve_forwarded(child_id, epoch, request)
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    async def _handover(self, request: web.BaseRequest) -> web.Response:
        """Receive the state of a child that moves here, from its present member. For members only."""
        self._check_synced()
        child_id, query = _decoded(request.rel_url.raw_path.removeprefix(_HANDOVERS + "/")), request.query
        uid, epoch, checksum = (query.get(name, "") for name in ("uid", "epoch", "checksum"))
        if not (uid and epoch.isdecimal() and checksum):
            raise Problem(400, "bad_request", "give uid, epoch and checksum")
        body = request.content.iter_chunked(_CHUNK)
        await self._served.handovers(child_id, uid, int(epoch), checksum, body)
        return web.Response(status=204)

    async def _small_handovers(self, request: web.BaseRequest) -> web.Response:
        """Receive a batch of small states of children that move here (MessagePack). For members only."""
        self._check_synced()
        try:
            batch = msgspec.msgpack.decode(await request.read(), type=Batch)
        except msgspec.DecodeError as error:
            raise Problem(400, "bad_request", "not a batch of states") from error
        return web.Response(body=msgspec.msgpack.encode(self._served.states(batch)), content_type="application/msgpack")

    async def _members(self, _: web.BaseRequest) -> web.Response:
        """The members of the hub, each with the number of its children and how many of them run."""
        self._check_synced()
        return _json(lookup.members(self._slices.registry()))

    def _check_synced(self) -> None:
        if not self._slices.informer.synced.is_set():
            raise Problem(503, "not_ready", "the registry is not read yet")


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request as aiohttp's server makes it, with the limit of this server's bodies."""
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=BODY_MAX
    )


def _passed_on(request: web.BaseRequest) -> dict[str, str]:
    """The headers that are passed on to the child, in lower case."""
    given = request.headers
    found = {name: ",".join(given.getall(name)) for name in PASSED_HEADERS if name in given}
    # Text that is no UTF-8 can't be passed on to another member.
    if odd := [name for name, value in (*found.items(), ("content-type", request.content_type)) if not value.isascii()]:
        raise Problem(400, "bad_request", f"{', '.join(odd)}: write header values in ASCII")
    return found


async def _fetch(request: web.BaseRequest) -> bytes:
    """Get the body from the member that routed the request here. Raises OSError if the member does not send it."""
    try:
        async with asyncio.timeout(_PEER_SECONDS):
            await send_continue(request)
            return await request.read()
    except web.RequestPayloadError as error:
        raise OSError(str(error)) from error


def _decoded(encoded: str) -> str:
    try:
        return unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise Problem(400, "bad_request", "the id must be UTF-8, percent-encoded") from None


def _json(value: object, status: int = 200, *, answered: bool = False) -> web.Response:
    headers = {ANSWER_HEADER: "child"} if answered else {}
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON, headers=headers)
