"""The parts of an agent, built in the order of their dependence, and the listeners that connect them.

A part knows those that were built before it. It notifies later parts through its listeners, which ``_connect`` adds
when all parts exist. The router is built before the launchers, because actors send requests to other children through
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from processhub.agent.children.child import Child
from processhub.agent.children.launchers import Begin, LauncherFactory, Launchers
from processhub.agent.children.restartlog import RestartLog
from processhub.agent.env import Environment
from processhub.agent.handover.transfer import Handovers
from processhub.agent.health import Health
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.listeners import Listeners
from processhub.agent.metrics import Metrics
from processhub.agent.peers.link import PeerLink
from processhub.agent.permit import Permit
from processhub.agent.registry.earlier import EarlierReports
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.reporting.reporter import StatusReporter
from processhub.agent.reporting.reportwriter import WriterIdentity
from processhub.agent.requests.access import Access
from processhub.agent.requests.activation import Activations
from processhub.agent.requests.asks import Asks
from processhub.agent.requests.localtakeover import LocalTakeover
from processhub.agent.requests.ondemand import UnplacedIds
from processhub.agent.requests.queue import RequestQueue
from processhub.agent.requests.router import Router
from processhub.agent.requests.server import Served
from processhub.agent.requests.streams import Streams
from processhub.agent.supervisor import Supervisor
from processhub.agent.tls.identity import MemberTls
from processhub.api.slice import RegistrySlice
from processhub.api.usage import Usage
from processhub.cluster.client import Client


class WatchdogLink(Protocol):
    """The process that ends all other processes of the member when the agent can't."""

    lost: Listeners[()]

    def close(self) -> None:
        """Close the connection; the watchdog then kills all that still runs, and ends."""


class UsageMeter(Protocol):
    """Measures what the children's processes use; ``measured`` notifies of each reading."""

    measured: Listeners[Usage]

    def start(self) -> None:
        """Start the readings."""

    def stop(self) -> None:
        """Stop the readings."""


class MemberServer(Protocol):
    """Answers probes, look-ups and requests to the member."""

    async def start(self) -> None:
        """Start to listen. Raises OSError if the pod's address is in use."""

    def leave(self) -> None:
        """Note that the member is shutting down: callers are sent to another one."""

    async def finish(self, seconds: float) -> None:
        """Accept no more requests, and wait until those that came are answered, for ``seconds`` at most."""

    async def stop(self) -> None:
        """Close all connections."""


# Arguments: the seconds between two readings, the number of running children, and the pid of a process without children
# yet (0: none).
MeterFactory = Callable[[Callable[[], float], Callable[[], int], Callable[[], int]], UsageMeter]


@dataclass(frozen=True)
class Surroundings:
    """The surroundings of an agent: all parts that open connections, start processes or threads, or have a clock.

    So an agent can also run in one thread, with a simulated API server and a simulated clock.
    """

    env: Environment
    client: Client
    lease: LeaseKeeper
    peers: PeerLink
    tls: MemberTls
    watchdog: WatchdogLink
    launchers: LauncherFactory
    meter: MeterFactory
    server: Callable[[Served], MemberServer]
    lines_dropped: Callable[[], int]  # lines of output that were dropped because the log is read too slowly


@dataclass(frozen=True)
class RequestParts:
    """The parts that handle requests to children."""

    queue: RequestQueue
    takeover: LocalTakeover
    activations: Activations
    asks: Asks
    router: Router
    streams: Streams


@dataclass(frozen=True)
class Parts:
    """All parts of an agent, connected to each other."""

    slices: SliceWatcher
    permit: Permit
    handovers: Handovers
    requests: RequestParts
    launchers: Launchers
    supervisor: Supervisor
    reporter: StatusReporter
    meter: UsageMeter
    metrics: Metrics
    server: MemberServer


def build_parts(around: Surroundings, begin: Begin) -> Parts:
    """Build and connect all parts; none of them runs yet. ``begin`` runs a task until the agent ends."""
    metrics = Metrics()
    children: dict[str, Child] = {}
    slices = SliceWatcher(around.client, around.env, around.lease.identity)
    permit = Permit(around.lease, slices)
    handovers = Handovers(around.env, slices, around.peers, children)
    requests = _build_requests(around, slices, permit, children)
    launchers = around.launchers(requests.router.ask, begin)
    earlier = EarlierReports(slices, around.lease.identity)
    supervisor = Supervisor(
        children, launchers.by_workload, permit, handovers, earlier.of, RestartLog(around.env.child_dir)
    )
    health = Health(around.lease, slices, permit, supervisor, around.tls)
    parts = Parts(
        slices=slices,
        permit=permit,
        handovers=handovers,
        requests=requests,
        launchers=launchers,
        supervisor=supervisor,
        reporter=_build_reporter(around, slices, permit, handovers, requests.asks, metrics),
        meter=around.meter(lambda: float(slices.settings.lease_seconds), supervisor.running, launchers.spare_pid),
        metrics=metrics,
        server=around.server(
            Served(
                around.env,
                slices,
                requests.router,
                Access(around.env, around.client),
                handovers.receive,
                handovers.take,
                metrics,
                health.healthy,
                health.ready,
                around.tls,
                requests.streams,
            )
        ),
    )
    _connect(parts, around.lease, around.tls)
    _observe(parts, around)
    return parts


