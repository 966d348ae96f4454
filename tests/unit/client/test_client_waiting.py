"""Waiting for children: which count as started, failed or gone, and that each is accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import pytest
from virtualtime import timed

from builders import make_child, make_client, make_hub, make_slice
from processhub.api.child import ChildStatus
from processhub.api.meta import Condition
from processhub.client import waiting
from processhub.client.asynchub import AsyncHub
from processhub.client.errors import Timeout
from processhub.client.session import Session
from processhub.client.waiting import Start, Stop
from processhub.registry.grammar import Assignment, Report


@pytest.fixture
def session() -> Session:
    """A session that is never connected: the tests fill its registry."""
    return Session(make_client(), "n", make_hub("h"))


def put(
    session: Session, reports: dict[str, Report], *, on_record: Iterable[str] | None = None, index: int = 0
) -> None:
    entries = {
        child_id: Assignment(uid=f"u-{child_id}", epoch=1, workload="w")
        for child_id in (reports if on_record is None else on_record)
    }
    session.registry.put(make_slice(entries, reports, hub="h", member="h-0", index=index))


def report(child_id: str, state: str = "Running", **more: str | int) -> Report:
    return Report(**{"uid": f"u-{child_id}", "epoch": 1, "state": state, "pid": 7, **more})  # type: ignore[arg-type]


def soon(seconds: float = 0.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_all_of_five_thousand_children_are_accounted_for(session: Session) -> None:
    ids = [f"c{index}" for index in range(5000)]
    start = Start(session, {child_id: f"u-{child_id}" for child_id in ids})
    waiting = asyncio.create_task(start.until(soon(60)))
    await asyncio.sleep(0)
    for index in range(5):
        chunk = ids[index * 1000 : (index + 1) * 1000]
        put(session, {child_id: report(child_id, "Starting") for child_id in chunk}, index=index)
        put(session, {child_id: report(child_id) for child_id in chunk}, index=index)
    await waiting

    assert start.running.keys() == set(ids)
    assert not start.failed
    assert not start.pending


async def test_a_crash_counts_as_failed_once_the_restart_fails_too(session: Session) -> None:
    start = Start(session, {"a": "u-a"})
    put(session, {"a": report("a", "Starting", reason="Exited", restarts=1)})
    await start.until(soon())
    assert set(start.pending) == {"a"}

    put(session, {"a": report("a", "Failed", reason="Exited", message="exit code 1; BackOff", restarts=2)})
    await start.until(soon(1))
    assert str(start.failed["a"]) == "Exited: on h-0: exit code 1; BackOff"


async def test_the_result_of_a_wait_that_timed_out_can_be_waited_for(session: Session) -> None:
    put(session, {"a": report("a"), "b": report("b", "Starting")})
    with pytest.raises(Timeout) as late:
        await AsyncHub.attached(session).wait_children(["a", "b"], timeout=0)
    result = late.value.result
    assert (result.started.keys(), result.errors["b"].reason) == ({"a"}, "Timeout")

    put(session, {"a": report("a"), "b": report("b")})
    assert await result.wait(1) is result

    assert (result.started.keys(), result.errors) == ({"a", "b"}, {})


@pytest.mark.parametrize("reason", ["CommandNotFound", "ImportError", "StartTimeout", "RestartsExceeded"])
async def test_a_cause_that_no_restart_can_fix_counts_as_failed_at_once(session: Session, reason: str) -> None:
    start = Start(session, {"a": ""})
    put(session, {"a": report("a", "Starting", reason=reason)})

    await start.until(soon(1))

    assert start.failed["a"].reason == reason


@pytest.mark.parametrize(
    ("kind", "reason", "fails"),
    [("Ready", "Invalid", True), ("Accepted", "Invalid", True), ("Accepted", "Waiting", False)],
)
async def test_a_child_whose_pod_is_refused_counts_as_failed_at_once(
    session: Session, kind: str, reason: str, fails: bool
) -> None:
    """A check that is not answered yet says nothing."""
    start = Start(session, {"a": ""})
    condition = {"type": kind, "status": "False", "reason": reason, "message": "its pod is refused: no such class"}
    child = make_child("a", {"pod": {}})

    start._child_changed(
        None, msgspec.structs.replace(child, status=ChildStatus(conditions=(msgspec.convert(condition, Condition),)))
    )

    assert ("a" in start.failed) == fails
    assert ("a" in start.pending) != fails


async def test_a_child_that_ran_and_completed_counts_as_started(session: Session) -> None:
    start = Start(session, {"a": "", "b": ""})
    put(session, {"a": report("a", "Stopped", reason="Completed"), "b": report("b", "Stopped", reason="Exited")})

    await start.until(soon(1))

    assert set(start.running) == {"a"}
    assert start.failed["b"].reason == "Exited"


async def test_another_incarnation_of_the_id_does_not_end_the_wait(session: Session) -> None:
    start = Start(session, {"a": "u-newer"})
    put(session, {"a": report("a")})

    await start.until(soon())

    assert set(start.pending) == {"a"}
    assert start.late()["a"].reason == "Timeout"


async def test_a_child_is_gone_when_it_is_not_recorded_and_has_ended(session: Session) -> None:
    put(session, {"a": report("a")})
    stop = Stop(session, {"a": "u-a"}, seen=["a"])
    waiting = asyncio.create_task(stop.until(soon(60)))
    await asyncio.sleep(0)

    put(session, {"a": report("a", "Stopping")}, on_record=[])
    await asyncio.sleep(0)
    assert set(stop.pending) == {"a"}

    put(session, {}, on_record=[])
    await waiting
    assert not stop.pending


async def test_a_child_that_was_never_recorded_is_not_taken_for_gone_at_once(session: Session) -> None:
    stop = Stop(session, {"a": "u-a"}, seen=[])
    waiting = asyncio.create_task(stop.until(soon(60)))
    await asyncio.sleep(0)
    assert set(stop.pending) == {"a"}

    # The plan that was being written when it was deleted arrives, and then its removal.
    put(session, {}, on_record=["a"])
    assert set(stop.pending) == {"a"}
    put(session, {}, on_record=[])
    await waiting

    assert not stop.pending


@timed
async def test_reports_of_other_children_do_not_delay_the_end_of_a_wait_for_ever(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_SETTLE_SECONDS", 0.1)
    put(session, {"noisy": report("noisy")})
    stop = Stop(session, {"a": "u-a"}, seen=[])
    stopping = asyncio.create_task(stop.until(None))
    begun = soon()
    number = 0
    while not stopping.done() and soon() < begun + 10:
        await asyncio.sleep(0.02)
        number += 1
        put(session, {"noisy": report("noisy", restarts=number)})
    ended, over = stopping.done(), soon() - begun
    stopping.cancel()

    assert ended
    assert over > 0.3, "the hub was at work, so the silence of a moment was not to be believed"
