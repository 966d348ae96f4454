"""Which member gets a request, by the registry, and what a member concludes from the requests that it sent."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from memberparts import supervisor_of

from builders import loopback, make_client, make_slice
from processhub.agent.env import PORT, Environment
from processhub.agent.peers.client import Peers
from processhub.agent.peers.line import PATH, Line
from processhub.agent.peers.statesender import Content
from processhub.agent.problems import Problem
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.agent.request import Request, Response
from processhub.agent.requests.activation import Activations
from processhub.agent.requests.asks import Asks
from processhub.agent.requests.castorder import OF_NO_RUN
from processhub.agent.requests.forwarded import ForwardingSession, Serve
from processhub.agent.requests.localtakeover import LocalTakeover
from processhub.agent.requests.ondemand import UnplacedIds
from processhub.agent.requests.queue import RequestQueue
from processhub.agent.requests.router import Router
from processhub.agent.tls.identity import MemberTls
from processhub.api.child import ChildSpec, Python
from processhub.api.requests import ANSWER_HEADER
from processhub.api.slice import Activation, Settings
from processhub.cluster.client import Client
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload

WAITS = 40
HERE, OTHER, CUT = loopback(1), loopback(2), loopback(3)
ADDRESSES = {"hub-1": HERE, "hub-2": OTHER, "hub-3": CUT}
PORT_OF = {"hub-3": 9090}  # hub-3 was rolled out first after an edit of members.port
SETTINGS = Settings(lease_seconds=WAITS, request_seconds=WAITS)
BRIEF = Settings(lease_seconds=1, request_seconds=1)
LOCAL = Settings(lease_seconds=WAITS, request_seconds=WAITS, on_demand=True, on_owner_lost_local=True)
DIGEST, WORKLOAD = encode_workload(ChildSpec(hub="hub", python=Python(target="module:Actor")))


class Launcher:
    """Starts nothing."""

    takes_early = False

    def launch(self, child: object, desired: DesiredRun, state: Content | None) -> Launcher:
        return self

    def stop(self, grace: float) -> None: ...

    def forget(self, child_id: str) -> None: ...


class World:
    """The member hub-1 without processes and without an API server."""

    def __init__(self, folder: Path, client: Client, settings: Settings) -> None:
        env = Environment("hub", "n", "h", "hub-1", "hub-1", "p", HERE, "node", run_dir=folder)
        launcher, self.settings, self._version = Launcher(), settings, 0
        self.supervisor = supervisor_of({Python: launcher})
        children = self.supervisor.children
        self.slices = SliceWatcher(client, env, "p/1")
        self.queue = RequestQueue(children.get, lambda: True, lambda: self.slices.settings)
        self.peers = Peers(env, MemberTls(env))
        self.takeover = LocalTakeover(env, self.slices, self.peers, children, lambda: True)
        self.asks, activations = Asks(), Activations(env, "p/1", self.slices, children, lambda: True)
        unplaced = UnplacedIds(env, client, self.slices, activations)
        self.router = Router(
            env, self.slices, children, self.queue, self.peers, unplaced, self.takeover, activations, self.asks
        )
        self.slices.settings_changed.listen(self.supervisor.apply)
        self.slices.desired_changed.listen(self.supervisor.set_desired)
        self.slices.registry_changed.listen(activations.registry_changed)
        self.slices.registry_changed.listen(self.router.watch.changed)
        self.slices.read_on.listen(self.router.watch.look_again)
        self.takeover.desired_changed.listen(self.supervisor.set_desired)
        self.supervisor.news.changed.listen(self.queue.child_changed)
        self.put("hub-1")

    def put(
        self,
        member: str,
        entry: Assignment | None = None,
        report: Report | None = None,
        *,
        view: Activation | None = None,
        child_id: str = "a",
    ) -> None:
        """Give the member this entry of the child, with this report, and what its slice 0 says of views."""
        self._version += 1
        self.slices.informer.put(
            make_slice(
                {child_id: entry} if entry is not None else {},
                {child_id: report} if report is not None else {},
                hub_uid="h",
                namespace="n",
                member=member,
                workloads={DIGEST: WORKLOAD},
                settings=self.settings,
                address=ADDRESSES[member],
                port=PORT_OF.get(member, PORT),
                generation=self._version,
                resource_version=str(self._version),
                activation=view,
            )
        )
        self.slices.informer.seen = self._version

    def drop(self, member: str) -> None:
        """Have the member's slice deleted."""
        key = next(key for key, item in self.slices.informer.items.items() if item.spec.member == member)
        self.slices._changed(self.slices.informer.items.pop(key), None)


@asynccontextmanager
async def world_of(folder: Path, settings: Settings) -> AsyncIterator[World]:
    """Return the member during a block."""
    async with make_client() as client:
        world = World(folder, client, settings)
        yield world
        await world.peers.close()


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world_of(tmp_path, getattr(request, "param", SETTINGS)) as world:
        yield world


