"""Launchers, which start children: one for each kind of workload."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from processhub.agent.children.child import Child
from processhub.agent.children.execchild import ExecStarter
from processhub.agent.children.podchild import PodStarter
from processhub.agent.children.pythonchild import Ask, PythonStarter
from processhub.agent.children.runs import RunHandle
from processhub.agent.env import Environment
from processhub.agent.logs import LogSink
from processhub.agent.peers.statesender import Content
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.watchdog.client import WatchdogClient
from processhub.api.child import Exec, PodWorkload, Python
from processhub.cluster.client import Client


class Launcher(Protocol):
    """Starts the children of one kind of workload."""

    def launch(self, child: Child, desired: DesiredRun, state: Content | None) -> RunHandle:
        """Start the child, with that state. Raises OSError if its process can't be created."""

    def forget(self, child_id: str) -> None:
        """Remove what was kept for a child that was removed from this member."""

    def shut_down(self) -> None:
        """Prepare for the agent's shutdown: from now on every child is stopped."""


@dataclass(frozen=True)
class Launchers:
    """All launchers of a member, by type of workload.

    ``warm()`` prepares for the next start; ``spare_pid()`` is the pid of a process that runs no child yet, or 0.
    """

    by_workload: Mapping[type, Launcher]
    warm: Callable[[], None]
    spare_pid: Callable[[], int]


Begin = Callable[[Coroutine[Any, Any, None]], None]  # runs a task until the agent ends
# ``ask`` carries out what children ask of other children.
LauncherFactory = Callable[[Ask, Begin], Launchers]


def launch_in_pod(env: Environment, client: Client, watchdog: WatchdogClient, sink: LogSink) -> LauncherFactory:
    """The launchers of a member's pod: through the watchdog, in runners, and by the Pods that the operator makes."""

    def make(ask: Ask, begin: Begin) -> Launchers:
        pythons = PythonStarter(env, watchdog, sink, ask)
        by_workload: dict[type, Launcher] = {
            Exec: ExecStarter(env, watchdog, sink),
            Python: pythons,
            PodWorkload: PodStarter(env, client, begin),
        }
        return Launchers(by_workload, pythons.warm, lambda: pythons.spare_pid)

    return make
