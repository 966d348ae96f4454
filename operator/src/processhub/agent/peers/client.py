"""Requests to other members: with this member's token and the epoch by which a request was routed.

They go over the connection that this member keeps to the owner (``connections.py``). A member of an earlier version
gets each as an HTTP request of its own. Its body is sent only when the owner answers ``100 Continue``, and the owner
does that when the request's turn has come:

    this member → owner:  POST …/call, Expect: 100-continue   the request waits in the child's queue
    owner → this member:  100 Continue                        its turn has come
    this member → owner:  the body                            from here on it may have run
    owner → this member:  the child's answer

In both ways: if the owner is lost while the request waits, the request was not sent. It may go to the next owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from processhub.agent.env import Environment
from processhub.agent.peers.connections import PeerConnections, Way
from processhub.agent.peers.line import BODY_MAX, MESSAGE_MAX, PATH
from processhub.agent.peers.link import Forwarding, UnreachableError
from processhub.agent.peers.statesender import Batch, Outgoing, Receipt
from processhub.agent.problems import Problem
from processhub.agent.request import Request, Response
from processhub.agent.tls.identity import MemberTls
from processhub.api.requests import ANSWER_HEADER, EPOCH_HEADER, read_problem
from processhub.cluster.errors import reason_of
from processhub.cluster.sockets import watched_socket
from processhub.cluster.trust import tls_failure

_CONNECT_SECONDS = 2.0
_CUT_OFF_SECONDS = 10  # after which a connection counts as broken whose other end acknowledges nothing
_TOKEN_SECONDS = 10.0  # the kubelet renews the file long before the token expires
_CLOSE_SECONDS = 0.5  # within which the other end answers that a connection is closed
_ANSWER_MARGIN = 2.0  # seconds beyond requestSeconds, after which a silent owner counts as lost
_ANSWERS = aiohttp.ClientTimeout(total=2.0, sock_connect=_CONNECT_SECONDS)
# Codes of problems after which the request goes to the next owner.
_ELSEWHERE = ("stale_epoch", "not_ready", "tls_required")


class _Attempt:
    """A request on its way to one member; once it is ``withdrawn``, its body is not sent any more."""

    __slots__ = ("request", "withdrawn")

    def __init__(self, request: Request) -> None:
        self.request, self.withdrawn = request, False


class Peers:
    """The other members of the hub."""

    def __init__(self, env: Environment, tls: MemberTls) -> None:
        self._tls = tls
        self._member, self._token_file = env.member, Path(env.token_file)
        self._token, self._read_at = "", float("-inf")
        traces = aiohttp.TraceConfig()
        traces.on_request_chunk_sent.append(_body_goes_out)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=30, socket_factory=watched_socket(_CUT_OFF_SECONDS, sent=True)
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            trace_configs=[traces],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._connections = PeerConnections(env.member, self._way, self._connect)

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()
        await self._session.close()

    async def forward(self, what: Forwarding) -> Response | None:
        """Send the request to the owner; returns its answer, or None if it was not sent and must be routed again.

        Raises Problem, and UnreachableError if it was not sent because the owner can't be reached.
        """
        if len(await what.request.content()) > BODY_MAX:
            raise Problem(413, "bad_request", f"the request has more than {BODY_MAX} bytes")
        connection = await self._connections.to(what)
        if connection is True:
            return await self._forward_by_http(what)
        if connection is False:
            return None
        answer = await connection.ask(what, what.seconds + _ANSWER_MARGIN)
        if answer is None:
            return None
        if answer.by_child:
            return Response(answer.status, answer.body, answer.content_type)
        return _not_answered(what, answer.status, answer.body, answer.retry_after)

    def _way(self, address: str) -> Way:
        base = self._tls.base(address)
        return Way(base, self.token(), self._tls.trust if base.startswith("https:") else None)

    async def _connect(self, way: Way) -> aiohttp.ClientWebSocketResponse:
        try:
            made: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
                URL(f"{way.base}{PATH}", encoded=True),
                headers={"Authorization": f"Bearer {way.token}"},
                max_msg_size=MESSAGE_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                **self._tls.verification(),
            )
        except aiohttp.ClientConnectorError as error:
            if why := tls_failure(error, self._tls.server_name):
                raise OSError(why) from error
            raise
        return made

    async def _forward_by_http(self, what: Forwarding) -> Response | None:
        """Forward a request to a member of an earlier version."""
        loop, request, changed = asyncio.get_running_loop(), what.request, what.changed
        attempt = _Attempt(request)
        post = loop.create_task(self._post(what, attempt))
        sent = loop.create_task(request.handed_over.wait())
        news = loop.create_task(changed.wait())
        try:
            while not post.done() and not request.begun:
                await asyncio.wait((post, sent, news), return_when=asyncio.FIRST_COMPLETED)
                if news.done():
                    changed.clear()
                    news = loop.create_task(changed.wait())
                    if not what.stands() and not request.begun:
                        # aiohttp sends the body in a task of its own, which a cancellation reaches only later.
                        attempt.withdrawn = True
                        post.cancel()
                        break
            await asyncio.wait((post,), timeout=what.seconds + _ANSWER_MARGIN if request.begun else None)
            if post.done() and not post.cancelled():
                return post.result()
        finally:
            attempt.withdrawn = True
            for task in (post, sent, news):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Problem, UnreachableError):
                await post
        if request.begun:
            text = f"member {what.owner.member} has not answered for child {what.child_id!r}"
            raise Problem(502, "outcome_unknown", text)
        return None

    async def _post(self, what: Forwarding, attempt: _Attempt) -> Response | None:
        owner, request = what.owner, what.request
        url = URL(
            f"{self._tls.base(owner.address)}/v1/children/{quote(what.child_id, safe='')}/{request.kind}", encoded=True
        )
        headers = {
            "Authorization": f"Bearer {self.token()}",
            EPOCH_HEADER: str(owner.epoch),
            "Content-Type": request.content_type,
            **request.headers,
        }
        try:
            async with self._session.post(
                url,
                data=await request.content(),
                headers=headers,
                expect100=True,
                allow_redirects=False,
                trace_request_ctx=attempt,
                **self._tls.verification(),
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if request.begun:
                text = f"the connection to member {owner.member} broke while child {what.child_id!r} was asked"
                raise Problem(502, "outcome_unknown", f"{text}: {reason_of(error)}") from error
            why = tls_failure(error, self._tls.server_name) or reason_of(error)
            raise UnreachableError(
                f"member {owner.member} ({owner.address}) can't be reached from member {self._member}: {why}"
            ) from error
        if ANSWER_HEADER in answer.headers:
            return Response(answer.status, body, answer.headers.get("Content-Type", ""))
        retry_after = answer.headers.get("Retry-After", "")
        return _not_answered(what, answer.status, body, int(retry_after) if retry_after.isdigit() else 0)

    async def send_state(self, address: str, state: Outgoing) -> Receipt:
        """Send a child's large state as a stream, for the entry that waits on the member at the address."""
        query = f"uid={quote(state.uid, safe='')}&epoch={state.epoch}&checksum={state.checksum}"
        path = f"/v1/handovers/{quote(state.id, safe='')}?{query}"
        try:
            with io.BytesIO(state.content) if isinstance(state.content, bytes) else state.content.open("rb") as file:
                status, body = await self._carry("PUT", address, path, file)
        except OSError as error:
            return Receipt(0, f"{error.strerror}: {error.filename}")
        return Receipt(status, _why(status, body))

    async def send_states(self, address: str, batch: Batch) -> tuple[Receipt, ...]:
        """Send small states for entries that wait on the member at the address; returns the receipts in order."""
        status, body = await self._carry("POST", address, "/v1/handovers", msgspec.msgpack.encode(batch))
        if status == 200:
            with contextlib.suppress(msgspec.DecodeError):
                answers = msgspec.msgpack.decode(body, type=tuple[Receipt, ...])
                if len(answers) == len(batch.states):
                    return answers
            status, body = 0, b""
        return (Receipt(status, _why(status, body)),) * len(batch.states)

    async def _carry(self, method: str, address: str, path: str, data: Any) -> tuple[int, bytes]:
        """Send an HTTP request; returns the answer's status and body, or 0 and the reason if there is no answer."""
        try:
            async with self._session.request(
                method,
                URL(f"{self._tls.base(address)}{path}", encoded=True),
                data=data,
                headers={"Authorization": f"Bearer {self.token()}"},
                allow_redirects=False,
                **self._tls.verification(),
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = tls_failure(error, self._tls.server_name) or reason_of(error)
            return 0, why.encode()

    def connected(self, address: str) -> bool:
        """Whether a connection to the member at the address is open, on which requests are forwarded."""
        return self._connections.open_to(address)

    async def answers(self, address: str) -> bool:
        """Whether the member at the address answers at all. Probes need no TLS and no token."""
        try:
            async with self._session.get(URL(f"http://{address}/healthz"), timeout=_ANSWERS, allow_redirects=False):
                return True
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def token(self) -> str:
        """This member's own token, or "" if there is none."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at > _TOKEN_SECONDS:
            with contextlib.suppress(OSError):
                self._token, self._read_at = self._token_file.read_text().strip(), now
        return self._token


def _not_answered(what: Forwarding, status: int, body: bytes, retry_after: int) -> Response | None:
    """None if the request waits for the next owner. Raises the owner's Problem otherwise."""
    problem = read_problem(body)
    if problem.code in _ELSEWHERE:
        # The owner had the body, but its child did not: the request waits for the next owner as before.
        what.request.handed_over.clear()
        return None
    owner = what.owner
    detail = problem.detail or f"member {owner.member} answered with status {status}"
    if status in (401, 403):
        # This concerns members only. The caller has shown its own token before.
        raise Problem(503, "no_owner", f"member {owner.member} does not take this member's token: {detail}")
    raise Problem(status, problem.code or "bad_gateway", detail, retry_after)


def _why(status: int, body: bytes) -> str:
    """The reason why a state was not taken; "" if it was."""
    if 200 <= status < 300:
        return ""
    return read_problem(body).detail or (f"status {status}" if status else body.decode(errors="replace"))


async def _body_goes_out(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    attempt = context.trace_request_ctx
    if not isinstance(attempt, _Attempt):
        return  # the handover of a state has no _Attempt
    if attempt.withdrawn:
        raise ConnectionAbortedError("the request was withdrawn")
    attempt.request.handed_over.set()
