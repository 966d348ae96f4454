"""The member's metrics, in Prometheus' text format.

The few that there are need no library. That of Prometheus takes 1 MiB of each member, with a web server of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

Asked = dict[str, Callable[[], int]]


class Family(NamedTuple):
    """The samples of one name: what they are, a help text, and the names of their labels."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()


_RESTARTS, _STARTS = "processhub_agent_child_restarts_total", "processhub_agent_child_start_seconds"
_WRITES, _REQUESTS = "processhub_agent_status_writes_total", "processhub_agent_requests_total"
_CHILDREN = "processhub_agent_children"
_START_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# The metrics that other parts count.
COUNTERS = {
    "processhub_agent_lease_renewals_total": Family("counter", "Successful renewals of the member's Lease."),
    "processhub_agent_lease_failures_total": Family("counter", "Failed renewals of the member's Lease."),
    "processhub_agent_casts_failed_total": Family(
        "counter", "Casts that were accepted, and that the child did not handle."
    ),
    "processhub_agent_log_lines_dropped_total": Family(
        "counter", "Lines of output dropped: the log is read too slowly."
    ),
}
GAUGES = {
    "processhub_agent_requests_waiting": Family("gauge", "Requests that wait for this member's children."),
}
FAMILIES = {
    _RESTARTS: Family("counter", "Restarts of this member's children."),
    _STARTS: Family("histogram", "From the order to start a child until it ran."),
    _WRITES: Family("counter", "Writes of slice status, by outcome.", ("outcome",)),
    _REQUESTS: Family(
        "counter",
        "Requests that callers sent to this member, by kind (call, cast) and by status of the answer.",
        ("kind", "status"),
    ),
    _CHILDREN: Family("gauge", "This member's children by state.", ("state",)),
    **COUNTERS,
    **GAUGES,
}


class Metrics:
    """The metrics of one member: some counted here, the others read from the parts when the metrics are requested."""

    def __init__(self) -> None:
        self._restarts = 0
        self._starts = [0] * (len(_START_BUCKETS) + 1)  # by bucket; the last one has those that took longest
        self._start_seconds = 0.0
        self._writes: Counter[str] = Counter()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._children: Callable[[], Mapping[str, int]] = dict
        self._elsewhere: Asked = {}

    def count_request(self, kind: str, status: int) -> None:
        """Count a caller's request."""
        self._requests[kind, status] += 1

    def count_write(self, outcome: str) -> None:
        """Count a write of a slice's status: ``written`` or ``failed``."""
        self._writes[outcome] += 1

    def child_started(self, _: object, seconds: float) -> None:
        """Count a start and the seconds that it took."""
        self._starts[bisect_left(_START_BUCKETS, seconds)] += 1
        self._start_seconds += seconds

    def child_restarted(self, _: object) -> None:
        """Count a restart."""
        self._restarts += 1

    def observe(self, children: Callable[[], dict[str, int]], elsewhere: Asked) -> None:
        """Add the number of children by state, and the values of all COUNTERS and GAUGES, by name."""
        self._children, self._elsewhere = children, elsewhere

    def text(self) -> bytes:
        """The metrics in the text format."""
        return "".join(f"{line}\n" for line in self._lines()).encode()

    def _lines(self) -> Iterator[str]:
        values: dict[str, Mapping[tuple[Any, ...], float]] = {
            _RESTARTS: {(): self._restarts},
            _WRITES: {(outcome,): count for outcome, count in self._writes.items()},
            _REQUESTS: self._requests,
            _CHILDREN: {(state,): count for state, count in self._children().items()},
            **{name: {(): value()} for name, value in self._elsewhere.items()},
        }
        for name, family in FAMILIES.items():
            yield f"# HELP {name} {family.text}"
            yield f"# TYPE {name} {family.kind}"
            if name == _STARTS:
                yield from self._start_lines()
            for labels, value in values.get(name, {}).items():
                yield _sample(name, dict(zip(family.labels, labels, strict=True)), value)

    def _start_lines(self) -> Iterator[str]:
        limits = (*map(str, _START_BUCKETS), "+Inf")
        for limit, count in zip(limits, accumulate(self._starts), strict=True):
            yield _sample(f"{_STARTS}_bucket", {"le": limit}, count)
        yield _sample(f"{_STARTS}_count", {}, sum(self._starts))
        yield _sample(f"{_STARTS}_sum", {}, self._start_seconds)


def _sample(name: str, labels: Mapping[str, object], value: float) -> str:
    inner = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inner}}} {float(value)}" if inner else f"{name} {float(value)}"
