"""The member's metrics, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Asked = dict[str, Callable[[], int]]
# The metrics that other parts count, by name, each with its help text.
COUNTERS = {
    "processhub_agent_lease_renewals": "Successful renewals of the member's Lease.",
    "processhub_agent_lease_failures": "Failed renewals of the member's Lease.",
    "processhub_agent_casts_failed": "Casts that were accepted, and that the child did not handle.",
    "processhub_agent_log_lines_dropped": "Lines of output dropped: the log is read too slowly.",
}
GAUGES = {"processhub_agent_requests_waiting": "Requests that wait for this member's children."}
_START_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one member: some counted here, the others read from the parts when the metrics are requested."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.restarts = Counter(
            "processhub_agent_child_restarts", "Restarts of this member's children.", registry=self.registry
        )
        self.starts = Histogram(
            "processhub_agent_child_start_seconds",
            "From the order to start a child until it ran.",
            buckets=_START_BUCKETS,
            registry=self.registry,
        )
        self.status_writes = Counter(
            "processhub_agent_status_writes", "Writes of slice status, by outcome.", ["outcome"], registry=self.registry
        )
        self.requests = Counter(
            "processhub_agent_requests",
            "Requests that callers sent to this member, by kind (call, cast) and by status of the answer.",
            ["kind", "status"],
            registry=self.registry,
        )

        self._requests: dict[tuple[str, int], Counter] = {}  # by their labels, which take longer to look up there

    def count_request(self, kind: str, status: int) -> None:
        """Count a caller's request."""
        counter = self._requests.get((kind, status))
        if counter is None:
            counter = self._requests[kind, status] = self.requests.labels(kind, status)
        counter.inc()

    def child_started(self, _: object, seconds: float) -> None:
        """Count a start and the seconds that it took."""
        self.starts.observe(seconds)

    def child_restarted(self, _: object) -> None:
        """Count a restart."""
        self.restarts.inc()

    def observe(self, children: Callable[[], dict[str, int]], counters: Asked, gauges: Asked) -> None:
        """Add the number of children by state, and the values of all COUNTERS and GAUGES, by name."""
        self.registry.register(_Elsewhere(children, counters, gauges))

    def text(self) -> bytes:
        """The metrics in the text format."""
        return generate_latest(self.registry)


class _Elsewhere(Collector):
    def __init__(self, children: Callable[[], dict[str, int]], counters: Asked, gauges: Asked) -> None:
        self._children, self._counters, self._gauges = children, counters, gauges

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily("processhub_agent_children", "This member's children by state.", labels=["state"])
        for state, count in self._children().items():
            gauge.add_metric([state], count)
        yield gauge
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=self._counters[name]())
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=self._gauges[name]())
