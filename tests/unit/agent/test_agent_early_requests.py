"""A request that an actor gets before it is up: whether it may have run when the actor has ended."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from processhub.agent.children.pythonchild import ActorRun, ModuleRunner
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import OutcomeUnknownError, Request
from processhub.api.child import Python
from processhub.registry.grammar import Assignment


class Process(ModuleRunner):
    """A runner process that is up and does nothing."""

    def __init__(self) -> None:
        self.runs, self.pid, self.up, self.module = {}, 7, True, "m"
        self._idle, self._killed_for, self._because, self.out_of_memory = None, None, "", ""
        self._starter: Any = SimpleNamespace(retire=lambda _: None)

    def post(self, data: bytes, *, at_once: bool = True) -> None: ...


@pytest.mark.parametrize(
    ("events", "begun"),
    [
        ([{"ev": "ended", "key": "1", "reason": "ImportError", "text": "x", "message": ""}], False),
        (
            [
                {"ev": "running", "keys": ["1"]},
                {"ev": "ended", "key": "1", "reason": "Exited", "text": "x", "message": ""},
            ],
            True,
        ),
        (["the process ends"], True),
    ],
    ids=["never up", "up", "unknown"],
)
async def test_a_request_has_not_run_where_the_actor_ends_without_having_been_up(
    events: list[Any], begun: bool
) -> None:
    process, workload = Process(), Python(target="m:A")
    entry = Assignment(uid="u", epoch=1, workload="w")
    child: Any = SimpleNamespace(
        id="a",
        limits=SimpleNamespace(notifies=lambda _: False),
        status=SimpleNamespace(state="Starting"),
        begun=lambda: None,
        running=lambda _: None,
        ended=lambda _: None,
    )
    run = ActorRun(process, "1", child, DesiredRun(entry, workload, "s", 1, startable=True, view=7), workload, None)
    assert run.takes_early
    request = Request("call", b"1")
    answer = asyncio.ensure_future(run.request(request))
    assert request.begun

    for event in events:
        if isinstance(event, str):
            process.process_ended(event, "Exited", fenced=False)  # type: ignore[arg-type]
        else:
            process.heard(event)

    with pytest.raises(OutcomeUnknownError):
        await answer
    assert request.begun is begun
    if process._idle is not None:
        process._idle.cancel()
