"""The queue of one child's requests: order, one at a time, and the outcome of waiting requests."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
import gc
import math

import pytest

from processhub.agent.children.child import Child
from processhub.agent.children.childhost import ChildNews
from processhub.agent.children.runs import ExitStatus, Limits
from processhub.agent.problems import Problem
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import MovedError, OutcomeUnknownError, Request, Response
from processhub.agent.requests.queue import QUEUE_MAX, RequestQueue
from processhub.api.child import Exec
from processhub.api.reasons import Reason
from processhub.api.slice import Settings
from processhub.registry.grammar import Assignment

SETTINGS = Settings(lease_seconds=1, request_seconds=1)


class World:
    """A child with its queue, and the other side of both protocols, without a process."""

    closing = False

    def __init__(self) -> None:
        self.news: ChildNews[Child] = ChildNews()
        self.queue = RequestQueue(
            lambda child_id: self.child if child_id == "a" else None, lambda: self.may_serve, lambda: SETTINGS
        )
        self.child = Child("a", self, Limits(request_seconds=1), asyncio.get_running_loop())
        self.asked: list[tuple[Request, asyncio.Future[Response]]] = []
        self.stopped: list[float] = []
        self.accepting = asyncio.Event()
        self.accepting.set()
        self.may_serve = True
        self.takes_early = False

    # a supervisor

    def may_start(self, child: Child, *, again: bool) -> bool:
        return True

    def launch(self, child: Child, desired: DesiredRun) -> World:
        return self

    def changed(self, child: Child, *, urgent: bool) -> None:
        self.queue.child_changed(child)

    def gone(self, child: Child) -> None:
        self.queue.child_changed(child)

    # the process

    def stop(self, grace: float) -> None:
        self.stopped.append(grace)

    def desired_again(self) -> None:
        pass

    def give_up(self) -> None:
        pass

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        pass

    async def request(self, request: Request) -> Response:
        await self.accepting.wait()
        await request.content()
        request.handed_over.set()
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.asked.append((request, answer))
        return await answer

    # for tests

    def set_desired(self, role: str = "Active", epoch: int = 1, idle: int = 0, view: int = 0) -> None:
        entry = Assignment(uid="u", epoch=epoch, workload="w", role=role, idle_seconds=idle)
        self.child.set_desired(DesiredRun(entry, Exec(command=("x",)), "s", 1, startable=True, view=view))

    def begin(self, **desired: object) -> None:
        self.set_desired(**desired)  # type: ignore[arg-type]
        self.child.running(7)

    def serve(self, number: int = 0, kind: str = "call") -> asyncio.Task[Response]:
        return asyncio.get_running_loop().create_task(self.queue.serve("a", Request(kind, b"%d" % number)))

    async def answer(self, position: int) -> None:
        request, answer = self.asked[position]
        answer.set_result(Response(200, request.body or b""))
        await settle()


@pytest.fixture
async def world() -> World:
    return World()


async def settle() -> None:
    """Run everything that is ready to run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_requests_are_served_one_at_a_time_in_order(world: World) -> None:
    world.begin()
    tasks = [world.serve(number) for number in range(3)]
    await settle()
    assert [request.body for request, _ in world.asked] == [b"0"]

    for position in range(3):
        await world.answer(position)

    assert [task.result().body for task in tasks] == [b"0", b"1", b"2"]


async def test_waiting_requests_are_served_by_the_next_incarnation_and_started_ones_are_not(world: World) -> None:
    world.begin()
    first, second = world.serve(1), world.serve(2)
    await settle()

    world.asked[0][1].set_exception(OutcomeUnknownError("it crashed"))
    await settle()
    with pytest.raises(Problem) as caught:
        await first
    assert (caught.value.status, caught.value.kind) == (502, "outcome_unknown")
    assert len(world.asked) == 1
    world.child.ended(ExitStatus(Reason.EXITED, "exit code 1"))
    world.child.running(8)
    await settle()
    await world.answer(1)

    assert second.result().body == b"2"


async def test_a_child_that_moves_away_returns_the_requests_that_it_did_not_get(world: World) -> None:
    world.begin()
    first, second = world.serve(1), world.serve(2)
    await settle()

    world.child.set_desired(None)
    await settle()

    with pytest.raises(MovedError):
        await second
    assert world.stopped == [], "the request at hand is let end"
    await world.answer(0)
    assert first.result().body == b"1"
    assert len(world.stopped) == 1
    with pytest.raises(MovedError):
        await world.serve(3)


async def test_a_stop_waits_for_at_most_the_request_timeout(world: World) -> None:
    world.begin()
    first = world.serve(1)
    await settle()

    world.child.set_desired(None)
    await asyncio.wait((first,))

    with pytest.raises(Problem) as caught:
        first.result()
    assert caught.value.kind == "timeout"
    assert len(world.stopped) == 1


