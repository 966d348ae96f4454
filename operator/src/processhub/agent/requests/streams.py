"""Streams: requests to the HTTP server of a child itself, past the queue (``ANY /v1/children/<id>/http/<path>``).

The member that is asked finds the child's owner and passes the request to it. The owner passes it to HUB_SOCKET of an
exec child or to the port of a pod child. Bodies go both ways as they come, and WebSockets are passed on:

    caller ── the member that is asked ── the owner, with the epoch ── the child

A stream is bound to the epoch that it began in. When the child is stopped, moved or restarted, its member ends the
stream: a WebSocket with the close code 1012, any other by breaking the connection. The caller comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import aiohttp
from aiohttp import WSMsgType
from multidict import CIMultiDict
from yarl import URL

from processhub.agent import web
from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.peers.link import UnreachableError
from processhub.agent.problems import Problem
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.requests.activation import BY_VIEW
from processhub.agent.requests.queue import RequestQueue
from processhub.agent.requests.router import Router
from processhub.agent.tls.identity import MemberTls
from processhub.api.requests import ANSWER_HEADER, EPOCH_HEADER, read_problem
from processhub.cluster.errors import reason_of

RESTARTS = 1012  # the close code of WebSockets: "Service Restart"
_NORMAL = 1000
_CONNECT_SECONDS = 2.0
_AGAIN_SECONDS = 0.1  # between two attempts to connect to a child that does not listen yet
_CLOSE_SECONDS = 1.0  # within which the other end answers that a WebSocket is closed
# Statuses of a member's own answers: after the first ones the request is routed again, the others refuse the token.
_NOT_RUN, _REFUSED = (409, 426, 503), (401, 403)
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"} | {
    "proxy-authenticate", "proxy-authorization"
}  # fmt: skip
# Of the request they are for the hub, or are made anew. The caller's token is not for the child.
_NOT_PASSED = {"authorization", "host", "expect", EPOCH_HEADER.lower(), ANSWER_HEADER.lower()} | {
    f"sec-websocket-{name}" for name in ("key", "version", "extensions", "protocol", "accept")
}


@runtime_checkable
class ServesHttp(Protocol):
    """A run of a child that can have an HTTP server."""

    @property
    def http_server(self) -> tuple[str, str]:
        """The path of its Unix socket, or ""; and the base of its URLs. Both are "" while it has none."""


class Stream:
    """A stream to a child of this member. ``ended`` is set when the epoch that it began in is over."""

    def __init__(self, child: Child) -> None:
        assert child.desired is not None
        self._run, self._epoch = child.run, child.desired.assignment.epoch
        self.ended = asyncio.Event()

    def follow(self, child: Child) -> None:
        """End the stream if the child's run or epoch is another one now, or the child is being stopped."""
        epoch = child.desired.assignment.epoch if child.desired is not None else None
        if not child.serving or child.run is not self._run or epoch != self._epoch:
            self.ended.set()


