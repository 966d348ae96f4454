"""The supervisor of this member's children: it decides which may start, starts them, and stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from processhub.agent.children.child import Child
from processhub.agent.children.childhost import ChildNews
from processhub.agent.children.launchers import Launcher
from processhub.agent.children.restartlog import RestartLog
from processhub.agent.children.runs import ExitStatus, Limits, RunHandle
from processhub.agent.handover.reports import report_lost
from processhub.agent.handover.transfer import Handovers
from processhub.agent.permit import Permit
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import Request, Response
from processhub.api.reasons import Reason, State
from processhub.api.slice import Settings
from processhub.registry.grammar import Report, parse_end

log = logging.getLogger(__name__)


class Supervisor:
    """All children of this member, by id.

    ``launchers`` are by type of workload. ``earlier(id, desired)`` is the report of an earlier agent of this member.
    ``restarts`` keeps the times of restarts over an end of the container. ``news`` has the listeners for the children's
    events.
    """

    def __init__(
        self,
        children: dict[str, Child],
        launchers: Mapping[type, Launcher],
        permit: Permit,
        handovers: Handovers,
        earlier: Callable[[str, DesiredRun], Report | None],
        restarts: RestartLog | None = None,
    ) -> None:
        self.news: ChildNews[Child] = ChildNews()
        self.news.restarted.listen(_log_restart)
        self.children = children
        self.limits = Limits()
        self.settings = Settings()
        self._launchers, self._permit, self._handovers = launchers, permit, handovers
        self._earlier, self._restarts = earlier, restarts
        if restarts is not None:
            self.news.restarted.listen(restarts.keep)
        self._empty = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # The desired runs.

    def apply(self, settings: Settings) -> None:
        """Apply changed settings from the next start or stop on. A lost quorum stops all children at once."""
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
        """Set or remove the desired runs of the children in ``changes``."""
        for child_id, desired in changes.items():
            child = self.children.get(child_id)
            if child is None:
                if desired is None:
                    continue
                child = self.children[child_id] = Child(child_id, self, self.limits, self._loop)
                if report := self._earlier(child_id, desired):
                    child.adopt(report)
                    if self._restarts is not None:
                        child.history.backoff.times += self._restarts.times(child_id, desired, self._loop.time())
            child.set_desired(desired)

    def adopt_last_reports(self) -> None:
        """Go by what the earlier agent reported last. It may have run on after this one had read its reports.

        Call this before the first start, when the slices were read under the Lease.
        """
        for child in self.children.values():
            if (desired := child.desired) is not None:
                entry = desired.assignment
                child.adopt(self._earlier(child.id, desired) or Report(uid=entry.uid, epoch=entry.epoch))

    def advance(self) -> None:
        """Start the children that wait for the Lease, which may allow starts again."""
        for child in list(self.children.values()):
            child.advance()

    async def stop_all(self, grace: float, max_wait: float) -> None:
        """Stop every child, by force after ``grace`` seconds; returns when nothing of them is left but Pods.

        If ``max_wait`` seconds are enough for any request, a child that handles one answers first, as at any stop.
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
        """Remove all children that the next agent is to start: after ``stop_all`` this one does not run them again.

        Those that have finished, or failed for good, are still reported, as the next agent goes by that.
        """
        for child in list(self.children.values()):
            if not child.given_up:
                child.set_desired(None)

    async def emptied(self, seconds: float) -> None:
        """Return when no child is desired or runs here any more, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.children:
                    self._empty.clear()
                    await self._empty.wait()

    def slice_gone(self, name: str, instead: str) -> None:
        """Report the children of a deleted slice that are still ending in the slice ``instead``."""
        for child in self.children.values():
            child.slice_gone(name, instead)

    @property
    def all_settled(self) -> bool:
        """Whether each child that may start has run or failed once, but for those that leave for another member."""
        return all(
            child.settled or child.desired is None or not child.desired.startable or bool(child.desired.assignment.to)
            for child in self.children.values()
        )

    def count(self) -> dict[str, int]:
        """The number of children by state."""
        counts = {state.value: 0 for state in State}
        for child in self.children.values():
            counts[child.status.state] += 1
        return counts

    def running(self) -> int:
        """The number of running children. May be called from any thread."""
        return sum(child.status.state == State.RUNNING for child in tuple(self.children.values()))

    # For children (ChildHost).

    @property
    def closing(self) -> bool:
        """Whether the agent is shutting down. No child is started from then on."""
        return self._permit.closing

    def may_start(self, child: Child, *, again: bool) -> bool:
        """Whether the Lease, the hub's quorum, the agent's shutdown and the entry allow a start now."""
        if self.closing or self.settings.partitioned or child.desired is None:
            return False
        allowed = child.desired.restartable if again else child.desired.startable
        if not (allowed and self._permit.may_start(again=again)):
            return False
        if end := child.desired.assignment.ended:
            child.adopt(parse_end(end))  # it has ended for good on the member that it was moved from
            child.changed(urgent=True)
            return False
        if not again and not child.status.started_at and self._handovers.lacks(child):
            # Started without its state, the child would count as moved, and the only copy of the state would be
            # discarded.
            report_lost(child)
            return False
        return True

    def launch(self, child: Child, desired: DesiredRun) -> RunHandle:
        """Start the child with the launcher for its kind of workload."""
        state = self._handovers.state_for(child, desired)
        launcher = self._launchers.get(type(desired.workload))
        if launcher is not None:
            try:
                return launcher.launch(child, desired, state)
            except OSError as error:
                exit_status = ExitStatus(Reason.EXITED, "not started", message=f"its process can't be created: {error}")
        else:
            exit_status = ExitStatus(
                Reason.INVALID,
                "not started",
                final=True,
                message="this agent can't read its workload: a newer agent is needed",
            )
        self._loop.call_soon(child.ended, exit_status)
        return _Nothing()

    def changed(self, child: Child, *, urgent: bool) -> None:
        """Notify the listeners that the child's report has changed."""
        if not child.alive:
            self._empty.set()
        self.news.changed.notify(child, urgent)

    def gone(self, child: Child) -> None:
        """Remove the child: nothing of it runs, and it is not desired."""
        if self.children.get(child.id) is child:
            del self.children[child.id]
            for launcher in self._launchers.values():
                launcher.forget(child.id)
            self.news.gone.notify(child)
        self._empty.set()
        self.news.changed.notify(child, True)


def _log_restart(child: Child) -> None:
    log.info("restarting: %s", child.status.last_exit, extra={"child": child.id})


class _Nothing(RunHandle):
    """The run of a child that can't be started. The child's end is reported at once."""

    def stop(self, grace: float) -> None:
        """Do nothing: the run ends by itself."""

    def give_up(self) -> None:
        """Do nothing: the run ends by itself."""

    async def request(self, request: Request) -> Response:
        """Raise AssertionError: no process runs, so no request is handed over."""
        raise AssertionError("it never runs")