async def test_after_a_timeout_the_next_request_waits_for_the_end_of_the_first(world: World) -> None:
    world.begin()
    first = world.serve(1)
    await settle()
    second = world.serve(2)
    with pytest.raises(Problem) as caught:
        await first
    assert caught.value.status == 504
    await settle()
    assert len(world.asked) == 1

    await world.answer(0)
    await world.answer(1)

    assert second.result().body == b"2"


async def test_a_request_that_would_wait_for_ever_is_rejected_with_the_cause(world: World) -> None:
    world.set_desired()
    with pytest.raises(Problem) as caught:
        await world.serve(1)
    assert (caught.value.status, caught.value.kind) == (503, "no_owner")
    assert "Starting" in caught.value.detail

    world.accepting.clear()
    world.child.running(7)
    with pytest.raises(Problem) as caught:
        await world.serve(1)
    assert (caught.value.status, caught.value.kind) == (504, "timeout")
    assert "not begun" in caught.value.detail
    assert world.asked == []


async def test_a_forwarded_request_counts_as_started_only_when_the_child_takes_it(world: World) -> None:
    fetched: list[bytes] = []

    async def fetch() -> bytes:
        fetched.append(b"0")
        return b"0"

    world.begin()
    world.accepting.clear()
    request = Request("call", None, fetch=fetch, obstacle="nothing accepts connections on its HUB_SOCKET")
    waiting = asyncio.get_running_loop().create_task(world.queue.serve("a", request))
    await settle()
    assert fetched == [], "the member that forwarded it would count the child's time from here"

    with pytest.raises(Problem) as late:
        await waiting

    assert (late.value.status, late.value.kind, fetched) == (504, "timeout", [])
    assert late.value.detail == (
        "not begun within 2 s: child 'a' does not take requests: nothing accepts connections on its HUB_SOCKET"
    )


async def test_a_full_queue_is_busy(world: World) -> None:
    world.set_desired()
    tasks = [world.serve(number) for number in range(QUEUE_MAX)]
    await settle()

    with pytest.raises(Problem) as caught:
        await world.serve()
    assert (caught.value.status, caught.value.kind, caught.value.retry_after) == (429, "busy", 1)
    for task in tasks:
        task.cancel()
    await settle()

    assert world.queue.waiting == 0


async def test_the_request_of_a_caller_that_disconnects_is_dropped_unless_it_has_started(world: World) -> None:
    world.begin()
    running, waiting, last = world.serve(1), world.serve(2), world.serve(3)
    await settle()

    running.cancel()
    waiting.cancel()
    await settle()
    assert len(world.asked) == 1
    await world.answer(0)
    await world.answer(1)

    assert last.result().body == b"3"


async def test_a_passive_copy_accepts_only_casts(world: World) -> None:
    world.begin(role="Passive")

    with pytest.raises(MovedError):
        await world.serve(1)
    world.queue.deliver("a", Request("cast", b"2"), lambda: None)
    await settle()

    assert [request.body for request, _ in world.asked] == [b"2"]


async def test_a_cast_follows_its_child(world: World) -> None:
    moved: list[int] = []
    world.set_desired()
    world.queue.deliver("a", Request("cast", b"1"), lambda: moved.append(1))

    world.set_desired(role="Passive")
    world.child.set_desired(None)
    await settle()

    assert moved == [1]


async def test_a_cast_whose_turn_has_come_leaves_with_its_child_before_those_behind_it(world: World) -> None:
    moved: list[int] = []
    world.begin()
    world.accepting.clear()  # nothing listens on its socket yet
    for number in range(3):
        world.queue.deliver("a", Request("cast", b"%d" % number), lambda number=number: moved.append(number))  # type: ignore[misc]
    await settle()

    world.child.set_desired(None)
    await settle()

    assert moved == [0, 1, 2]


async def test_an_unknown_cast_is_logged_and_counted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.begin()
    for number in range(3):
        world.queue.deliver("a", Request("cast", b"%d" % number), lambda: None)
    await settle()

    world.asked[0][1].set_result(Response(404, b"no such path"))
    await settle()
    world.asked[1][1].set_result(Response(202, b""))
    await settle()
    world.asked[2][1].set_exception(OutcomeUnknownError("it crashed"))
    await settle()

    assert world.queue.casts_failed == 2
    lines = [record.getMessage() for record in caplog.records if record.name == "processhub.agent.requests.queue"]
    assert lines == ["a cast was not handled: the child answered POST /cast with status 404"], "one line for many"


