"""The blocking client: it has the methods of Hub, several threads may use it, and no call is left waiting."""
# ruff: noqa: ASYNC110 - conditions are polled, as in all tests

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import pytest

from processhub.client.asynchub import AsyncHub
from processhub.client.errors import ChildError, ChildrenFailed, HubError
from processhub.client.records import Processes
from processhub.client.results import Result, Rollback
from processhub.client.sync import SyncHub, SyncResult

WAITS = 40


class Hub:
    """The Hub that the client drives, without a cluster: a call ends when the test says so."""

    name, namespace = "hub", "n"

    def __init__(self) -> None:
        self.gates = {child_id: threading.Event() for child_id in "ab"}
        self.entered = {child_id: threading.Event() for child_id in "ab"}

    async def __aenter__(self) -> Hub:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def get_pid(self, child_id: str) -> None: ...

    def get_pids(self) -> None: ...

    async def start_children(self, children: Any, **_: object) -> Result:
        (child_id,) = children

        async def run(_: float) -> None:
            result.started[child_id] = Processes([("hub-0", 7)])

        result = Result(run)
        result.objects[child_id] = f"of-{child_id}"
        return result

    async def wait_children(self, ids: Any, _: float) -> Result:
        if ids == ["bad"]:
            raise ChildrenFailed("not started: bad", Result())
        return Result()

    async def call(self, child_id: str, request: Any, timeout: float | None, *, idempotency_key: str) -> str:
        self.entered[child_id].set()
        while not self.gates[child_id].is_set():
            await asyncio.sleep(0.01)
        return child_id


def begin(work: Callable[[], Any]) -> Future[Any]:
    """Run it in a daemon thread."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 any exception is the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_a_call_while_the_client_closes_does_not_wait_for_ever() -> None:
    hub = Hub()
    client = SyncHub(cast(Any, hub))
    first = begin(lambda: client.call("a", 1))
    assert hub.entered["a"].wait(WAITS)
    closing = begin(client.close)
    while not closing.done() and asyncio.run_coroutine_threadsafe(waited_for(), client._loop).result(WAITS) < 2:
        pass

    late = begin(lambda: client.call("b", 1))
    while not late.done() and not hub.entered["b"].is_set():
        pass
    hub.gates["a"].set()
    closing.result(WAITS)

    assert first.result(WAITS) == "a"
    with pytest.raises(HubError, match="is closed"):
        late.result(WAITS)


def test_a_result_has_all_that_hubs_has_and_its_wait_blocks() -> None:
    with SyncHub(cast(Any, Hub())) as client:
        result = client.start_children([cast(Any, "a")])
        assert (result.objects, result.started) == ({"a": "of-a"}, {})

        assert result.wait() is result
        assert result.started == {"a": [("hub-0", 7)]}

        waited = client.wait_children(["a"])
        assert waited.wait() is waited
        with pytest.raises(ChildrenFailed) as failed:
            client.wait_children(["bad"])
        assert failed.value.result.wait() is failed.value.result


def said_in_a_fork(*works: Callable[[], Any]) -> list[str]:
    """Return what each call does in a forked process: its result or its error, as text."""
    reading, writing = os.pipe()
    if not (forked := os.fork()):
        signal.alarm(WAITS)  # ends the process if a call waits for ever
        for work in works:
            try:
                said = repr(work())
            except HubError as error:
                said = str(error)
            os.write(writing, f"{said}\n".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(forked, 0)
    return lines


def test_a_forked_process_is_refused_instead_of_waiting_or_being_shown_what_was() -> None:
    hub = Hub()
    with SyncHub(cast(Any, hub)) as client:
        said = said_in_a_fork(
            lambda: client.call("a", 1), lambda: client.get_pid("a"), lambda: client.is_alive("a"), client.close
        )

        hub.gates["a"].set()
        assert client.call("a", 1) == "a"  # the first process keeps its client

    assert [("was forked; connect again" in text) for text in said[:3]] == [True, True, True]
    assert said[3:] == ["None"]


async def waited_for() -> int:
    """Return the number of tasks in the client's loop besides this check: the call, and the close that waits for it."""
    return len(asyncio.all_tasks()) - 1


_CONSTRUCTED = {"get_pid", "get_pids"}  # SyncHub's constructor copies these from Hub
_INTERNAL = {"attached", "close_requests"}  # for other modules of the package
_SHARED = [
    name
    for name, method in vars(AsyncHub).items()
    if inspect.isfunction(method) and not name.startswith("_") and name not in _CONSTRUCTED | _INTERNAL
]


@pytest.mark.parametrize("name", _SHARED)
def test_a_method_has_the_signature_of_the_one_of_hub_and_is_no_coroutine(name: str) -> None:
    hubs, blocking = (inspect.signature(getattr(kind, name)) for kind in (AsyncHub, SyncHub))

    assert blocking.parameters == hubs.parameters
    assert blocking.return_annotation == {"Result": "SyncResult"}.get(hubs.return_annotation, hubs.return_annotation)
    assert not inspect.iscoroutinefunction(getattr(SyncHub, name))


def test_a_blocking_result_has_all_that_the_result_has() -> None:
    inner = Result()
    inner.started["a"], inner.errors["b"] = Processes(), ChildError("Timeout", "late")
    inner.objects["a"], inner.rollback = "child-a", Rollback((), {})

    result = SyncResult(inner, cast(Any, None))

    public = {name for name in vars(inner) if not name.startswith("_")}
    assert {name: getattr(result, name) for name in public} == {name: getattr(inner, name) for name in public}
