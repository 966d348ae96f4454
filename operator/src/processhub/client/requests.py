"""Requests to children. They go to any member that answers, which routes them to the child's owner."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from processhub.api.requests import ANSWER_HEADER, KEY_HEADER, read_problem
from processhub.client.endpoints import MemberEndpoints
from processhub.client.errors import HubError, NoOwner, OutcomeUnknown, RequestFailed, Timeout
from processhub.client.membertls import MemberConnections
from processhub.client.membertoken import MemberToken
from processhub.client.session import Session
from processhub.client.waiting import why_not_running
from processhub.cluster.errors import ApiError, reason_of
from processhub.cluster.sockets import watched_socket
from processhub.cluster.trust import tls_failure
from processhub.jsontext import NotJsonError, json_text
from processhub.requesterrors import request_error

_CONNECT_SECONDS = 2.0
_PAUSE_SECONDS = 0.25  # the first pause; it doubles each time
_ATTEMPTS = 3  # at one base URL: a Service may lead to another member each time
_WHY_SECONDS = 2.0  # for the reason of a time-out
_NOT_NOW = ("not_ready", "tls_required")  # codes of problems after which the request is sent again: it was not run
_CUT_OFF_SECONDS = 10  # after which a member counts as lost that acknowledges nothing
_KEEP_SECONDS = 15.0  # members keep connections for longer than this


class _Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Requests:
    """The requests of one client. Call ``close`` at the end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._token = MemberToken(session)
        self._endpoints = MemberEndpoints(session)
        self._connections = MemberConnections(session)
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._endpoints.close()
        if self._http is not None:
            await self._http.close()

    async def call(self, child_id: str, request: Any, timeout: float | None, key: str) -> Any:
        """Send a call; returns the child's answer: a JSON value, or text if it is not JSON."""
        reply = await self._send(child_id, "call", "", request, timeout, key)
        if reply.headers.get("Content-Type", "").partition(";")[0].strip() == "application/json":
            with contextlib.suppress(ValueError):
                return json.loads(reply.body)
        return reply.body.decode(errors="replace")

    async def cast(self, child_id: str, message: Any, to: str, timeout: float | None) -> list[str]:
        """Send a cast; returns when it is in the child's queue, with ``to="all"`` the members that accepted it."""
        if to not in ("one", "all"):
            raise HubError(f"to is {to!r}; it is 'one' or 'all'")
        reply = await self._send(child_id, "cast", "?to=all" if to == "all" else "", message, timeout, "")
        found = json.loads(reply.body)
        return list(found.get("members", ()))

    async def _send(self, child_id: str, kind: str, query: str, value: Any, timeout: float | None, key: str) -> _Reply:
        try:
            body = json_text(value).encode()
        except NotJsonError as error:
            raise HubError(f"the request to child {child_id!r} does not fit JSON: {error}") from error
        path = f"/v1/children/{quote(child_id, safe='')}/{kind}{query}"
        headers = {"Content-Type": "application/json", **({KEY_HEADER: key} if key else {})}
        try:
            async with asyncio.timeout(timeout):
                reply = await self._to_some_member(child_id, path, body, headers)
        except TimeoutError:
            why = await self._why(child_id)
            raise Timeout(
                f"child {child_id!r} has not answered within {timeout:g} s{why and f' ({why})'}; it may still carry out"
                " the request"
            ) from None
        if ANSWER_HEADER in reply.headers:
            if reply.status < 400:
                return reply
            text = reply.body[:500].decode(errors="replace")
            raise RequestFailed(f"child {child_id!r} answered {reply.status}: {text}", reply.status, "child_error")
        problem = read_problem(reply.body)
        retry_after = reply.headers.get("Retry-After", "")
        raise request_error(
            reply.status,
            problem.code,
            problem.detail or f"a member of hub {self._session.name} answered with status {reply.status}",
            float(retry_after) if retry_after.isdigit() else 0.0,
        )

    async def _why(self, child_id: str) -> str:
        """Why the child does not run, if that is known soon."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(_WHY_SECONDS):
                return await why_not_running(self._session, child_id)
        return ""

    async def _to_some_member(self, child_id: str, path: str, body: bytes, headers: dict[str, str]) -> _Reply:
        """Send the request to the members in turn; returns the first answer of one that accepts it.

        If none does, as when all of them restart, they are tried again, for the hub's requestSeconds at most.
        """
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._session.living_hub().spec.timeouts.request_seconds, _PAUSE_SECONDS
        while True:
            tried: list[str] = []
            async for base in self._endpoints.bases():
                reply = await self._to_member(base, child_id, path, body, headers, tried)
                if reply is not None:
                    self._endpoints.worked(base)
                    return reply
                self._endpoints.failed(base)
            if loop.time() + pause > deadline:
                listed = "; ".join(tried + self._endpoints.troubles) or "none is ready"
                raise NoOwner(f"no member of hub {self._session.name} could be reached: {listed}", 0, "no_owner")
            await asyncio.sleep(pause)
            pause *= 2

    async def _to_member(
        self, base: str, child_id: str, path: str, body: bytes, headers: dict[str, str], tried: list[str]
    ) -> _Reply | None:
        """Send the request to one member; returns its answer, or None if it did not accept it.

        The reason is then added to ``tried``. The body is sent when the member asks for it (100 Continue). If the
        connection breaks before that, as a kept connection does when its member ends, nothing was run.
        """
        fresh = False
        for _ in range(_ATTEMPTS):
            sent, token = asyncio.Event(), await self._token.get(fresh=fresh)
            try:
                async with self._open().post(
                    URL(self._connections.url(base, path), encoded=True),
                    data=body,
                    headers={**headers, "Authorization": f"Bearer {token}"},
                    expect100=True,
                    allow_redirects=False,
                    trace_request_ctx=sent,
                    **self._connections.verification(base),
                ) as answer:
                    reply = _Reply(answer.status, answer.headers, await answer.read())
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                why = tls_failure(error, self._connections.name) or reason_of(error)
                tried.append(f"{self._endpoints.named(base)} ({why})")
                return None
            except (aiohttp.ClientError, OSError) as error:
                if sent.is_set():
                    text = f"the connection to {self._endpoints.named(base)} broke while child {child_id!r} was asked"
                    raise OutcomeUnknown(f"{text}: {reason_of(error)}", 0, "outcome_unknown") from error
                tried.append(f"{self._endpoints.named(base)} ({reason_of(error)})")
                continue
            if ANSWER_HEADER not in reply.headers and (problem := read_problem(reply.body)).code in _NOT_NOW:
                tried.append(f"{self._endpoints.named(base)} ({problem.detail})")
                continue
            if reply.status != 401 or fresh:
                return reply
            fresh = True
        return None

    def _open(self) -> aiohttp.ClientSession:
        if self._http is None:
            traces = aiohttp.TraceConfig()
            traces.on_request_chunk_sent.append(_body_is_sent)
            self._http = aiohttp.ClientSession(
                trace_configs=[traces],
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=_KEEP_SECONDS, socket_factory=watched_socket(_CUT_OFF_SECONDS, sent=True)
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http


async def _body_is_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.set()
