"""An agent that has no descriptors left: children wait until it has, and no more happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from waiting import until

from processhub.agent.env import Environment
from processhub.agent.execchild import ExecStarter
from processhub.agent.logs import LogSink
from processhub.agent.metrics import Metrics
from processhub.agent.pythonchild import PythonStarter
from processhub.agent.spawner import Spawner, WardenProcess
from processhub.agent.supervisor import Supervisor
from processhub.agent.sync import Wanted
from processhub.api.child import Exec, Python
from processhub.api.slice import Assignment

ROOM = 3  # for one pipe and not for a second one


def free() -> int:
    """How many descriptors can still be had; closed again."""
    fds: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            fds.append(os.dup(0))
    for fd in fds:
        os.close(fd)
    return len(fds)


@contextlib.contextmanager
def hardly_any_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    taken = [os.dup(0) for _ in range(free() - ROOM)]
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[tuple[Supervisor, PythonStarter]]:
    env = Environment("hub", "default", "h", "hub-0", "hub-0", "p", "127.0.0.1", "node", run_dir=tmp_path)
    warden, log = WardenProcess(), os.open(os.devnull, os.O_WRONLY)
    spawner, sink = Spawner(warden, None, lambda: None), LogSink(log)
    pythons = PythonStarter(env, spawner, sink, None)  # type: ignore[arg-type]
    supervisor = Supervisor(
        ExecStarter(env, spawner, sink),
        pythons,
        None,  # type: ignore[arg-type]
        lambda again: True,
        lambda *_: None,
        lambda *_: None,
        Metrics(),
    )
    yield supervisor, pythons
    spawner.close()
    await asyncio.to_thread(warden.process.wait, 40)
    sink.close()
    os.close(log)


@pytest.mark.parametrize(
    "workload", [Exec(command=("sleep", "1000")), Python(target="processhub.examples:Counter")], ids=["exec", "python"]
)
async def test_a_child_waits_for_descriptors_and_takes_none_meanwhile(
    agent: tuple[Supervisor, PythonStarter], workload: Exec | Python
) -> None:
    supervisor, pythons = agent
    wanted = Wanted(Assignment(uid="u", epoch=1, workload="w"), workload, slice="s", term=1, startable=True)

    with hardly_any_descriptors():
        supervisor.want({"a": wanted})
        pythons.warm()
        child = supervisor.children["a"]
        await until(lambda: child.restarts == 2, "another try")
        assert "Too many open files" in child.message
        assert free() == ROOM

    await until(lambda: child.state == "Running", "its start")
