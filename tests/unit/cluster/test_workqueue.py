"""The work queue: immediate when quiet, batched when busy, one worker for each key, and no added key is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from virtualtime import timed

from processhub.cluster.workqueue import WorkQueue

DEADLINE = 2.0
DEBOUNCE = 0.05


class Record:
    """Records the calls and their times; ``until`` waits for a number of calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self._changed = asyncio.Condition()

    async def note(self, key: str) -> None:
        async with self._changed:
            self.calls.append((key, asyncio.get_running_loop().time()))
            self._changed.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: len(self.calls) >= count)


@asynccontextmanager
async def running(work: Callable[[str], Awaitable[float | None]]) -> AsyncIterator[WorkQueue[str]]:
    queue = WorkQueue(work, debounce=DEBOUNCE)
    try:
        yield queue
    finally:
        await queue.close()


@timed
async def test_a_quiet_key_is_worked_on_at_once() -> None:
    record = Record()
    loop = asyncio.get_running_loop()

    async with running(record.note) as queue:
        began = loop.time()
        queue.add("a")
        await record.until(1)

    assert record.calls[0][1] - began < DEBOUNCE


@timed
async def test_events_within_the_debounce_time_are_worked_on_together_after_it() -> None:
    record = Record()

    async with running(record.note) as queue:
        queue.add("a")
        await record.until(1)
        for _ in range(20):
            queue.add("a")
            await asyncio.sleep(0)
        await record.until(2)
        queue.add("b")
        await record.until(3)

    keys, times = zip(*record.calls, strict=True)
    assert keys == ("a", "a", "b")
    assert times[1] - times[0] >= DEBOUNCE * 0.9


@timed
async def test_patient_events_are_worked_on_each_second_and_at_once_with_any_other() -> None:
    record = Record()

    async with running(record.note) as queue:
        queue.add("a", patient=True)
        await asyncio.sleep(2 * DEBOUNCE)
        queue.add("a", patient=True)
        await asyncio.sleep(1.1)
        queue.add("a", patient=True)
        queue.add("a")
        await asyncio.sleep(DEBOUNCE)

    times = [at for _, at in record.calls]
    assert [round(at - times[0], 2) for at in times] == [0, 1.0, 1.2]


@timed
async def test_an_event_during_the_work_repeats_it() -> None:
    record = Record()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> None:
        await record.note(key)
        entered.set()
        await leave.wait()

    async with running(work) as queue:
        queue.add("a")
        await asyncio.wait_for(entered.wait(), DEADLINE)
        queue.add("a")
        leave.set()
        await record.until(2)

    assert [key for key, _ in record.calls] == ["a", "a"]


@timed
async def test_a_key_has_one_worker_and_keys_do_not_wait_for_each_other() -> None:
    at_work: list[str] = []
    most_of_a = 0
    record = Record()
    leave = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal most_of_a
        at_work.append(key)
        most_of_a = max(most_of_a, at_work.count("a"))
        await record.note(key)
        if key == "a":
            await leave.wait()
        at_work.remove(key)

    async with running(work) as queue:
        queue.add("a")
        await record.until(1)
        queue.add("a")
        queue.add("b")
        await record.until(2)
        leave.set()
        await record.until(3)

    assert [key for key, _ in record.calls] == ["a", "b", "a"]
    assert most_of_a == 1


@timed
async def test_work_can_request_to_run_again_after_a_time() -> None:
    record = Record()
    answers = iter([0.15, None])

    async def work(key: str) -> float | None:
        await record.note(key)
        return next(answers, None)

    async with running(work) as queue:
        queue.add("a")
        await record.until(2)

    assert record.calls[1][1] - record.calls[0][1] >= 0.15


@timed
async def test_failed_work_is_retried_with_back_off(caplog: pytest.LogCaptureFixture) -> None:
    record = Record()

    async def work(key: str) -> None:
        await record.note(key)
        if len(record.calls) < 3:
            raise RuntimeError("refused")

    async with running(work) as queue:
        queue.add("a")
        await record.until(3)

    first, second, third = (at for _, at in record.calls)
    assert second - first >= 0.2
    assert third - second >= 0.4
    assert "work on a failed; again in 0.2 s" in caplog.text


@timed
async def test_a_task_that_was_cancelled_inside_the_work_does_not_end_the_worker() -> None:
    """A worker that dies silently would leave its hub unreconciled for ever: add() sees a worker and starts none."""
    record = Record()

    async def work(key: str) -> None:
        await record.note(key)
        if len(record.calls) == 1:
            inner = asyncio.ensure_future(asyncio.Event().wait())
            inner.cancel()
            await inner

    async with running(work) as queue:
        queue.add("a")
        await record.until(1)
        queue.add("a")
        await record.until(2)

    assert len(record.calls) == 2


@timed
async def test_closing_cancels_the_work_and_waits_for_its_end() -> None:
    ended = False
    record = Record()

    async def work(key: str) -> None:
        nonlocal ended
        await record.note(key)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    queue = WorkQueue(work, debounce=DEBOUNCE)
    queue.add("a")
    await record.until(1)
    await queue.close()

    assert ended


@timed
async def test_a_closed_queue_starts_no_work() -> None:
    """Watches continue for a while when the operator stops; their events must start no round without the Lease."""
    record = Record()
    queue = WorkQueue(record.note, debounce=DEBOUNCE)

    await queue.close()
    queue.add("a")
    for _ in range(10):
        await asyncio.sleep(0)

    assert record.calls == []


@timed
async def test_a_queue_that_is_closed_as_a_key_is_added_ends() -> None:
    record = Record()

    async def work(key: str) -> float:
        await record.note(key)
        return 1000.0

    queue = WorkQueue(work, debounce=DEBOUNCE)
    queue.add("a")
    await record.until(1)
    await asyncio.sleep(2 * DEBOUNCE)  # it waits for the next key

    queue.add("a")
    async with asyncio.timeout(DEADLINE):
        await queue.close()