@asynccontextmanager
async def other(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], member: str = "hub-2"
) -> AsyncIterator[None]:
    """Run another member that responds like this. As one of an earlier version, it takes each request by HTTP."""

    async def no_connection(_: web.Request) -> web.Response:
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_get("/v1/requests", no_connection)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ADDRESSES[member], PORT_OF.get(member, PORT), reuse_address=True).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(serve: Serve, *, hangs: bool = False) -> AsyncIterator[None]:
    """Run the member hub-2, which serves what is forwarded on a connection. ``hangs``: it answers no probe."""

    async def check() -> None: ...

    async def healthz(_: web.Request) -> web.Response:
        await asyncio.sleep(WAITS if hangs else 0)
        return web.Response()

    async def connection(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(timeout=0.5)
        await socket.prepare(request)
        await ForwardingSession(Line(socket), serve, check).run()
        return socket

    app = web.Application()
    app.router.add_get(PATH, connection)
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, OTHER, PORT, reuse_address=True).start()
    try:
        yield
    finally:
        await runner.cleanup()


@contextmanager
def silent() -> Iterator[None]:
    """The member hub-3 neither accepts nor refuses a connection, as behind a policy that drops packets."""
    with ExitStack() as open_:
        full = open_.enter_context(socket.socket())
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind((CUT, PORT_OF["hub-3"]))
        full.listen(0)
        open_.enter_context(socket.create_connection((CUT, PORT_OF["hub-3"])))  # never accepted: the backlog is full
        yield


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WAITS):
        while not holds():
            await asyncio.sleep(0.01)


def entry(epoch: int, *, role: str = "Active", on_demand: bool = False) -> Assignment:
    return Assignment(uid="u", epoch=epoch, workload=DIGEST, role=role, on_demand=on_demand)


def running(epoch: int, role: str = "Active") -> Report:
    return Report(uid="u", epoch=epoch, role=role, state="Running", pid=7)


@pytest.mark.parametrize("world", [BRIEF], indirect=True)
@pytest.mark.parametrize("cut", [False, True], ids=["refused", "dropped"])
async def test_the_error_for_an_unreachable_owner_names_member_and_address(world: World, cut: bool) -> None:
    world.put("hub-3", entry(3), running(3))
    with silent() if cut else ExitStack(), pytest.raises(Problem) as late:
        await asyncio.wait_for(world.router.send("a", Request("call", b"1")), WAITS)

    assert (late.value.status, late.value.kind) == (503, "unreachable")
    why = "Connection timeout to host" if cut else f"no connection to {CUT}:9090: Connection refused;"
    assert late.value.detail.startswith(f"member hub-3 ({CUT}:9090) can't be reached from member hub-1: {why}")
    assert late.value.detail.endswith("; child 'a' is on record there")


async def test_a_member_is_called_on_the_port_that_it_has_reported(world: World) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(7, headers={ANSWER_HEADER: "child"})

    world.put("hub-3", entry(3), running(3))
    async with other(answer, "hub-3"):
        got = await asyncio.wait_for(world.router.send("a", Request("call", b"1")), WAITS)

    assert got.body == b"7"


@pytest.mark.parametrize("world", [BRIEF], indirect=True)
async def test_a_cast_to_all_names_the_unreachable_members(world: World) -> None:
    world.put("hub-3", entry(3), running(3))
    with pytest.raises(Problem) as late:
        await world.router.send_to_all("a", Request("cast", b"1"))

    assert (late.value.status, late.value.kind) == (503, "unreachable")
    assert late.value.detail.startswith(f"member hub-3 ({CUT}:9090) can't be reached from member hub-1: ")


