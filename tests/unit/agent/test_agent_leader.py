"""The thread of a runner that takes the messages for all actors, and runs what they wake itself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest
from test_agent_runner import DEADLINE, Run, until

from processhub.agent.runner.leader import Leader
from processhub.agent.runner.scheduler import Scheduler


class Messages:
    """The messages of a leader, each a call; ``reported`` by strands, and ``settled``."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.reported: list[str] = []
        self.settled: list[str] = []
        self.runs: list[Run] = []
        self.leader = Leader(self.scheduler, lambda: self._queue.get()(), self._settle)

    def _settle(self) -> None:
        self.settled = list(self.reported)

    def wake(self, *works: Callable[[], object]) -> None:
        """Have one message wake a strand for each of these."""

        def strand(work: Callable[[], object]) -> Run:
            async def run() -> object:
                return work()

            return Run(self.scheduler, run)

        self._queue.put(lambda: self.runs.extend(strand(work) for work in works))

    def results(self, count: int) -> list[object]:
        until(lambda: len(self.runs) == count)
        return [run.wait() for run in self.runs]


@pytest.fixture
def messages() -> Messages:
    return Messages()


def test_what_messages_wake_runs_on_the_thread_that_takes_them(
    messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processhub.agent.runner.scheduler.STALL_SECONDS", 3600.0)
    monkeypatch.setattr("processhub.agent.runner.leader._LONG_SECONDS", 3600.0)

    def who() -> int:
        time.sleep(0.05)  # another thread that was woken too would take the next one meanwhile
        return threading.get_ident()

    messages.wake(who, who, who)
    messages.wake(who, who)

    assert set(messages.results(5)) == {messages.leader.thread}


def test_while_actors_block_further_messages_are_taken(messages: Messages) -> None:
    release = threading.Event()
    for _ in range(10):
        messages.wake(lambda: release.wait(DEADLINE))
    messages.wake(lambda: "taken")

    until(lambda: len(messages.runs) == 11)
    assert messages.runs[-1].wait() == "taken"
    assert not any(run.over.is_set() for run in messages.runs[:-1])
    release.set()
    assert messages.results(11) == [True] * 10 + ["taken"]
    messages.wake(threading.get_ident)
    assert messages.results(12)[-1] == messages.leader.thread, "one thread leads again"


def test_what_was_reported_before_an_actor_blocked_is_not_held_back(messages: Messages) -> None:
    release = threading.Event()
    messages.wake(lambda: messages.reported.append("answer"), lambda: release.wait(DEADLINE))

    until(lambda: messages.settled == ["answer"])
    assert not messages.runs[1].over.is_set()
    release.set()
    messages.results(2)


def test_after_long_messages_the_pool_runs_what_further_ones_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processhub.agent.runner.scheduler.STALL_SECONDS", 3600.0)
    messages, both = Messages(), threading.Barrier(2)
    messages.wake(lambda: time.sleep(0.02))
    messages.wake(lambda: both.wait(5), lambda: both.wait(5))  # an idle thread looks by itself after 10 s

    assert sorted(map(str, messages.results(3))) == ["0", "1", "None"], "each of the two needs a thread of its own"
