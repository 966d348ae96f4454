"""The member's metrics, in Prometheus' text format.

The few that there are need no library. That of Prometheus takes 1 MiB of each member, with a web server of its own.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

Asked = dict[str, Callable[[], int]]
Labels = tuple[tuple[str, str], ...]
# The metrics that other parts count, by name, each with its help text.
COUNTERS = {
    "processhub_agent_lease_renewals": "Successful renewals of the member's Lease.",
    "processhub_agent_lease_failures": "Failed renewals of the member's Lease.",
    "processhub_agent_casts_failed": "Casts that were accepted, and that the child did not handle.",
    "processhub_agent_log_lines_dropped": "Lines of output dropped: the log is read too slowly.",
}
GAUGES = {"processhub_agent_requests_waiting": "Requests that wait for this member's children."}
_RESTARTS, _RESTARTS_TEXT = "processhub_agent_child_restarts", "Restarts of this member's children."
_STARTS, _STARTS_TEXT = "processhub_agent_child_start_seconds", "From the order to start a child until it ran."
_START_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WRITES, _WRITES_TEXT = "processhub_agent_status_writes", "Writes of slice status, by outcome."
_REQUESTS = "processhub_agent_requests"
_REQUESTS_TEXT = "Requests that callers sent to this member, by kind (call, cast) and by status of the answer."
_CHILDREN, _CHILDREN_TEXT = "processhub_agent_children", "This member's children by state."


class _Counts:
    """Counts by some key, each with the time at which the key was first counted."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], int] = {}
        self.since: dict[tuple[str, int], float] = {}

    def add(self, what: str, number: int = 0) -> None:
        """Count one more."""
        key = (what, number)
        try:
            self.values[key] += 1
        except KeyError:
            self.values[key], self.since[key] = 1, time.time()


class Metrics:
    """The metrics of one member: some counted here, the others read from the parts when the metrics are requested."""

    def __init__(self) -> None:
        self._began = time.time()
        self._restarts = 0
        self._starts = [0] * (len(_START_BUCKETS) + 1)  # by bucket; the last one has those that took longest
        self._start_seconds = 0.0
        self._writes, self._requests = _Counts(), _Counts()
        self._children: Callable[[], Mapping[str, int]] = dict
        self._counters: Asked = {}
        self._gauges: Asked = {}

    def count_request(self, kind: str, status: int) -> None:
        """Count a caller's request."""
        self._requests.add(kind, status)

    def count_write(self, outcome: str) -> None:
        """Count a write of a slice's status: ``written`` or ``failed``."""
        self._writes.add(outcome)

    def child_started(self, _: object, seconds: float) -> None:
        """Count a start and the seconds that it took."""
        self._starts[bisect_left(_START_BUCKETS, seconds)] += 1
        self._start_seconds += seconds

    def child_restarted(self, _: object) -> None:
        """Count a restart."""
        self._restarts += 1

    def observe(self, children: Callable[[], dict[str, int]], counters: Asked, gauges: Asked) -> None:
        """Add the number of children by state, and the values of all COUNTERS and GAUGES, by name."""
        self._children, self._counters, self._gauges = children, counters, gauges

    def text(self) -> bytes:
        """The metrics in the text format."""
        return "".join(f"{line}\n" for line in self._lines()).encode()

    def _lines(self) -> Iterator[str]:
        yield from _counter(_RESTARTS, _RESTARTS_TEXT, {(): self._restarts}, {(): self._began})
        yield from self._start_lines()
        yield from _labelled(_WRITES, _WRITES_TEXT, self._writes, lambda outcome, _: (("outcome", outcome),))
        yield from _labelled(
            _REQUESTS, _REQUESTS_TEXT, self._requests, lambda kind, status: (("kind", kind), ("status", str(status)))
        )
        states: dict[Labels, int] = {(("state", state),): count for state, count in self._children().items()}
        yield from _family(_CHILDREN, _CHILDREN_TEXT, "gauge", states)
        for name, text in COUNTERS.items():
            yield from _counter(name, text, {(): self._counters[name]()} if name in self._counters else {})
        for name, text in GAUGES.items():
            yield from _family(name, text, "gauge", {(): self._gauges[name]()} if name in self._gauges else {})

    def _start_lines(self) -> Iterator[str]:
        yield from _head(_STARTS, _STARTS_TEXT, "histogram")
        limits = (*map(float, _START_BUCKETS), "+Inf")
        for limit, count in zip(limits, accumulate(self._starts), strict=True):
            yield _sample(f"{_STARTS}_bucket", (("le", str(limit)),), count)
        yield _sample(f"{_STARTS}_count", (), sum(self._starts))
        yield _sample(f"{_STARTS}_sum", (), self._start_seconds)
        yield from _family(f"{_STARTS}_created", _STARTS_TEXT, "gauge", {(): self._began})


def _labelled(name: str, text: str, counts: _Counts, labels: Callable[[str, int], Labels]) -> Iterator[str]:
    values = {labels(*key): count for key, count in counts.values.items()}
    return _counter(name, text, values, {labels(*key): at for key, at in counts.since.items()})


def _counter(
    name: str, text: str, values: Mapping[Labels, float], since: Mapping[Labels, float] | None = None
) -> Iterator[str]:
    yield from _family(f"{name}_total", text, "counter", values)
    if since is not None:
        yield from _family(f"{name}_created", text, "gauge", since)


def _family(name: str, text: str, kind: str, values: Mapping[Labels, float]) -> Iterator[str]:
    yield from _head(name, text, kind)
    for labels, value in values.items():
        yield _sample(name, labels, value)


def _head(name: str, text: str, kind: str) -> Iterable[str]:
    return (f"# HELP {name} {text}", f"# TYPE {name} {kind}")


def _sample(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{label}="{text}"' for label, text in labels)
    return f"{name}{{{inner}}} {float(value)}" if inner else f"{name} {float(value)}"