class Streams:
    """The streams that this member passes on, to its children and to other members. ``token()`` is this member's."""

    def __init__(
        self,
        env: Environment,
        router: Router,
        queue: RequestQueue,
        children: Mapping[str, Child],
        tls: MemberTls,
        token: Callable[[], str],
    ) -> None:
        self._env, self._router, self._queue, self._children = env, router, queue, children
        self._tls, self._token = tls, token
        self._open: dict[str, set[Stream]] = {}
        self._closing = asyncio.Event()

    def child_changed(self, child: Child, *_: object) -> None:
        """End the streams of a child whose epoch is over."""
        for stream in self._open.get(child.id, ()):
            stream.follow(child)

    def close(self) -> None:
        """End all streams: this member is shutting down."""
        self._closing.set()
        for streams in self._open.values():
            for stream in streams:
                stream.ended.set()

    async def serve(self, request: web.BaseRequest, child_id: str, path: str) -> web.StreamResponse:
        """Pass the request on; ``path`` is that of the child's server, with the query. Raises Problem."""
        routed_by = request.headers.get(EPOCH_HEADER)
        if routed_by is None:
            answer, _ = await self._router.route(child_id, lambda owner, _: self._offer(request, owner, child_id, path))
            return answer
        if not routed_by.isdecimal():
            raise Problem(400, "bad_request", f"{EPOCH_HEADER} is a number, and set by members only")
        epoch = int(routed_by)
        if epoch == BY_VIEW:
            epoch = await self._router.epoch_here(child_id)
        found = await self._here(request, child_id, path, epoch)
        if found is None:
            raise Problem(409, "stale_epoch", f"child {child_id!r} is not on {self._env.member} at epoch {epoch}")
        return found

    async def _offer(
        self, request: web.BaseRequest, owner: RoutedCopy, child_id: str, path: str
    ) -> web.StreamResponse | None:
        if owner.member == self._env.member:
            return await self._here(request, child_id, path, None)
        if not owner.running or not owner.address:
            return None
        headers = _passed_on(request.headers)
        headers["Authorization"] = f"Bearer {self._token()}"
        headers[EPOCH_HEADER] = str(owner.epoch)
        url = URL(f"{self._tls.base(owner.address)}{request.rel_url.raw_path}{_query(request)}", encoded=True)
        async with _session() as session:
            try:
                exchange = _Exchange(request, session, url, headers, self._tls.verification(), self._closing)
                return await exchange.run()
            except aiohttp.ClientConnectorError as error:
                raise UnreachableError(
                    f"member {owner.member} ({owner.address}) can't be reached from member {self._env.member}: "
                    f"{reason_of(error)}"
                ) from error
            except Problem as problem:
                if problem.status not in _REFUSED:
                    raise
                # This concerns members only. The caller has shown its own token before.
                why = f"member {owner.member} does not take this member's token: {problem.detail}"
                raise Problem(503, "no_owner", why) from problem

    async def _here(
        self, request: web.BaseRequest, child_id: str, path: str, epoch: int | None
    ) -> web.StreamResponse | None:
        """Pass the request to a child of this member; None if it does not run here, or not at that epoch."""
        child = self._children.get(child_id)
        if child is None or child.desired is None or not child.serving or not self._queue.may_serve():
            return None
        if epoch not in (None, child.desired.assignment.epoch):
            return None
        run = child.run
        if not isinstance(run, ServesHttp):
            raise Problem(400, "bad_request", f"child {child_id!r} is a python child, which serves no HTTP; call it")
        stream = Stream(child)
        self._open.setdefault(child_id, set()).add(stream)
        try:
            with self._queue.streaming(child):
                return await self._to_child(request, child, run, path, stream.ended)
        finally:
            self._open[child_id].discard(stream)
            if not self._open[child_id]:
                del self._open[child_id]

    async def _to_child(
        self, request: web.BaseRequest, child: Child, run: ServesHttp, path: str, ended: asyncio.Event
    ) -> web.StreamResponse:
        seconds = child.limits.request_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        headers = _passed_on(request.headers)
        while True:
            socket, base = run.http_server
            if base:
                async with _session(socket) as session:
                    with contextlib.suppress(aiohttp.ClientConnectorError):
                        url = URL(f"{base}/{path}", encoded=True)
                        answer = await _Exchange(request, session, url, headers, {}, ended).run()
                        assert answer is not None
                        return answer
            if asyncio.get_running_loop().time() > deadline or ended.is_set():
                raise Problem(
                    504, "timeout", f"child {child.id!r} has not listened within {seconds:g} s; it got nothing"
                )
            await asyncio.sleep(_AGAIN_SECONDS)


