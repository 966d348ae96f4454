"""All children of this member: who may start, what starts them, and stopping them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from processhub.agent.child import Child
from processhub.agent.incarnation import End, Handle, Limits
from processhub.agent.metrics import Metrics
from processhub.agent.sync import Wanted
from processhub.api.child import Exec, PodWorkload, Python
from processhub.api.reasons import Reason, State
from processhub.api.slice import Report, Settings

log = logging.getLogger(__name__)


class ExecLauncher(Protocol):
    """What starts exec children."""

    def launch(self, child: Child, wanted: Wanted, workload: Exec) -> Handle:
        """Have it started."""

    def forget(self, child_id: str) -> None:
        """It is gone from this member."""


class PythonLauncher(Protocol):
    """What starts Python children."""

    def launch(self, child: Child, wanted: Wanted, workload: Python) -> Handle:
        """Have it started."""


class PodLauncher(Protocol):
    """What follows the Pods of pod children."""

    def launch(self, child: Child, wanted: Wanted, workload: PodWorkload) -> Handle:
        """Have it followed; its Pod is the operator's to make."""

    def let_go(self) -> None:
        """The agent ends: Pods live on, and those that are ordered to stop from here on end at once for it."""


class Supervisor:
    """The children by id.

    ``may_start(again)`` is the gate: whether the Lease allows a start now. ``on_change(child, urgent)`` is called
    for each changed report.
    """

    def __init__(
        self,
        execs: ExecLauncher,
        pythons: PythonLauncher,
        pods: PodLauncher,
        may_start: Callable[[bool], bool],
        on_change: Callable[[Child, bool], None],
        previous: Callable[[str, Wanted], Report | None],
        metrics: Metrics,
    ) -> None:
        self.children: dict[str, Child] = {}
        self.limits = Limits()
        self.settings = Settings()
        self.closing = False
        self._execs, self._pythons, self._pods = execs, pythons, pods
        self._may_start, self._on_change, self._previous = may_start, on_change, previous
        self._metrics = metrics
        self._empty = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # orders

    def apply(self, settings: Settings) -> None:
        """Take changed settings; they hold from the next start or stop on."""
        self.settings = settings
        self.limits.start_seconds, self.limits.stop_seconds = settings.start_seconds, settings.stop_seconds
        self.limits.restarts_max = settings.restarts_max
        self.limits.restarts_window = settings.restarts_window_seconds

    def want(self, changes: dict[str, Wanted | None]) -> None:
        """Take changed orders."""
        for child_id, wanted in changes.items():
            child = self.children.get(child_id)
            if child is None:
                if wanted is None:
                    continue
                child = self.children[child_id] = Child(child_id, self, self.limits, self._loop)
                if report := self._previous(child_id, wanted):
                    child.adopt(report)
            child.want(wanted)

    def advance(self) -> None:
        """The gate may have opened: start what waits for it."""
        for child in list(self.children.values()):
            child.advance()

    async def stop_all(self, grace: float) -> None:
        """Stop every child, by force after ``grace`` seconds, and return when nothing is left of them but Pods."""
        self.closing = True
        self._pods.let_go()
        for child in list(self.children.values()):
            child.stop(grace)
        while any(child.alive for child in self.children.values()):
            self._empty.clear()
            await self._empty.wait()

    def forget_all(self) -> None:
        """After ``stop_all``: this agent runs and will run none of them."""
        for child in list(self.children.values()):
            child.want(None)

    @property
    def all_settled(self) -> bool:
        """Whether each child that may start has run or failed once."""
        return all(
            child.settled or child.wanted is None or not child.wanted.startable for child in self.children.values()
        )

    def count(self) -> dict[str, int]:
        """Children by state."""
        counts = {state.value: 0 for state in State}
        for child in self.children.values():
            counts[child.state] += 1
        return counts

    # what children ask and tell

    def may_start(self, child: Child, *, again: bool) -> bool:
        """The Lease, the shutdown and the entry itself allow a start now."""
        if self.closing or child.wanted is None:
            return False
        return (child.wanted.startable or again) and self._may_start(again)

    def launch(self, child: Child, wanted: Wanted) -> Handle:
        """Hand the child to what runs its kind of workload."""
        workload = wanted.workload
        if isinstance(workload, Exec):
            return self._execs.launch(child, wanted, workload)
        if isinstance(workload, Python):
            return self._pythons.launch(child, wanted, workload)
        if isinstance(workload, PodWorkload):
            return self._pods.launch(child, wanted, workload)
        end = End(
            Reason.INVALID,
            "not started",
            final=True,
            message="this agent can't read its workload: a newer one is needed",
        )
        self._loop.call_soon(child.ended, end)
        return _Nothing()

    def changed(self, child: Child, *, urgent: bool) -> None:
        """Its report changed."""
        if not child.alive:
            self._empty.set()
        self._on_change(child, urgent)

    def gone(self, child: Child) -> None:
        """Nothing of it is left or wanted."""
        if self.children.get(child.id) is child:
            del self.children[child.id]
            self._execs.forget(child.id)
        self._empty.set()
        self._on_change(child, True)

    def restarted(self, child: Child) -> None:
        """It is being restarted."""
        self._metrics.restarts.inc()
        log.info("restarting: %s", child.last_exit, extra={"child": child.id})

    def started(self, child: Child, seconds: float) -> None:
        """It is up."""
        self._metrics.starts.observe(seconds)


class _Nothing:
    """The handle of a child that can't be started."""

    def stop(self, grace: float) -> None:
        """It ends by itself at once."""

    def give_up(self) -> None:
        """The same."""

    def role(self, role: str) -> None:
        """There is nobody to tell."""
