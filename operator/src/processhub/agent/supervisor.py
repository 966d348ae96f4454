"""All children of this member: who may start, what starts them, and stopping them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from processhub.agent.children.child import Child
from processhub.agent.children.runs import ExitStatus, Limits, RunHandle
from processhub.agent.metrics import Metrics
from processhub.agent.peers.statesender import Content
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request, Response
from processhub.api.reasons import Reason, State
from processhub.api.slice import Settings
from processhub.registry.grammar import Report

if TYPE_CHECKING:
    from processhub.agent.handover.transfer import Handovers

log = logging.getLogger(__name__)


class Launcher(Protocol):
    """What starts the children of one kind of workload."""

    def launch(self, child: Child, desired: DesiredRun, state: Content | None) -> RunHandle:
        """Start the child, with that state. Raises OSError where there is no room for its process."""

    def forget(self, child_id: str) -> None:
        """The child is gone from this member: remove what was kept for it."""

    def shut_down(self) -> None:
        """The agent ends: every child is stopped from here on."""


class Supervisor:
    """The children by id.

    ``launchers`` are by type of workload. ``may_start(again)`` is whether the Lease allows a start now.
    ``on_change(child, urgent)`` is called for each changed report.
    """

    def __init__(
        self,
        launchers: Mapping[type, Launcher],
        may_start: Callable[[bool], bool],
        on_change: Callable[[Child, bool], None],
        previous: Callable[[str, DesiredRun], Report | None],
        metrics: Metrics,
    ) -> None:
        self.children: dict[str, Child] = {}
        self.limits = Limits()
        self.settings = Settings()
        self.closing = False
        self._launchers = launchers
        self._may_start, self._on_change, self._previous = may_start, on_change, previous
        self._metrics = metrics
        self._answers_first = True
        self.busy: Callable[[Child], bool] = lambda _: False  # whether a request is being answered
        self.handovers: Handovers | None = None
        self._empty = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # what is desired

    def apply(self, settings: Settings) -> None:
        """Take changed settings; they hold from the next start or stop on, but for a partition, which stops all."""
        before, self.settings = self.settings, settings
        self.limits.start_seconds, self.limits.stop_seconds = settings.start_seconds, settings.stop_seconds
        self.limits.request_seconds = settings.request_seconds
        self.limits.restarts_max = settings.restarts_max
        self.limits.restarts_window = settings.restarts_window_seconds
        self.limits.redundancy_signal = settings.redundancy_signal
        self.limits.handover_seconds = settings.handover_seconds
        if settings.partitioned and not before.partitioned:
            log.warning("the hub has lost its quorum: stopping %d children until it is back", len(self.children))
            for child in list(self.children.values()):
                child.stop(settings.stop_seconds)
        elif before.partitioned and not settings.partitioned:
            log.info("the hub has its quorum again")
            self.advance()

    def set_desired(self, changes: dict[str, DesiredRun | None]) -> None:
        """Take in what changed of the children that shall run."""
        for child_id, desired in changes.items():
            child = self.children.get(child_id)
            if child is None:
                if desired is None:
                    continue
                child = self.children[child_id] = Child(child_id, self, self.limits, self._loop)
                if report := self._previous(child_id, desired):
                    child.adopt(report)
            child.set_desired(desired)

    def advance(self) -> None:
        """The Lease may allow starts again: start what waits for that."""
        for child in list(self.children.values()):
            child.advance()

    async def stop_all(self, grace: float, max_wait: float) -> None:
        """Stop every child, by force after ``grace`` seconds, and return when nothing is left of them but Pods.

        Where ``max_wait`` seconds are enough for any request, one that is at work answers first, as at any stop.
        """
        self.closing = True
        self._answers_first = max_wait >= self.settings.request_seconds
        for launcher in self._launchers.values():
            launcher.shut_down()
        for child in list(self.children.values()):
            child.stop(grace)
        while any(child.alive for child in self.children.values()):
            self._empty.clear()
            await self._empty.wait()

    def forget_all(self) -> None:
        """After ``stop_all``: this agent runs and will run none of them."""
        for child in list(self.children.values()):
            child.set_desired(None)

    @property
    def all_settled(self) -> bool:
        """Whether each child that may start has run or failed once."""
        return all(
            child.settled or child.desired is None or not child.desired.startable for child in self.children.values()
        )

    def count(self) -> dict[str, int]:
        """Children by state."""
        counts = {state.value: 0 for state in State}
        for child in self.children.values():
            counts[child.state] += 1
        return counts

    # for children (ChildHost)

    def may_start(self, child: Child, *, again: bool) -> bool:
        """The Lease, the hub's quorum, the shutdown and the entry itself allow a start now."""
        if self.closing or self.settings.partitioned or child.desired is None:
            return False
        return (child.desired.startable or again) and self._may_start(again)

    def lacks_state(self, child: Child) -> bool:
        """Whether the state that the child is to start with is not here, but on its former member."""
        return self.handovers is not None and self.handovers.lacks(child)

    def launch(self, child: Child, desired: DesiredRun) -> RunHandle:
        """Start the child with the launcher for its kind of workload."""
        state = self.handovers.state_for(child.id, desired) if self.handovers is not None else None
        launcher = self._launchers.get(type(desired.workload))
        if launcher is not None:
            try:
                return launcher.launch(child, desired, state)
            except OSError as error:
                exit_status = ExitStatus(Reason.EXITED, "not started", message=f"no runner for it: {error}")
        else:
            exit_status = ExitStatus(
                Reason.INVALID,
                "not started",
                final=True,
                message="this agent can't read its workload: a newer one is needed",
            )
        self._loop.call_soon(child.ended, exit_status)
        return _Nothing()

    def changed(self, child: Child, *, urgent: bool) -> None:
        """Pass on that the child's report changed."""
        if not child.alive:
            self._empty.set()
        self._on_change(child, urgent)

    def at_work(self, child: Child) -> bool:
        """Whether a stop is to wait for an answer; not where the pod's grace leaves no time for it."""
        return self._answers_first and self.busy(child)

    def gone(self, child: Child) -> None:
        """Forget the child: nothing of it runs and none is desired."""
        if self.children.get(child.id) is child:
            del self.children[child.id]
            for launcher in self._launchers.values():
                launcher.forget(child.id)
            if self.handovers is not None:
                self.handovers.forget(child.id)
        self._empty.set()
        self._on_change(child, True)

    def hand_over(self, child: Child, desired: DesiredRun) -> None:
        """Begin to hand the child's state over to another member."""
        if self.handovers is not None:
            self.handovers.begin(child, desired)

    def stays(self, child: Child) -> None:
        """The child declined to be moved."""
        if self.handovers is not None:
            self.handovers.stays(child)

    def quiesced(self, child: Child, exit_status: ExitStatus) -> None:
        """The child ended for a handover."""
        if self.handovers is not None:
            self.handovers.quiesced(child, exit_status)

    def up(self, child: Child, seconds: float) -> None:
        """Count the start; what the child was started with is its own now."""
        self._metrics.starts.observe(seconds)
        if self.handovers is not None:
            self.handovers.up(child.id)

    async def emptied(self, seconds: float) -> None:
        """Return when no child is desired or runs here any more, after ``seconds`` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.children:
                    self._empty.clear()
                    await self._empty.wait()

    def restarted(self, child: Child) -> None:
        """Count and log the restart."""
        self._metrics.restarts.inc()
        log.info("restarting: %s", child.last_exit, extra={"child": child.id})


class _Nothing:
    """The run of a child that can't be started; the child's end is reported at once."""

    def stop(self, grace: float) -> None:
        """Do nothing: it ends by itself."""

    def give_up(self) -> None:
        """Do nothing: it ends by itself."""

    def hand_over(self, path: Path, grace: float, *, ask: bool) -> None:
        """Do nothing: it has no state."""

    def role(self, role: str, epoch: int, *, notify: bool) -> None:
        """Do nothing: nothing runs."""

    async def request(self, request: Request) -> Response:
        """Never called: nothing runs."""
        raise AssertionError("it never runs")
