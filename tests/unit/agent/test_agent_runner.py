"""Many event loops on few threads."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from processhub.agent.runner.loop import ActorLoop
from processhub.agent.runner.scheduler import Scheduler, Strand

DEADLINE = 20.0


@pytest.fixture(scope="module")
def scheduler() -> Scheduler:
    return Scheduler()


class Run(Strand):
    """A coroutine on its own strand."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], Awaitable[object]]) -> None:
        super().__init__(scheduler)
        self.errors: list[BaseException] = []
        self.over = threading.Event()
        self.result: object = None
        self._work = work
        self.wake()

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)

    def finished(self) -> None:
        self.over.set()

    def begin(self, loop: ActorLoop) -> None:
        async def live() -> None:
            try:
                self.result = await self._work()
            finally:
                await loop.shutdown_default_executor()

        task = loop.create_task(live())
        task.add_done_callback(lambda _: self.end())

    def wait(self) -> Any:
        assert self.over.wait(DEADLINE)
        return self.result


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_timers_descriptors_threads_and_tasks_work(scheduler: Scheduler) -> None:
    async def work() -> list[object]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(0.05)
        slept = loop.time() - began
        read_end, write_end = os.pipe()
        readable = loop.create_future()
        loop.add_reader(read_end, readable.set_result, "readable")
        loop.call_later(0.02, os.write, write_end, b"x")
        said = await readable
        loop.remove_reader(read_end)
        os.close(read_end)
        os.close(write_end)
        both = [*await asyncio.gather(asyncio.to_thread(lambda: 1), asyncio.sleep(0.01, 2))]
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.02)
        except TimeoutError:
            both.append(3)
        return [0.04 < slept < 5, said, *both]

    assert Run(scheduler, work).wait() == [True, "readable", 1, 2, 3]


def test_a_thousand_waiting_loops_need_a_handful_of_threads(scheduler: Scheduler) -> None:
    async def work() -> int:
        await asyncio.sleep(0.3)
        return threading.active_count()

    before, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()  # also those of tests before
    runs = [Run(scheduler, work) for _ in range(1000)]
    descriptors = len(list(Path("/proc/self/fd").iterdir())) - before

    counts = [run.wait() for run in runs]
    assert max(counts) - threads < 50
    assert descriptors < 50


def test_blocked_loops_delay_no_other_loop(scheduler: Scheduler) -> None:
    release = threading.Event()

    async def block() -> None:
        release.wait(DEADLINE)

    async def quick() -> float:
        await asyncio.sleep(0.01)
        return time.monotonic()

    blocked = [Run(scheduler, block) for _ in range(30)]
    runs = [Run(scheduler, quick) for _ in range(100)]
    for run in runs:
        run.wait()
    assert not any(run.over.is_set() for run in blocked)
    release.set()
    for run in blocked:
        run.wait()


def test_loops_that_only_wait_for_their_turn_need_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processhub.agent.runner.scheduler.STALL_SECONDS", 3600.0)
    before = set(threading.enumerate())
    scheduler, release = Scheduler(), threading.Event()
    pool = len(set(threading.enumerate()) - before)

    async def block() -> None:
        release.wait(DEADLINE)

    async def look() -> int:
        return len(set(threading.enumerate()) - before)

    blocked = [Run(scheduler, block) for _ in range(pool)]
    waiting = []
    for _ in range(20):
        waiting.append(Run(scheduler, look))
        until(lambda: not scheduler._bell.rung)  # each has the thread that waits until all have looked at the queue
    release.set()
    assert {run.wait() for run in waiting} == {pool}
    for run in blocked:
        run.wait()


class LatePoll:
    """An epoll whose caller goes on late, as on a machine that is too busy to run it at once."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register, self.modify, self.unregister = self._epoll.register, self._epoll.modify, self._epoll.unregister
        self.polls = 0

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        events = self._epoll.poll(timeout)
        time.sleep(0.02)
        self.polls += 1
        return events


@pytest.mark.parametrize(("for_long", "grows"), [(3600.0, False), (0.1, True)])
def test_a_busy_machine_is_not_taken_for_blocked_loops_until_that_has_lasted(
    monkeypatch: pytest.MonkeyPatch, for_long: float, grows: bool
) -> None:
    monkeypatch.setattr("processhub.agent.runner.scheduler._BUSY_STALL_SECONDS", for_long, raising=False)
    late = LatePoll()
    monkeypatch.setattr("processhub.agent.runner.scheduler.select.epoll", lambda: late)
    scheduler, release = Scheduler(), threading.Event()

    async def block() -> None:
        release.wait(DEADLINE)

    runs = [Run(scheduler, block) for _ in range(20)]
    before = scheduler._threads
    polls = late.polls
    until(lambda: scheduler._threads > before or late.polls > polls + 20)

    assert (scheduler._threads > before) == grows
    release.set()
    for run in runs:
        run.wait()


def test_calls_from_other_threads_wake_a_parked_loop(scheduler: Scheduler) -> None:
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def work() -> str:
        event = asyncio.Event()
        loops.append((asyncio.get_running_loop(), event))
        await event.wait()
        return "woken"

    runs = [Run(scheduler, work) for _ in range(50)]
    until(lambda: len(loops) == 50)
    for loop, event in loops:
        loop.call_soon_threadsafe(event.set)

    assert [run.wait() for run in runs] == ["woken"] * 50


def test_a_system_exit_in_a_task_is_reported_and_the_loop_continues(scheduler: Scheduler) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def work() -> str:
        task = asyncio.create_task(leave())
        await asyncio.sleep(0.05)
        return f"goes on, {type(task.exception()).__name__}"

    run = Run(scheduler, work)

    assert run.wait() == "goes on, SystemExit"
    assert [type(error) for error in run.errors] == [SystemExit]


def test_an_earlier_timer_set_later_still_fires_first(scheduler: Scheduler) -> None:
    async def work() -> list[str]:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        done = loop.create_future()
        loop.call_later(0.3, lambda: (order.append("late"), done.set_result(None)))
        await asyncio.sleep(0.01)
        loop.call_later(0.05, order.append, "early")
        await done
        return order

    assert Run(scheduler, work).wait() == ["early", "late"]


def test_a_loop_knows_its_own_tasks_however_they_were_started(scheduler: Scheduler) -> None:
    async def work() -> set[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ActorLoop)
        begun: list[asyncio.Task[object]] = []
        async with asyncio.TaskGroup() as group:
            begun.append(group.create_task(asyncio.sleep(0), name="group"))
            begun.append(asyncio.create_task(asyncio.sleep(0), name="create"))
            begun.append(loop.create_task(asyncio.sleep(0), name="loop"))
            begun.append(asyncio.ensure_future(asyncio.sleep(0)))
            known = set(loop.tasks)
            assert known == asyncio.all_tasks()
            await asyncio.gather(*begun)
        return {task.get_name() for task in begun if task in known}

    several = [Run(scheduler, work) for _ in range(3)]
    names = [run.wait() for run in several]

    assert all(isinstance(found, set) and {"group", "create", "loop"} < found for found in names), names
