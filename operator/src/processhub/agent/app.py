"""An agent's life: follow the slices, hold the Lease, run the children, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from typing import Any

from processhub.agent.children.child import Child
from processhub.agent.children.execchild import ExecStarter
from processhub.agent.children.podchild import PodStarter
from processhub.agent.children.pythonchild import PythonStarter
from processhub.agent.children.usage import Meter
from processhub.agent.env import Environment
from processhub.agent.handover.transfer import Handovers
from processhub.agent.lease import LeaseKeeper
from processhub.agent.logs import LogSink
from processhub.agent.metrics import Metrics
from processhub.agent.peers.client import Peers
from processhub.agent.peers.statesender import Batch, Receipt
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.agent.reporting.reporter import StatusReporter, WriterIdentity
from processhub.agent.requests.access import Access
from processhub.agent.requests.localtakeover import LocalTakeover
from processhub.agent.requests.ondemand import OnDemandStarter
from processhub.agent.requests.queue import RequestQueue
from processhub.agent.requests.router import Router
from processhub.agent.requests.server import Server
from processhub.agent.supervisor import Supervisor
from processhub.agent.watchdog.client import WatchdogClient, WatchdogProcess
from processhub.api.child import Exec, PodWorkload, Python
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice, Settings
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.registry.copies import is_current
from processhub.registry.grammar import EntryError, Report, parse_report

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_NO_WATCHDOG, EXIT_OTHER_HOLDER = 0, 1, 70, 75
_RETRY_SECONDS = 0.5
_FLUSH_SECONDS = 5.0
_FINISH_SECONDS = 5.0
_MARGIN_SECONDS = 12.0  # of the pod's grace period, for what comes after the children's end


class Agent:
    """The parts of one agent and how they are joined."""

    def __init__(
        self, env: Environment, client: Client, watchdog: WatchdogProcess, sink: LogSink, nofile: tuple[int, int] | None
    ) -> None:
        self.env, self._sink = env, sink
        self._loop = asyncio.get_running_loop()
        self.exit: asyncio.Future[int] = self._loop.create_future()
        self._session = 0  # of the Lease for which the slices were read
        self._ever_held = False
        self._begun = False  # each child of its beginning has started or failed once
        self.metrics = Metrics()
        self._watchdog = WatchdogClient(watchdog, nofile, self._watchdog_lost)
        self.usage = Meter(
            watchdog.process.pid,
            lambda: float(self.supervisor.settings.lease_seconds),
            lambda: sum(child.state == State.RUNNING for child in tuple(self.supervisor.children.values())),
            lambda: self._pythons.spare_pid,
        )
        self.lease = LeaseKeeper(
            env, Settings(), watchdog.feed, self._lease_held, self._other_holder, lambda: self.usage.latest
        )
        self._pythons = PythonStarter(env, self._watchdog, sink, self._ask)
        self.supervisor = Supervisor(
            {
                Exec: ExecStarter(env, self._watchdog, sink),
                Python: self._pythons,
                PodWorkload: PodStarter(env, client, self._begin),
            },
            self._may_start,
            self._child_changed,
            self._previous,
            self.metrics,
        )
        self.slices = SliceWatcher(
            client,
            env,
            self.lease.identity,
            self.supervisor.set_desired,
            self._own_slice,
            self._settings,
            self._registry_changed,
        )
        self._reporter = StatusReporter(
            WriterIdentity(
                client,
                self.lease.identity,
                env.pod_ip,
                lambda: self.lease.renewals,
                self.metrics,
                self.slices.informer.put,
                lambda: self._handovers.busy,
                lambda: len({item.spec.member for item in self.slices.registry()}),
            )
        )
        children = self.supervisor.children
        self._queue = RequestQueue(children.get, lambda: self._may_start(again=True), lambda: self.slices.settings)
        self.supervisor.busy = self._queue.at_work
        self._peers = Peers(env)
        self._takeover = LocalTakeover(
            env,
            self.slices,
            self._peers,
            children,
            self.supervisor.set_desired,
            lambda: self.lease.held(self._session) and not self.supervisor.closing,
        )
        self.router = Router(
            env,
            self.slices,
            children,
            self._queue,
            self._peers,
            OnDemandStarter(env, client, lambda: self.slices.settings, self.slices.registry),
            self._takeover,
        )
        self.router.partitioned = self._partitioned
        self._handovers = Handovers(env, self.slices, self._peers)
        self.supervisor.handovers = self._handovers
        self._server = Server(
            env,
            self.slices,
            self.router,
            Access(env, client),
            self._receive,
            self._take,
            self.metrics,
            self.healthy,
            self.ready,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self.metrics.observe(
            self.supervisor.count,
            {
                "processhub_agent_lease_renewals": lambda: self.lease.renewals,
                "processhub_agent_lease_failures": lambda: self.lease.failures,
                "processhub_agent_log_lines_dropped": lambda: sink.dropped,
            },
            {"processhub_agent_requests_waiting": lambda: self._queue.waiting},
        )

    async def run(self) -> int:
        """Run until a SIGTERM or until it can't go on; returns the exit code."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signum, self._terminated)
        await self._server.start()
        self._begin(self.slices.informer.run())
        self._begin(self._wait_for_slices())
        self.usage.start()
        self._pythons.warm()
        code = await self.exit
        if code == EXIT_OK:
            self._ending = self._loop.create_task(self._end_in_order())
            await asyncio.wait((self._ending,))
            if self._ending.cancelled() or self._ending.exception() is not None:
                code = EXIT_FAILED
        self.usage.stop()
        for task in self._tasks:
            task.cancel()
        await self._server.stop()
        await self._peers.close()
        return code

    # what the parts report

    def _begin(self, work: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of the agent failed; the container starts over", exc_info=error)
            self._finish(EXIT_FAILED)

    async def _wait_for_slices(self) -> None:
        """The Lease is taken only once this member's slice 0 is there: it carries leaseSeconds and the term."""
        while not self.slices.ready:
            await self.slices.informer.synced.wait()
            await asyncio.sleep(0.02)
        self.lease.start()

    def _child_changed(self, child: Child, urgent: bool) -> None:
        self._reporter.child_changed(child, urgent=urgent)
        self._queue.child_changed(child)

    async def _receive(self, child_id: str, uid: str, epoch: int, checksum: str, body: AsyncIterator[bytes]) -> None:
        await self._handovers.receive(self.supervisor.children.get(child_id), uid, epoch, checksum, body)

    def _take(self, batch: Batch) -> tuple[Receipt, ...]:
        children = self.supervisor.children
        receipts = tuple(self._handovers.take(children.get(state.id), state) for state in batch.states)
        self._handovers.expect(batch.more)
        return receipts

    async def _ask(self, operation: str, child_id: str, value: Any, to: str) -> dict[str, Any]:
        return await self.router.ask(operation, child_id, value, to)

    def _settings(self, settings: Settings) -> None:
        self.supervisor.apply(settings)
        self.lease.apply(settings)

    def _registry_changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        self._takeover.registry_changed()
        self._handovers.registry_changed()
        self.router.watch.changed(old, new)

    def _own_slice(self, item: RegistrySlice | None, name: str) -> None:
        if item is None:
            # What is still ending of it is reported in slice 0, which the operator writes next.
            for child in self.supervisor.children.values():
                child.slice_gone(name, self.slices.first_slice)
        self._reporter.slice_changed(item, name, self.supervisor.children.values())

    def _lease_held(self, session: int) -> None:
        self._begin(self._serve_session(session))

    async def _serve_session(self, session: int) -> None:
        """The Lease is ours (again): act on what the slices hold at this moment, only then start."""
        while session == self.lease.session:
            try:
                await self.slices.refresh()
            except ApiError as error:
                log.warning("slices can't be read: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not self._ever_held:
                self._handovers.follow(self.supervisor.children.values())
            self._session, self._ever_held = session, True
            self._reporter.open()
            self._pythons.warm()
            self.supervisor.advance()
            self._queue.advance()
            return

    def _partitioned(self) -> str:
        """Why requests can't be served, "" where they can: its children are stopped."""
        if not self.supervisor.settings.partitioned:
            return ""
        return f"hub {self.env.hub} has lost its quorum: its children are stopped until enough members are live again"

    def _may_start(self, again: bool) -> bool:
        """With Divergence what this agent runs is restarted over an outage too; all else needs a valid Lease."""
        if again and self._ever_held and not self.supervisor.settings.fence:
            return True
        return self.lease.held(self._session)

    def _previous(self, child_id: str, desired: DesiredRun) -> Report | None:
        """What an earlier agent of this member said of the same incarnation."""
        item = self.slices.informer.items.get((self.env.namespace, desired.slice))
        if item is None or item.status.holder == self.lease.identity:
            return None
        text = item.status.entries.get(child_id, "")
        with contextlib.suppress(EntryError):
            report = parse_report(text)
            if is_current(desired.assignment, report):
                return report
        return None

    def _other_holder(self, holder: str) -> None:
        """Everything it runs is another's now."""
        self._finish(EXIT_OTHER_HOLDER)

    def _watchdog_lost(self) -> None:
        log.error("the watchdog ended: its children ended with it, and so does this agent")
        self._finish(EXIT_NO_WATCHDOG)

    def _terminated(self) -> None:
        log.info("told to end: stopping %d children", len(self.supervisor.children))
        self._server.leave()
        self._finish(EXIT_OK)

    def _finish(self, code: int) -> None:
        if code != EXIT_OK:
            self._watchdog.close()  # the watchdog ends all children now, whatever else is still to be done here
        if not self.exit.done():
            self.exit.set_result(code)
        elif code != EXIT_OK and self._ending is not None:
            self._ending.cancel()  # it can't be done in order any more

    # its end

    async def _end_in_order(self) -> None:
        """Children handed over or stopped, no restarts any more, that said in the status, the Lease released."""
        began, left = self._loop.time(), max(0.0, self.env.grace_seconds - _MARGIN_SECONDS)
        grace = min(self.supervisor.limits.stop_seconds, left)
        if self.lease.held(self._session):
            # The operator moves them, with their state, while their pod is terminating.
            await self.supervisor.emptied(min(self.supervisor.settings.handover_seconds, left - grace))
        await self.supervisor.stop_all(grace, left - grace - (self._loop.time() - began))
        self.supervisor.forget_all()
        await self._reporter.flush(_FLUSH_SECONDS)
        await self.lease.release()
        # What other members' children still work on is answered here; who waits for an owner asks another member.
        await self._server.finish(min(self.supervisor.settings.request_seconds, _FINISH_SECONDS))

    # what is asked

    def healthy(self) -> bool:
        """Whether the Lease's thread lives; that this is answered shows that the main loop does."""
        return self.lease.alive

    def ready(self) -> str:
        """Empty where the member is ready, else what it waits for."""
        if not self.slices.ready:
            return "this member's slices are not read yet"
        if not self.lease.held(self._session):
            return "the member's Lease is not held"
        # Those of its beginning, which a rollout waits for: a later child that starts slowly is a matter of its own.
        self._begun = self._begun or self.supervisor.all_settled
        return "" if self._begun else "some children have neither started nor failed yet"
