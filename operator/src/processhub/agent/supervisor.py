"""All children of this member: who may start, what starts them, and stopping them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from processhub.agent.children.child import Child, ChildNews
from processhub.agent.children.launchers import Launcher
from processhub.agent.children.runs import ExitStatus, Limits, RunHandle
from processhub.agent.handover.reports import report_lost
from processhub.agent.handover.transfer import Handovers
from processhub.agent.permit import Permit
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request, Response
from processhub.api.reasons import Reason, State
from processhub.api.slice import Settings
from processhub.registry.grammar import Report

log = logging.getLogger(__name__)


class Supervisor:
    """The children by id.

    ``launchers`` are by type of workload. ``earlier(id, desired)`` is what an earlier agent of this member reported.
    ``news`` has the listeners for what happens to the children.
    """

    def __init__(
        self,
        children: dict[str, Child],
        launchers: Mapping[type, Launcher],
        permit: Permit,
        handovers: Handovers,
        earlier: Callable[[str, DesiredRun], Report | None],
    ) -> None:
        self.news = ChildNews()
        self.news.restarted.listen(_log_restart)
        self.children = children
        self.limits = Limits()
        self.settings = Settings()
        self._launchers, self._permit, self._handovers = launchers, permit, handovers
        self._earlier = earlier
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
                if report := self._earlier(child_id, desired):
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
        self._permit.close()
        self.limits.answers_first = max_wait >= self.settings.request_seconds
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

    async def emptied(self, seconds: float) -> None:
        """Return when no child is desired or runs here any more, after ``seconds`` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.children:
                    self._empty.clear()
                    await self._empty.wait()

    def slice_gone(self, name: str, instead: str) -> None:
        """An own slice was deleted: what is still ending of it is reported in the slice ``instead``."""
        for child in self.children.values():
            child.slice_gone(name, instead)

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

    def running(self) -> int:
        """How many children run; may be called from any thread."""
        return sum(child.state == State.RUNNING for child in tuple(self.children.values()))

    # for children (ChildHost)

    @property
    def closing(self) -> bool:
        """Whether the agent ends: nothing is started any more."""
        return self._permit.closing

    def may_start(self, child: Child, *, again: bool) -> bool:
        """The Lease, the hub's quorum, the shutdown and the entry itself allow a start now."""
        if self.closing or self.settings.partitioned or child.desired is None:
            return False
        if not ((child.desired.startable or again) and self._permit.may_start(again=again)):
            return False
        if not again and self._handovers.lacks(child):
            # Started afresh it would be taken for moved, and the only copy of its state thrown away.
            report_lost(child)
            return False
        return True

    def launch(self, child: Child, desired: DesiredRun) -> RunHandle:
        """Start the child with the launcher for its kind of workload."""
        state = self._handovers.state_for(child.id, desired)
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
        self.news.changed.notify(child, urgent)

    def gone(self, child: Child) -> None:
        """Forget the child: nothing of it runs and none is desired."""
        if self.children.get(child.id) is child:
            del self.children[child.id]
            for launcher in self._launchers.values():
                launcher.forget(child.id)
            self.news.gone.notify(child)
        self._empty.set()
        self.news.changed.notify(child, True)


def _log_restart(child: Child) -> None:
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
