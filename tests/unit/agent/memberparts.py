"""The parts of a member that a test of its children does not use."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from processhub.agent.children.child import Child
from processhub.agent.children.execchild import ExecStarter
from processhub.agent.children.pythonchild import PythonStarter
from processhub.agent.children.restartlog import RestartLog
from processhub.agent.env import Environment
from processhub.agent.handover.transfer import Handovers
from processhub.agent.logs import LogSink
from processhub.agent.peers.statesender import Batch, Outgoing, Receipt
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.supervisor import Supervisor
from processhub.agent.watchdog.client import WatchdogClient, WatchdogProcess
from processhub.api.child import Exec, Python
from processhub.registry.grammar import Assignment, Report


class AlwaysPermitted:
    """The Lease is always held."""

    closing = False

    def may_start(self, *, again: bool) -> bool:
        return True

    def close(self) -> None:
        self.closing = True


class NoHandovers:
    """No child moves."""

    def lacks(self, child: Child) -> bool:
        return False

    def state_for(self, child_id: str, desired: DesiredRun) -> None:
        return None


class AloneMember:
    """A member to which no other one is known."""

    async def send_state(self, address: str, state: Outgoing) -> Receipt:
        raise AssertionError("no child moves")

    async def send_states(self, address: str, batch: Batch) -> tuple[Receipt, ...]:
        raise AssertionError("no child moves")


def supervisor_of(
    launchers: Mapping[type, Any],
    handovers: Handovers | None = None,
    earlier: Report | None = None,
    restarts: RestartLog | None = None,
    children: dict[str, Child] | None = None,
) -> Supervisor:
    """Return a supervisor without children. ``earlier`` are the reports of an earlier agent."""
    moves: Any = handovers or NoHandovers()
    supervisor = Supervisor(
        {} if children is None else children, launchers, AlwaysPermitted(), moves, lambda *_: earlier, restarts
    )  # type: ignore[arg-type]
    if handovers is not None:
        handovers.listen_to(supervisor.news)
    return supervisor


@contextlib.asynccontextmanager
async def with_processes(
    folder: Path, *, keeps_states: bool = False
) -> AsyncIterator[tuple[Supervisor, PythonStarter]]:
    """A supervisor whose children are processes, below a watchdog of its own; it ends with them.

    ``keeps_states``: a child that is edited leaves its state for its next run.
    """
    env = Environment(
        "hub", "default", "h", "hub-0", "hub-0", "p", "127.0.0.1", "node", run_dir=folder, python_path=str(folder)
    )
    process, log = WatchdogProcess(), os.open(os.devnull, os.O_WRONLY)
    watchdog, sink = WatchdogClient(process, None), LogSink(log)
    pythons = PythonStarter(env, watchdog, sink, None)  # type: ignore[arg-type]
    launchers: dict[type, Any] = {Exec: ExecStarter(env, watchdog, sink), Python: pythons}
    handovers = Handovers(env, None, AloneMember(), {}) if keeps_states else None  # type: ignore[arg-type]
    yield supervisor_of(launchers, handovers), pythons
    watchdog.close()
    await asyncio.to_thread(process.process.wait, 40)
    sink.close()
    os.close(log)


def desired(workload: Exec | Python, epoch: int = 1, **fields: Any) -> DesiredRun:
    """A run of the workload that may start."""
    entry = Assignment(uid="u", epoch=epoch, workload="w", **fields)
    return DesiredRun(entry, workload, slice="s", term=1, startable=True)