def _build_requests(
    around: Surroundings, slices: SliceWatcher, permit: Permit, children: Mapping[str, Child]
) -> RequestParts:
    env, peers = around.env, around.peers
    queue = RequestQueue(children.get, permit.may_serve, lambda: slices.settings)
    takeover = LocalTakeover(env, slices, peers, children, permit.may_take_over)
    activations, asks = Activations(env, around.lease.identity, slices, children, permit.may_take_over), Asks()
    unplaced = UnplacedIds(env, around.client, slices, activations)
    router = Router(env, slices, children, queue, peers, unplaced, takeover, activations, asks)
    streams = Streams(env, router, queue, children, around.tls, peers.token)
    return RequestParts(queue, takeover, activations, asks, router, streams)


def _build_reporter(
    around: Surroundings, slices: SliceWatcher, permit: Permit, handovers: Handovers, asks: Asks, metrics: Metrics
) -> StatusReporter:
    return StatusReporter(
        WriterIdentity(
            around.client,
            around.lease.identity,
            around.env.pod_ip,
            around.env.port,
            lambda: permit.held,
            lambda: around.lease.renewals,
            metrics,
            slices.informer.put,
            handovers.busy,
            slices.member_count,
            lambda: around.tls.report,
            lambda: asks.ids,
            slices.has_read,
            around.lease.set_refused,
        )
    )


def _connect(parts: Parts, lease: LeaseKeeper, tls: MemberTls) -> None:
    """Add the listeners by which each part notifies those that were built after it."""
    slices, supervisor, requests = parts.slices, parts.supervisor, parts.requests

    def own_slice_changed(item: RegistrySlice | None, name: str) -> None:
        if item is None:
            # Children of that slice which are still ending are reported in slice 0, which the operator writes next.
            supervisor.slice_gone(name, slices.first_slice)
        parts.reporter.slice_changed(item, name, supervisor.children.values())
        if item is not None and name == slices.first_slice:
            tls.take(item.spec.tls)

    slices.settings_changed.listen(supervisor.apply)
    slices.settings_changed.listen(lease.apply)
    slices.desired_changed.listen(supervisor.set_desired)
    slices.desired_changed.listen(requests.activations.count.desired_changed)
    slices.own_changed.listen(own_slice_changed)
    slices.registry_changed.listen(requests.takeover.registry_changed)
    slices.registry_changed.listen(requests.activations.registry_changed)
    slices.registry_changed.listen(parts.handovers.registry_changed)
    slices.registry_changed.listen(requests.router.watch.changed)
    slices.registry_changed.listen(tls.registry_changed)  # which members accept TLS
    slices.read_on.listen(requests.router.watch.look_again)
    slices.read_on.listen(parts.reporter.look_again)
    requests.asks.changed.listen(lambda urgent: parts.reporter.asks_changed(slices.first_slice, urgent))
    requests.takeover.desired_changed.listen(supervisor.set_desired)
    supervisor.news.changed.listen(parts.reporter.child_changed)
    supervisor.news.changed.listen(requests.queue.child_changed)
    supervisor.news.changed.listen(requests.streams.child_changed)
    supervisor.news.started.listen(parts.metrics.child_started)
    supervisor.news.restarted.listen(parts.metrics.child_restarted)
    supervisor.news.gone.listen(requests.activations.count.gone)
    parts.handovers.listen_to(supervisor.news)
    parts.meter.measured.listen(lease.set_usage)
    tls.changed.listen(lambda: parts.reporter.member_changed(slices.first_slice))
    lease.refused.listen(lambda why: parts.reporter.lease_refused(slices.first_slice, why))


def _observe(parts: Parts, around: Surroundings) -> None:
    """Register the counts of the parts with the metrics."""
    parts.metrics.observe(
        parts.supervisor.count,
        {
            "processhub_agent_lease_renewals_total": lambda: around.lease.renewals,
            "processhub_agent_lease_failures_total": lambda: around.lease.failures,
            "processhub_agent_casts_failed_total": lambda: parts.requests.queue.casts_failed,
            "processhub_agent_log_lines_dropped_total": around.lines_dropped,
            "processhub_agent_requests_waiting": lambda: parts.requests.queue.waiting,
        },
    )
