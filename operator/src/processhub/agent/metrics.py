"""The member's metrics, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_START_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counted where it happens; what others know already is asked when the metrics are read."""

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

    def observe(
        self, children: Callable[[], dict[str, int]], counters: dict[str, tuple[str, Callable[[], int]]]
    ) -> None:
        """Add gauges of children by state, and counters kept elsewhere (name → help, value)."""
        self.registry.register(_Asked(children, counters))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)


class _Asked(Collector):
    def __init__(
        self, children: Callable[[], dict[str, int]], counters: dict[str, tuple[str, Callable[[], int]]]
    ) -> None:
        self._children, self._counters = children, counters

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily("processhub_agent_children", "This member's children by state.", labels=["state"])
        for state, count in self._children().items():
            gauge.add_metric([state], count)
        yield gauge
        for name, (text, value) in self._counters.items():
            yield CounterMetricFamily(f"processhub_agent_{name}", text, value=value())