class _Exchange:
    """One request that is passed on over a session, until ``ended`` is set."""

    def __init__(
        self,
        request: web.BaseRequest,
        session: aiohttp.ClientSession,
        url: URL,
        headers: CIMultiDict[str],
        verification: Mapping[str, Any],
        ended: asyncio.Event,
    ) -> None:
        self._request, self._session, self._url, self._headers = request, session, url, headers
        self._verification, self._ended = verification, ended
        self._by_member = EPOCH_HEADER in headers  # it goes to another member, not to the child itself
        self._answer: web.StreamResponse | None = None

    async def run(self) -> web.StreamResponse | None:
        """Pass the request on, and the answer back. None if a member has answered that it is not the owner.

        Raises Problem, and aiohttp.ClientConnectorError if there was no connection.
        """
        upgrade = self._request.headers.get("Upgrade", "").lower() == "websocket"
        work = asyncio.ensure_future(self._websocket() if upgrade else self._plain())
        over = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
            if work.done() or upgrade:
                return await work  # a WebSocket is closed in order
            return self._broken("its run has ended")
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            return self._broken(reason_of(error))
        finally:
            for task in (work, over):
                task.cancel()
            await asyncio.wait((work, over))

    def _broken(self, why: str) -> web.StreamResponse:
        """Break the caller's connection if the answer has begun. An answer that ends in order would seem complete."""
        if self._answer is None:
            raise Problem(502, "outcome_unknown", f"there is no answer of the child: {why}")
        if self._request.transport is not None:
            self._request.transport.close()
        return self._answer

    async def _plain(self) -> web.StreamResponse | None:
        request = self._request
        more: dict[str, Any] = dict(self._verification)
        if request.body_exists:
            more |= {"data": self._body(), "expect100": self._by_member}
        async with self._session.request(
            request.method, self._url, headers=self._headers, allow_redirects=False, **more
        ) as answer:
            if self._by_member and ANSWER_HEADER not in answer.headers:
                await _refuse(answer)
                return None
            made = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_passed_on(answer.headers))
            made.headers[ANSWER_HEADER] = "child"
            await made.prepare(request)
            self._answer = made
            async for chunk in answer.content.iter_any():
                await made.write(chunk)
            await made.write_eof()
        return made

    async def _body(self) -> Any:
        """The caller's body. It is sent when the child, or its member, takes it."""
        await send_continue(self._request)
        async for chunk in self._request.content.iter_any():
            yield chunk

    async def _websocket(self) -> web.StreamResponse | None:
        offered = self._request.headers.get("Sec-WebSocket-Protocol", "")
        try:
            child = await self._session.ws_connect(
                self._url,
                headers=self._headers,
                protocols=[name.strip() for name in offered.split(",") if name.strip()],
                autoclose=False,
                autoping=False,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                **self._verification,
            )
        except aiohttp.WSServerHandshakeError as error:
            mine = error.headers is None or ANSWER_HEADER not in error.headers
            if mine and self._by_member and error.status in _NOT_RUN:
                return None
            if mine and self._by_member and error.status in _REFUSED:
                raise Problem(error.status, "unauthorized", error.message) from error
            marks = {ANSWER_HEADER: "child"}
            return web.Response(status=error.status, headers=marks, text=f"no WebSocket: {error.message}")
        async with child:
            caller = web.WebSocketResponse(
                protocols=(child.protocol,) if child.protocol else (),
                autoclose=False,
                autoping=False,
                max_msg_size=0,
                compress=False,
                timeout=_CLOSE_SECONDS,
            )
            caller.headers[ANSWER_HEADER] = "child"
            await caller.prepare(self._request)
            await self._pass_messages(caller, child)
            return caller

    async def _pass_messages(self, caller: web.WebSocketResponse, child: aiohttp.ClientWebSocketResponse) -> None:
        to_child, to_caller = asyncio.ensure_future(_pump(caller, child)), asyncio.ensure_future(_pump(child, caller))
        over = asyncio.ensure_future(self._ended.wait())
        tasks = (to_child, to_caller, over)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code, reason = RESTARTS, b"the child is restarted or moved; connect again"
            for pump in (to_caller, to_child):
                if pump.done() and not over.done():
                    code, reason = pump.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await caller.close(code=code, message=reason)
        await child.close(code=code, message=reason)


async def _pump(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> tuple[int, bytes]:
    """Pass messages on until one end closes; returns the code and the reason for the other end."""
    with contextlib.suppress(ConnectionError, RuntimeError):
        while True:
            message = await source.receive()
            if message.type is WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is WSMsgType.PING:
                await sink.ping(message.data)
            elif message.type is WSMsgType.PONG:
                await sink.pong(message.data)
            elif message.type is WSMsgType.CLOSE:
                return message.data or _NORMAL, (message.extra or "").encode()
            else:
                break
    return RESTARTS, b"the connection to the child broke; connect again"


async def send_continue(request: web.BaseRequest) -> None:
    """Send "100 Continue" to a caller that waits for it before it sends the body."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # these bytes are not part of the answer


async def _refuse(answer: aiohttp.ClientResponse) -> None:
    """Raise the Problem of a member that has not asked the child, unless another owner is to be looked for."""
    problem = read_problem(await answer.read())
    if answer.status not in _NOT_RUN:
        raise Problem(answer.status, problem.code or "bad_request", problem.detail)


def _session(socket: str = "") -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(socket) if socket else aiohttp.TCPConnector()
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers without those between two ends of one connection, and without those that are the hub's."""
    named: Iterable[str] = headers.get("Connection", "").split(",")
    dropped = {*_HOP_BY_HOP, *_NOT_PASSED, *(name.strip().lower() for name in named)}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _query(request: web.BaseRequest) -> str:
    return f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