async def test_requests_that_arrive_while_the_member_cannot_serve_are_delivered_later(world: World) -> None:
    world.begin()  # as a Pod does, it runs on while the member's Lease is not held
    world.may_serve = False
    first = world.serve(1)
    world.queue.deliver("a", Request("cast", b"2"), lambda: None)
    await settle()
    assert world.asked == []

    world.may_serve = True
    world.queue.advance()
    await settle()
    await world.answer(0)
    await world.answer(1)

    assert first.result().body == b"1"


async def test_a_child_without_requests_for_its_idle_time_is_idle(world: World) -> None:
    world.begin(idle=1)
    first = world.serve(1)
    await settle()
    with pytest.raises(Problem):
        await first
    await world.answer(0)
    assert world.child.serving, "from the end of the last request on"

    await asyncio.wait_for(_idle(world.child), 5)

    assert world.child.status.reason == "Idle"
    late = world.serve(2)
    await settle()
    assert len(world.asked) == 1, "no further request comes to it"
    world.set_desired(idle=60)
    await settle()
    await world.answer(1)
    assert late.result().body == b"2"


async def test_a_child_with_an_open_stream_is_not_timed_for_idleness(world: World) -> None:
    world.begin(idle=60)
    assert set(world.queue._idle) == {"a"}

    with world.queue.streaming(world.child):
        with world.queue.streaming(world.child):
            assert not world.queue._idle
        world.child.changed(urgent=False)
        assert not world.queue._idle
    assert set(world.queue._idle) == {"a"}


async def _idle(child: Child) -> None:
    while not child.idle:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("view", "early"), [(7, True), (7, False), (0, True)])
async def test_the_request_that_a_child_is_started_for_is_handed_over_with_the_start(
    world: World, view: int, early: bool
) -> None:
    world.takes_early = early
    world.set_desired(view=view)
    first, second = world.serve(1), world.serve(2)
    await settle()
    assert [request.body for request, _ in world.asked] == ([b"1"] if view and early else [])

    world.child.running(7)
    await settle()
    assert [request.body for request, _ in world.asked] == [b"1"]
    await world.answer(0)
    await world.answer(1)
    assert [(await task).body for task in (first, second)] == [b"1", b"2"]


async def test_a_request_whose_body_another_member_keeps_is_not_handed_over_before_the_child_is_up(
    world: World,
) -> None:
    """That member decides with its body that the request may have run."""
    fetched: list[None] = []

    async def fetch() -> bytes:
        fetched.append(None)
        return b"1"

    world.takes_early = True
    world.set_desired(view=7)
    serving = asyncio.create_task(world.queue.serve("a", Request("call", None, fetch=fetch)))
    await settle()
    assert fetched == []

    world.child.running(7)
    await settle()
    await world.answer(0)
    assert (await serving).body == b"1"


async def test_a_request_of_a_start_that_failed_goes_to_the_next_incarnation(world: World) -> None:
    put_off: list[None] = []
    world.takes_early = True
    world.set_desired(view=7)
    request = Request("call", b"1", put_off=lambda: put_off.append(None))
    serving = asyncio.create_task(world.queue.serve("a", request))
    await settle()
    assert request.begun
    put_off.clear()

    request.handed_over.clear()  # as the launcher does where the actor was not up
    world.asked[0][1].set_exception(OutcomeUnknownError("ImportError"))
    world.child.ended(ExitStatus(Reason.IMPORT_ERROR, "not started"))
    await settle()
    assert put_off == [None], "its sender knows that it has not run"
    assert not serving.done()

    async with asyncio.timeout(10):
        while len(world.asked) < 2:
            await asyncio.sleep(0.01)
    world.child.running(7)
    await world.answer(1)
    assert (await serving).body == b"1"


@pytest.mark.parametrize("up", [True, False])
async def test_the_time_for_an_answer_counts_from_when_the_child_is_up(world: World, up: bool) -> None:
    world.takes_early = True
    world.set_desired(view=7)
    serving = world.serve(1)
    await settle()
    queue = world.queue._queues["a"]
    assert queue.answer_by == math.inf

    if up:
        world.child.running(7)
    else:
        world.child._start_timed_out()  # it is not up, and what it does with the request is unknown

    assert queue.answer_by <= asyncio.get_running_loop().time() + SETTINGS.request_seconds
    with pytest.raises(Problem) as late:
        await serving
    assert late.value.status == 504


async def test_a_body_that_does_not_come_is_no_error_once_nobody_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    withdrawn = asyncio.Event()

    async def fetch() -> bytes:
        await withdrawn.wait()
        raise OSError("its sender has withdrawn it")

    request = Request("call", None, fetch=fetch)
    waiting = asyncio.get_running_loop().create_task(request.content())
    await settle()
    waiting.cancel()
    withdrawn.set()
    await settle()
    del request, waiting
    gc.collect()

    assert "its sender has withdrawn it" not in caplog.text
