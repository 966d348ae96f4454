"""``processhub.testing``: an actor behaves as in a member."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from memberparts import desired, with_processes
from waiting import until

import processhub
from processhub.agent.request import Request
from processhub.api.child import ChildEnvVar, Python
from processhub.examples import Counter
from processhub.requesterrors import ChildNotFound
from processhub.testing import host


async def test_the_answers_are_those_of_a_member(tmp_path: Path) -> None:
    """One actor and the same messages, below an agent and in a test."""
    messages: list[tuple[str, Any, dict[str, str]]] = [
        ("call", "mirror", {"traceparent": "t", "idempotency-key": "k"}),
        ("cast", {"a": (1, 2)}, {}),
        ("call", "mirror", {}),
        ("call", {"method": "both", "args": [1], "kwargs": {"b": None}}, {}),
        ("call", ["tuple", "date"], {}),
    ]
    (tmp_path / "mirror.py").write_text(MIRROR)
    namespace: dict[str, Any] = {}
    exec(MIRROR, namespace)
    args, env = {"x": [1, {"y": None}]}, {"A": "b"}

    answers = []
    async with host(namespace["Mirror"], args, child_id="a/b", env=env) as child:
        for kind, value, headers in messages:
            answers.append(await (child.call if kind == "call" else child.cast)(value, headers))

    async with with_processes(tmp_path) as (supervisor, _):
        variables = tuple(ChildEnvVar(name=name, value=value) for name, value in env.items())
        supervisor.set_desired({"a/b": desired(Python(target="mirror:Mirror", args=args, env=variables))})
        real = supervisor.children["a/b"]
        await until(lambda: real.status.state == "Running", "its start")
        for number, (kind, value, headers) in enumerate(messages):
            assert real.run is not None
            answer = await real.run.request(Request(kind, json.dumps(value).encode(), headers=headers))
            assert json.loads(answer.body) == answers[number]


MIRROR = """
import datetime
import processhub

class Mirror(processhub.Actor):
    def __init__(self):
        self.seen = [self.id, self.role, self.epoch, dict(self.env)]

    async def init(self, args):
        self.seen.append(args)

    async def handle_call(self, request):
        if request == "mirror":
            return [self.seen, self.headers, self.idempotency_key]
        return {"tuple": (1, 2), "date": datetime.date(2026, 1, 2)}

    async def handle_cast(self, message):
        self.seen.append(message)

    @processhub.method
    async def both(self, a, b=2):
        return (a, b)
"""


async def test_a_state_goes_from_one_run_to_the_next() -> None:
    async with host(Counter, {"start": 5}) as first:
        assert await first.actor.add(2) == 7
        state = await first.hand_over()

    async with host(Counter, state=state) as second:
        assert await second.call({"op": "get"}) == 7
        assert second.instance.state == 7


async def test_other_children_are_functions_of_the_test() -> None:
    class Asker(processhub.Actor):
        async def handle_call(self, request: Any) -> Any:
            return [await self.hub.call(request, (1, 2)), await self.hub.actor(request, Counter).add(by=1)]

    async def other(request: Any) -> Any:
        return {"got": request}

    async with host(Asker, children={"b": other}) as child:
        assert await child.call("b") == [{"got": [1, 2]}, {"got": {"method": "add", "args": [], "kwargs": {"by": 1}}}]
        with pytest.raises(ChildNotFound, match="hub test has no child 'c'; name it in children"):
            await child.call("c")


class Lives(processhub.Actor):
    """Notes what happens to it."""

    async def init(self, args: dict[str, Any]) -> None:
        self.state = args["notes"]
        self.busy = 0
        self.every(0.001, self.tick)

    def tick(self) -> None:
        if "fail" in self.state:
            raise ValueError("of a task")

    async def handle_cast(self, message: Any) -> None:
        self.busy += 1
        assert self.busy == 1, "one at a time"
        await asyncio.sleep(0)
        self.busy -= 1
        self.state.append(message)

    async def handle_call(self, request: Any) -> Any:
        await asyncio.Event().wait()

    async def redundancy_signal(self, role: str) -> None:
        self.state.append(role)

    async def terminate(self, reason: str) -> None:
        self.state.append(reason)


async def test_messages_come_one_at_a_time_and_the_end_in_order() -> None:
    async with host(Lives, {"notes": []}, role="Passive", signal=True) as child:
        await asyncio.gather(*(child.cast(number) for number in range(3)))
        await child.set_role("Active")
        assert child.instance.role == "Active"

    assert child.instance.state == ["Passive", 0, 1, 2, "Active", "stop"]


async def test_an_exception_of_a_task_is_raised_to_the_caller() -> None:
    async def crash() -> None:
        async with host(Lives, {"notes": ["fail"]}) as child, asyncio.timeout(20):
            await child.call(None)

    with pytest.raises(ValueError, match="of a task"):
        await crash()
