"""The queue of one hub's events: in order, bounded, and not delayed for long by a failing hook."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY
from virtualtime import timed

from builders import make_client, make_hub
from processhub.api.hooks import Hook, HookEvent
from processhub.api.hub import Hub
from processhub.controller.hooks import dispatcher as module
from processhub.controller.hooks.dispatcher import QUEUE, HookDispatcher
from processhub.controller.hooks.hubevent import CloudEventText, HubEvent
from processhub.controller.hooks.webhook import HookError
from processhub.controller.rounds.events import EventRecorder

STARTED = HookEvent.CHILD_STARTED


def hub(*names: str, event: str = STARTED) -> Hub:
    hooks = [{"name": name, "event": event, "webhook": {"url": "http://a.example"}} for name in names]
    return make_hub("h", {"hooks": hooks}, namespace="n", uid="u")


def happened(*subjects: str) -> list[HubEvent]:
    return [HubEvent(STARTED, subject, {"child": subject}) for subject in subjects]


class Calls:
    """Records the calls in order; ``gate`` delays them, ``failing`` names hooks that always fail."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.failing: set[str] = set()

    async def __call__(self, hook: Hook, event: CloudEventText) -> None:
        self.entered.set()
        await self.gate.wait()
        self.made.append((hook.name, event.content()["subject"]))
        if hook.name in self.failing:
            raise HookError("answered 503", retry=True)


@pytest.fixture
def recorder() -> EventRecorder:
    return EventRecorder(make_client(), "test")


def dropped() -> float:
    return REGISTRY.get_sample_value("processhub_hook_events_total", {"outcome": "dropped"}) or 0.0


async def test_events_are_sent_in_order_to_every_hook(recorder: EventRecorder) -> None:
    calls = Calls()
    dispatcher = HookDispatcher(hub("b", "a"), calls, recorder)

    dispatcher.post(happened("x", "y"))
    await dispatcher.close(grace=5)

    assert calls.made == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]


async def test_events_without_a_hook_are_not_queued(recorder: EventRecorder) -> None:
    calls = Calls()
    dispatcher = HookDispatcher(hub("a", event=HookEvent.CHILD_MOVED), calls, recorder)

    dispatcher.post(happened("x"))
    await dispatcher.close(grace=5)

    assert calls.made == []


async def test_the_queue_is_bounded_and_dropped_events_are_counted(recorder: EventRecorder) -> None:
    calls, before = Calls(), dropped()
    calls.gate.clear()
    dispatcher = HookDispatcher(hub("a"), calls, recorder)

    dispatcher.post(happened(*(str(number) for number in range(QUEUE + 5))))
    await dispatcher.close()

    assert dropped() - before == 5


async def test_a_hook_that_fails_gets_one_attempt_until_it_works_again(
    recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0))
    calls = Calls()
    calls.failing.add("a")
    dispatcher = HookDispatcher(hub("a"), calls, recorder)

    dispatcher.post(happened("x", "y"))
    await dispatcher.close(grace=5)

    assert calls.made == [("a", "x")] * 3 + [("a", "y")]


@timed
async def test_a_hook_that_hangs_delays_few_events_of_the_others_and_is_called_again(recorder: EventRecorder) -> None:
    made, hangs = list[tuple[str, str]](), True

    async def call(hook: Hook, event: CloudEventText) -> None:
        made.append((hook.name, event.content()["subject"]))
        if hook.name == "a" and hangs:
            await asyncio.sleep(3)
            raise HookError("no answer within 3 s", retry=True)

    dispatcher = HookDispatcher(hub("a", "b"), call, recorder)
    subjects = [str(number) for number in range(1000)]
    dispatcher.post(happened(*subjects))
    await asyncio.sleep(60)
    assert [subject for name, subject in made if name == "b"] == subjects

    hangs = False
    made.clear()
    dispatcher.post(happened("x", "y"))
    await dispatcher.close(grace=5)
    assert made == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]


async def test_a_cancelled_hook_is_not_called_for_queued_events(recorder: EventRecorder) -> None:
    calls = Calls()
    calls.gate.clear()
    dispatcher = HookDispatcher(hub("a", "b"), calls, recorder)
    dispatcher.post(happened("x", "y"))
    await calls.entered.wait()

    changed: Any = hub("b")
    dispatcher.update(changed)
    calls.gate.set()
    await dispatcher.close(grace=5)

    assert calls.made[-1] == ("b", "y")
    assert ("a", "y") not in calls.made