@pytest.mark.parametrize("world", [LOCAL], indirect=True)
async def test_nothing_is_started_beside_a_request_whose_caller_disconnected(world: World) -> None:
    bodies: list[bytes] = []

    async def silent(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        await asyncio.sleep(WAITS)
        raise AssertionError("the caller is gone")

    world.put("hub-2", entry(3, on_demand=True), running(3))
    async with other(silent):
        sending = asyncio.create_task(world.router.send("a", Request("call", b"1")))
        await until(lambda: bodies)
        sending.cancel()
        await asyncio.wait((sending,))

    owner = RoutedCopy("hub-2", OTHER, "Active", 3, wait=False, running=True)
    assert not await world.takeover.take("a", owner), "the request may be running at the owner yet"


async def test_a_cast_to_all_names_the_copy_in_whose_queue_it_waits(world: World) -> None:
    world.put("hub-2", entry(2, role="Passive"))
    world.put("hub-1", entry(3))  # it is starting

    took = await world.router.send_to_all("a", Request("cast", b"1"))

    assert took == ["hub-1"]
    assert world.queue.waiting == 1


async def test_an_accepted_cast_reaches_the_next_owner_even_if_its_member_ends(world: World) -> None:
    bodies: list[bytes] = []

    async def owner(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response(status=202, headers={ANSWER_HEADER: "child"})

    world.put("hub-1", entry(3))  # it is starting
    assert (await world.router.send("a", Request("cast", b"1"))).status == 202

    world.put("hub-1")
    world.put("hub-2", entry(4))
    world.router.leave()
    await asyncio.sleep(0)
    async with other(owner):
        world.put("hub-2", entry(4), running(4))
        async with asyncio.timeout(WAITS):
            await world.router.delivered()

    assert bodies == [b"1"]


async def test_accepted_casts_follow_their_child_in_order_and_before_later_ones(world: World) -> None:
    bodies: list[bytes] = []

    async def owner(request: web.Request) -> web.Response:
        body = await request.read()
        await asyncio.sleep(0.05 if body == b"1" else 0)
        bodies.append(body)
        return web.Response(status=202, headers={ANSWER_HEADER: "child"})

    world.put("hub-1", entry(3))  # it is starting
    for body in (b"1", b"2", b"3"):
        await world.router.send("a", Request("cast", body))

    world.put("hub-1")
    world.put("hub-2", entry(4))
    async with other(owner):
        world.put("hub-2", entry(4), running(4))
        await world.router.send("a", Request("call", b"4"))

    assert bodies == [b"1", b"2", b"3", b"4"]


async def test_a_cast_waits_for_those_that_wait_at_the_former_owner_of_its_child(world: World) -> None:
    asked, delivered = asyncio.Event(), asyncio.Event()

    async def former(child_id: str, epoch: int, request: Request) -> Response:
        if epoch == 3:
            return Response(202, b"")
        assert epoch == OF_NO_RUN
        asked.set()
        await delivered.wait()
        raise Problem(409, "stale_epoch", "they have left")

    async with connected(former):
        world.put("hub-2", entry(3), running(3))
        assert (await world.router.send("a", Request("cast", b"1"))).status == 202, "it waits in hub-2's queue"
        world.put("hub-2")
        world.put("hub-1", entry(4))
        later = asyncio.create_task(world.router.send("a", Request("cast", b"2")))
        await asyncio.wait_for(asked.wait(), WAITS)
        assert not later.done()

        await world.router.serve_forwarded("a", 4, Request("cast", b"1"))
        delivered.set()
        assert (await asyncio.wait_for(later, WAITS)).status == 202

        await world.router.send("a", Request("cast", b"3"))
    assert [waiting.request.body for waiting in world.queue._queues["a"].waiting] == [b"1", b"2", b"3"]


async def test_a_cast_does_not_wait_for_a_former_owner_that_is_silent_or_gone(world: World) -> None:
    asked = asyncio.Event()

    async def former(child_id: str, epoch: int, request: Request) -> Response:
        if epoch != 3:
            asked.set()
            await asyncio.sleep(WAITS)
        return Response(202, b"")

    async with connected(former, hangs=True):
        for child_id in ("a", "b"):
            world.put("hub-2", entry(3), running(3), child_id=child_id)
            await world.router.send(child_id, Request("cast", b"1"))
        world.put("hub-2")
        world.put("hub-1", entry(4))
        await asyncio.wait_for(world.router.send("a", Request("cast", b"2")), WAITS / 4)
        assert asked.is_set()

    world.put("hub-1", entry(4), child_id="b")
    await asyncio.wait_for(world.router.send("b", Request("cast", b"2")), WAITS / 4)


@pytest.mark.parametrize("world", [LOCAL], indirect=True)
async def test_a_child_that_is_taken_over_does_not_wait_for_its_silent_owner_once_more(world: World) -> None:
    asked: list[int] = []

    async def former(child_id: str, epoch: int, request: Request) -> Response:
        asked.append(epoch)
        await asyncio.sleep(0 if epoch == 3 else WAITS)
        return Response(202, b"")

    world.put("hub-2", entry(3, on_demand=True), running(3))
    async with connected(former, hangs=True):
        await world.router.send("a", Request("cast", b"1"))
        owner = RoutedCopy("hub-2", f"{OTHER}:{PORT}", "Active", 3, wait=False, running=True)
        assert await world.takeover.take("a", owner)

        answer = await asyncio.wait_for(world.router.send("a", Request("cast", b"2")), WAITS)

    assert (answer.status, asked) == (202, [3])


async def test_a_former_owner_says_when_the_casts_that_it_had_accepted_have_left(world: World) -> None:
    bodies: list[bytes] = []
    leaves = asyncio.Event()

    async def owner(_: str, epoch: int, request: Request) -> Response:
        await leaves.wait()
        bodies.append(await request.content())
        return Response(202, b"")

    world.put("hub-1", entry(3))  # it is starting
    for body in (b"1", b"2"):
        await world.router.serve_forwarded("a", 3, Request("cast", body))
    asking = asyncio.create_task(world.router.serve_forwarded("a", OF_NO_RUN, Request("cast", b"")))
    await asyncio.sleep(0)
    assert not asking.done(), "they wait in the queue of this member"

    world.router.leave()
    async with connected(owner):
        world.put("hub-1")
        world.put("hub-2", entry(4), running(4))
        await asyncio.sleep(0)
        assert not asking.done(), "they are on their way"
        leaves.set()
        with pytest.raises(Problem) as stale:
            await asyncio.wait_for(asking, WAITS)

    assert (stale.value.kind, bodies) == ("stale_epoch", [b"1", b"2"])
