"""Methods of actors that are called by name: ``processhub.method`` and the handles of ``actor(id, kind)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from memberparts import desired, with_processes
from waiting import until

import processhub
from processhub.agent.request import Request
from processhub.api.child import Python
from processhub.client.asynchub import AsyncHub
from processhub.examples import Counter
from processhub.methods import handle_of

ACTOR = """
import processhub

class Base(processhub.Actor):
    @processhub.method
    async def both(self, a, *, b=2):
        return [a, b]

class Sub(Base):
    async def handle_call(self, request):
        return {"else": request}

    @processhub.method
    def plain(self):
        return self.headers.get("x-request-id")

    @processhub.method
    async def fails(self):
        raise ValueError("broken")

    async def hidden(self):
        return 1
"""


class Recorder:
    """The hub of a handle: it answers with the request itself."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, float | None]] = []

    async def call(self, child_id: str, request: Any, timeout: float | None = None) -> Any:
        self.asked.append((child_id, request, timeout))
        return request


async def test_an_actors_methods_are_called_by_name(tmp_path: Path) -> None:
    (tmp_path / "sub.py").write_text(ACTOR)
    async with with_processes(tmp_path) as (supervisor, _):
        supervisor.set_desired({"a": desired(Python(target="sub:Sub"))})
        child = supervisor.children["a"]
        await until(lambda: child.status.state == "Running", "its start")

        async def ask(request: Any, **headers: str) -> tuple[int, Any]:
            assert child.run is not None
            answer = await child.run.request(Request("call", json.dumps(request).encode(), headers=headers))
            return answer.status, json.loads(answer.body) if answer.status == 200 else answer.body.decode()

        assert await ask({"method": "both", "args": [1]}) == (200, [1, 2])
        assert await ask({"method": "both", "args": [1], "kwargs": {"b": 3}}) == (200, [1, 3])
        assert await ask({"method": "plain"}, **{"x-request-id": "r"}) == (200, "r")
        assert await ask({"method": "both", "to": 1}) == (200, {"else": {"method": "both", "to": 1}})
        assert await ask({"method": 1}) == (200, {"else": {"method": 1}})
        assert await ask([1]) == (200, {"else": [1]})
        for name in ("hidden", "init", "__class__", "nope"):
            assert await ask({"method": name}) == (400, f"Sub has no method {name!r}; there are both, fails, plain")
        assert await ask({"method": "both"}) == (400, "Sub.both: missing a required argument: 'a'")
        assert await ask({"method": "both", "args": 1}) == (400, "Sub.both: args is a list, and kwargs a mapping")
        assert child.history.restarts == 0

        with pytest.raises(Exception, match="ValueError: broken"):
            await ask({"method": "fails"})
        await until(lambda: child.status.state == "Running" and child.history.restarts == 1, "its restart")


async def test_a_handle_has_the_marked_methods_of_its_class() -> None:
    hub = Recorder()
    counter = AsyncHub.actor(hub, "counter", Counter, timeout=3)  # type: ignore[arg-type]

    assert await counter.add(2) == {"method": "add", "args": [2], "kwargs": {}}
    assert await counter.add(by=3) == {"method": "add", "args": [], "kwargs": {"by": 3}}
    assert [(child_id, timeout) for child_id, _, timeout in hub.asked] == [("counter", 3), ("counter", 3)]
    with pytest.raises(TypeError, match="too many positional arguments"):
        await counter.add(1, 2)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="Counter has no method 'handle_call' that is marked"):
        await counter.handle_call({})
    assert len(hub.asked) == 2


def test_a_handle_of_the_blocking_client_returns_the_result() -> None:
    counter: Any = handle_of(Counter, lambda request: len(request["args"]))

    assert counter.add(7) == 1


async def test_a_marked_method_can_be_called_as_any_other() -> None:
    class Own(processhub.Actor):
        @processhub.method
        async def twice(self, number: int) -> int:
            return 2 * number

    assert await Own().twice(4) == 8
