"""The connection on which one member forwards requests to another: both ends, on real sockets."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from certified import authority, certify

from builders import loopback, make_slice
from processhub.agent.env import PORT, Environment
from processhub.agent.listeners import Signal
from processhub.agent.peers import connections
from processhub.agent.peers.client import Peers
from processhub.agent.peers.line import (
    BODY_MAX,
    MESSAGE_MAX,
    PATH,
    Ask,
    ChildAnswer,
    Go,
    Line,
    Message,
    Part,
    Turn,
)
from processhub.agent.peers.link import Forwarding, UnreachableError
from processhub.agent.problems import Problem
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.request import MovedError, Request, Response, WithdrawnError
from processhub.agent.requests import forwarded
from processhub.agent.requests.forwarded import ForwardingSession
from processhub.agent.requests.listener import Listener
from processhub.agent.tls.identity import MemberTls
from processhub.api.slice import SliceStatus, SliceTls, TlsReport

HERE, ADDRESS = loopback(1), loopback(2)  # the second is the owner's
OWNER = RoutedCopy("hub-2", f"{ADDRESS}:{PORT}", "Active", 3, wait=False, running=True)
WAITS = 20


class Owner:
    """The other member. Its child takes a request at once, unless ``busy`` is set."""

    def __init__(self) -> None:
        self.busy, self.free = False, asyncio.Event()
        self.put_off_late = False  # the child can't take a request after all, when its turn has come
        self.ran: list[bytes] = []
        self.waiting = self.withdrawn = 0
        self.answers: dict[bytes, asyncio.Future[bytes]] = {}
        self.tokens: list[str] = []  # with which connections were opened
        self.refused: set[str] = set()
        self.transports: list[asyncio.Transport] = []
        self.lines: list[Line] = []
        self.encrypted: list[bool] = []  # whether each connection is
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None

    async def encrypt(self, tls: MemberTls) -> None:
        """Accept TLS too, on another listener of the same address."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()
        assert self._runner.server is not None
        self._listener = Listener(self._runner.server, tls, ADDRESS, PORT)
        await self._listener.start()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(PATH, self._connection)
        app.router.add_post("/v1/children/a/call", self._by_http)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, ADDRESS, PORT, reuse_address=True).start()

    async def stop(self) -> None:
        """End as a process that is killed: its connections break."""
        self.cut()
        assert self._runner is not None
        if self._listener is not None:
            self._listener.stop()
        await self._runner.cleanup()

    def cut(self) -> None:
        for transport in self.transports:
            transport.abort()
        self.transports.clear()

    async def _connection(self, request: web.Request) -> web.WebSocketResponse:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if token in self.refused:
            raise web.HTTPUnauthorized
        self.tokens.append(token)
        assert isinstance(request.transport, asyncio.Transport)
        self.transports.append(request.transport)
        self.encrypted.append(request.transport.get_extra_info("ssl_object") is not None)
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_MAX, timeout=0.5)
        await socket.prepare(request)

        async def check() -> None:
            if token in self.refused:
                raise Problem(401, "unauthorized", "the token is not valid any more")

        self.lines.append(Line(socket))
        await ForwardingSession(self.lines[-1], self._serve, check).run()
        return socket

    async def _by_http(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"].removeprefix("Bearer ") in self.refused:
            raise web.HTTPUnauthorized
        raise web.HTTPNotFound

    async def _serve(self, child_id: str, epoch: int, request: Request) -> Response:
        assert (child_id, epoch) == ("a", 3)
        try:
            if self.busy:
                request.put_off()
                self.waiting += 1
                await self.free.wait()
            fetching = asyncio.ensure_future(request.content())
            if self.put_off_late:
                await asyncio.sleep(0)
                request.put_off()
            body = await fetching
            if self.put_off_late:
                request.put_off()
        except (asyncio.CancelledError, WithdrawnError) as error:
            self.withdrawn += 1
            if isinstance(error, WithdrawnError):
                raise Problem(409, "stale_epoch", "its sender has withdrawn it") from None
            raise
        request.handed_over.set()
        self.ran.append(body)
        if (answer := self.answers.get(body)) is not None:
            body = await answer
        return Response(200, body)

    def holds(self, *bodies: bytes) -> None:
        """Have the child answer these when the test says so."""
        for body in bodies:
            self.answers[body] = asyncio.get_running_loop().create_future()


class Asking:
    """The member that forwards requests."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "token"
        self.token_file.write_text("first")
        env = Environment(
            "hub", "n", "h", "hub-1", "hub-1", "p", HERE, "node", run_dir=folder, token_file=str(self.token_file)
        )
        self.tls = MemberTls(env)
        self.peers = Peers(env, self.tls)

    def forward(
        self,
        request: Request,
        seconds: float = 40,
        changed: Signal | None = None,
        stands: Callable[[], bool] = lambda: True,
    ) -> asyncio.Task[Response | None]:
        return asyncio.get_running_loop().create_task(
            self.peers.forward(Forwarding(OWNER, "a", request, seconds, changed or Signal(), stands))
        )

    async def call(self, body: bytes) -> bytes | None:
        answer = await asyncio.wait_for(self.forward(Request("call", body)), WAITS)
        return answer and answer.body


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    made = Owner()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def asking(tmp_path: Path) -> AsyncIterator[Asking]:
    made = Asking(tmp_path)
    yield made
    await made.peers.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WAITS):
        while not holds():
            await asyncio.sleep(0.005)


async def test_many_requests_go_over_one_connection_and_each_gets_its_own_answer(owner: Owner, asking: Asking) -> None:
    bodies = [b"%d" % number for number in range(50)]
    owner.holds(*bodies)
    calls = [asyncio.create_task(asking.call(body)) for body in bodies]
    await until(lambda: len(owner.ran) == 50)
    assert owner.ran == bodies, "in the order in which they were sent"

    for body in reversed(bodies):
        owner.answers[body].set_result(b"answer to " + body)

    assert await asyncio.gather(*calls) == [b"answer to " + body for body in bodies]
    assert len(owner.tokens) == 1


async def test_whenever_a_connection_breaks_nothing_runs_twice_or_after_it_was_given_back(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_FRESH_SECONDS", 60.0)
    chance, outcomes = random.Random(1), dict[bytes, str]()

    async def ask(body: bytes) -> None:
        try:
            answer = await asking.forward(Request("call", body))
            outcomes[body] = "given back" if answer is None else "answered"
        except UnreachableError:
            outcomes[body] = "given back"
        except Problem as problem:
            outcomes[body] = problem.kind

    async def some_turns() -> None:
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)

    for round_ in range(60):
        owner.busy, owner.free = chance.random() < 0.5, asyncio.Event()
        asked = [asyncio.create_task(ask(b"%d-%d" % (round_, number))) for number in range(10)]
        await some_turns()
        owner.free.set()
        await some_turns()
        owner.cut()
        await asyncio.gather(*asked)
    await until(lambda: all(line.closed for line in owner.lines))

    ran = Counter(owner.ran)
    assert set(ran.values()) == {1}
    assert set(outcomes.values()) == {"answered", "given back", "outcome_unknown"}, (
        "or the test shows less than it says"
    )
    for body, outcome in outcomes.items():
        assert outcome == "outcome_unknown" or (body in ran) == (outcome == "answered"), (body, outcome)


async def test_a_member_lost_after_it_handed_a_request_over_leaves_the_outcome_open(
    owner: Owner, asking: Asking
) -> None:
    owner.holds(b"1")
    request = Request("call", b"1")
    sending = asking.forward(request)
    await until(lambda: owner.ran)

    owner.cut()

    with pytest.raises(Problem) as known:
        await sending
    assert (known.value.status, known.value.kind) == (502, "outcome_unknown")
    assert request.begun


async def test_what_waits_at_a_member_that_is_lost_goes_to_the_next_owner(owner: Owner, asking: Asking) -> None:
    owner.busy = True
    request = Request("call", b"1")
    sending = asking.forward(request)
    await until(lambda: owner.waiting and not request.begun)

    owner.cut()

    with pytest.raises(UnreachableError, match="member hub-2"):
        await sending
    assert not request.begun
    await until(lambda: owner.withdrawn)
    owner.free.set()
    assert owner.ran == [], "it is not run there either"


async def test_what_waits_runs_when_its_turn_comes(owner: Owner, asking: Asking) -> None:
    owner.busy = True
    request = Request("call", b"1")
    sending = asking.forward(request)
    await until(lambda: owner.waiting and not request.begun)

    owner.free.set()

    answer = await sending
    assert answer is not None
    assert (answer.body, request.begun) == (b"1", True)


async def test_a_request_that_is_put_off_after_its_turn_has_come_may_have_run(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_FRESH_SECONDS", 60.0)  # it is offered to be run at once
    owner.busy = owner.put_off_late = True
    owner.free.set()
    owner.holds(b"1")
    request = Request("call", b"1")
    sending = asking.forward(request)
    await until(lambda: owner.ran)
    assert await asking.call(b"2") == b"2", "what the owner said before has come"

    owner.cut()

    with pytest.raises(Problem) as known:
        await sending
    assert (known.value.kind, request.begun) == ("outcome_unknown", True)


@pytest.mark.parametrize("when", ["while it waits", "when its turn comes"])
async def test_a_request_is_withdrawn_from_a_member_that_is_not_the_owner_any_more(
    owner: Owner, asking: Asking, when: str
) -> None:
    owner.busy, changed, lost = True, Signal(), False
    sending = asking.forward(Request("call", b"1"), changed=changed, stands=lambda: not lost)
    await until(lambda: owner.waiting)
    await asking_heard(asking)

    lost = True
    if when == "while it waits":
        changed.set()
    else:
        owner.free.set()

    assert await asyncio.wait_for(sending, WAITS) is None
    await until(lambda: owner.withdrawn)
    assert owner.ran == []


async def withdrawn_at_once(asking: Asking) -> Response | None:
    """A request that comes to the owner together with the word that it is withdrawn."""
    changed = Signal()
    changed.set()
    return await asking.forward(Request("call", b"0"), changed=changed, stands=lambda: False)


async def asking_heard(asking: Asking) -> None:
    """Return when the other member's messages so far have come."""
    connection = next(iter(asking.peers._connections._open.values()))
    await until(lambda: all(not call.request.begun for call in connection._calls.values()))


async def test_a_caller_that_leaves_takes_a_request_that_waits_with_it(owner: Owner, asking: Asking) -> None:
    owner.busy = True
    sending = asking.forward(Request("call", b"1"))
    await until(lambda: owner.waiting)

    sending.cancel()

    await until(lambda: owner.withdrawn)
    owner.busy = False
    assert await asking.call(b"2") == b"2"
    assert owner.ran == [b"2"]


async def test_an_owner_that_was_not_heard_from_lately_is_asked_before_a_request_may_run(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be cut off. What was allowed to run at once there could not go to the next owner."""
    await asking.call(b"0")
    monkeypatch.setattr(connections, "_FRESH_SECONDS", -1.0)
    owner.transports[0].pause_reading()
    request = Request("call", b"1")
    sending = asking.forward(request)
    await asyncio.sleep(0)
    connection = next(iter(asking.peers._connections._open.values()))
    await until(lambda: not connection._line._pending)
    assert not request.begun

    owner.transports[0].resume_reading()

    answer = await sending
    assert answer is not None
    assert (answer.body, request.begun) == (b"1", True)


async def test_a_member_that_does_not_answer_in_time_leaves_the_outcome_open(owner: Owner, asking: Asking) -> None:
    owner.holds(b"1")
    with pytest.raises(Problem) as known:
        await asking.forward(Request("call", b"1"), seconds=-1.5)  # 2 s more are for the way

    assert (known.value.status, known.value.kind) == (502, "outcome_unknown")
    assert await asking.call(b"2") == b"2", "the connection is still good"


async def test_large_bodies_come_whole_and_others_pass_between_their_parts(owner: Owner, asking: Asking) -> None:
    large = bytes(range(256)) * (BODY_MAX // 256)
    owner.holds(large)
    sending = asyncio.create_task(asking.call(large))
    small = [await asking.call(b"%d" % number) for number in range(20)]
    await until(lambda: large in owner.ran)
    owner.answers[large].set_result(large[::-1])

    assert await sending == large[::-1]
    assert small == [b"%d" % number for number in range(20)]
    with pytest.raises(Problem) as refused:
        await asking.forward(Request("call", large + b"1"))
    assert (refused.value.status, refused.value.kind) == (413, "bad_request")


async def test_a_large_body_may_take_as_long_as_parts_of_it_come(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given back after five seconds, and sent again from its beginning."""
    monkeypatch.setattr(forwarded, "_PEER_SECONDS", 1.0)
    decode = msgspec.msgpack.Decoder(list[Message]).decode
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{ADDRESS}:{PORT}{PATH}", headers={"Authorization": "Bearer token"}) as socket,
    ):

        async def send(message: Message) -> None:
            await socket.send_bytes(msgspec.msgpack.encode([message]))

        await send(Ask(1, "a", 3, "call", "", {}, None, at_once=False))
        assert decode(await socket.receive_bytes()) == [Turn(1)]
        for _ in range(4):
            await asyncio.sleep(0.4)  # together longer than the other member waits for the next part
            await send(Part(1, b"part "))
        await send(Go(1, b"last"))
        (answer,) = decode(await socket.receive_bytes())

    assert isinstance(answer, ChildAnswer)
    assert answer.by_child
    assert owner.ran == [b"part part part part last"]


async def test_a_member_that_reads_slowly_gets_no_further_requests_in(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_FRESH_SECONDS", 60.0)  # they run without another word of this member
    await asking.call(b"0")
    connection = next(iter(asking.peers._connections._open.values()))
    transport = connection._socket._conn.transport  # type: ignore[union-attr]
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    body = b"x" * 60_000
    calls = [asyncio.create_task(asking.call(b"%d" % number + body)) for number in range(400)]
    await until(lambda: owner.lines[0].full)
    taken: list[int] = []
    while len(taken) < 20 or taken[-20] != taken[-1]:
        await asyncio.sleep(0.01)
        taken.append(len(owner.ran))
    assert taken[-1] < 400, "their answers would wait in memory"

    transport.resume_reading()

    assert [len(answer or b"") for answer in await asyncio.gather(*calls)] == [
        len(body) + len(str(number)) for number in range(400)
    ]


async def test_a_member_that_restarted_at_its_address_gets_a_new_connection(owner: Owner, asking: Asking) -> None:
    assert await asking.call(b"1") == b"1"
    await owner.stop()
    with pytest.raises(UnreachableError):
        await asking.call(b"2")

    await owner.start()

    assert await asking.call(b"3") == b"3"
    assert owner.ran == [b"1", b"3"]


async def test_a_renewed_token_opens_a_new_connection_and_the_old_one_answers_what_it_has(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processhub.agent.peers.client._TOKEN_SECONDS", 0.0)
    owner.holds(b"1")
    first = asyncio.create_task(asking.call(b"1"))
    await until(lambda: owner.ran)

    asking.token_file.write_text("second")
    assert await asking.call(b"2") == b"2"
    assert owner.tokens == ["first", "second"]
    owner.answers[b"1"].set_result(b"late")

    assert await first == b"late"
    await until(lambda: owner.lines[0].closed)
    assert not owner.lines[1].closed


async def test_a_token_that_is_revoked_ends_its_connection(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await asking.call(b"1") == b"1"
    await asyncio.sleep(2 * connections._FRESH_SECONDS)
    assert await withdrawn_at_once(asking) is None
    monkeypatch.setattr(forwarded, "_CHECK_SECONDS", -1.0)
    owner.refused.add("first")

    await asking.call(b"2")  # the check that comes with it finds out
    await until(lambda: owner.lines[0].closed)

    with pytest.raises(Problem) as refused:
        await asking.call(b"3")
    assert (refused.value.status, refused.value.kind) == (503, "no_owner")
    assert "does not take this member's token" in refused.value.detail


async def test_a_connection_that_can_send_no_more_is_closed_and_holds_no_further_request_up(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_: Owner, __: str, ___: int, request: Request) -> Response:
        body = await request.content()
        return Response(200, body, "text/caf\udce9" if body == b"1" else "text/plain")

    monkeypatch.setattr(Owner, "_serve", answer)

    with pytest.raises(Problem) as known:
        await asking.call(b"1")
    assert known.value.kind == "outcome_unknown"
    assert await asking.call(b"2") == b"2"


async def test_what_the_owner_took_and_did_not_give_to_the_child_waits_for_the_next_owner(
    owner: Owner, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def moved(*_: object) -> Response:
        raise Problem(409, "stale_epoch", "it left") from MovedError()

    monkeypatch.setattr(Owner, "_serve", moved)
    request = Request("call", b"1")

    assert await asking.forward(request) is None
    assert not request.begun


async def test_a_connection_is_opened_again_over_tls_when_the_member_offers_it_or_another_authority_signs(
    owner: Owner, asking: Asking, tmp_path: Path
) -> None:
    first, second = authority(), authority()
    there = MemberTls(Environment("hub", "n", "h", "hub-2", "hub-2", "p", ADDRESS, "node", run_dir=tmp_path / "there"))
    certify(there, first, required=False)
    await owner.encrypt(there)
    asking.tls.take(SliceTls(authorities=first.certificate))
    assert await asking.call(b"1") == b"1"

    status = SliceStatus(address=ADDRESS, port=PORT, tls=TlsReport(offered=True))
    asking.tls.registry_changed(None, make_slice(member="hub-2", status=status))
    assert await asking.call(b"2") == b"2"
    assert await asking.call(b"3") == b"3"
    asking.tls.take(SliceTls(authorities=first.certificate + second.certificate))
    assert await asking.call(b"4") == b"4"

    assert owner.encrypted == [False, True, True]


async def test_a_connection_without_tls_is_not_opened_where_tls_is_required(owner: Owner, asking: Asking) -> None:
    certify(asking.tls, authority())

    with pytest.raises(UnreachableError, match=r"hub-2 .* it does not offer TLS, which its hub requires"):
        await asking.call(b"1")

    assert owner.tokens == []


async def test_nothing_is_kept_of_connections_to_members_that_are_gone(owner: Owner, asking: Asking) -> None:
    assert await asking.call(b"1") == b"1"
    (connection,) = asking.peers._connections._open.values()
    gone = weakref.ref(connection)
    del connection
    await owner.stop()
    await until(lambda: not asking.peers.connected(OWNER.address))

    await until(lambda: gc.collect() is not None and gone() is None)
