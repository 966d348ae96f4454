"""The operator's Prometheus metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from processhub.api.hub import Hub

LEADER = Gauge("processhub_leader", "1 where this replica leads")
TERM = Gauge("processhub_term", "Term of this leader")
CHILDREN = Gauge("processhub_hub_children", "Children that shall run", ["namespace", "hub"])
MEMBERS = Gauge("processhub_hub_members_live", "Members whose Lease is held", ["namespace", "hub"])
ROUND_SECONDS = Histogram("processhub_round_seconds", "Duration of one reconcile round of a hub")
PLAN_SECONDS = Histogram("processhub_plan_seconds", "Duration of plan()")
FAILED_ROUNDS = Counter("processhub_failed_rounds_total", "Rounds that ended with an error and are tried again")
HOOK_EVENTS = Counter("processhub_hook_events_total", "Events for hooks: delivered, failed or dropped", ["outcome"])


class HubStatuses(Collector):
    """The statuses of all Hubs, as ``kubectl get hub`` shows them. Only the leader has any."""

    def __init__(self) -> None:
        self._hubs: Callable[[], Iterable[Hub]] = tuple

    def follow(self, hubs: Callable[[], Iterable[Hub]]) -> None:
        """Report the Hubs that the function returns, from now on; with ``tuple``, none."""
        self._hubs = hubs

    def collect(self) -> Iterable[Metric]:
        """One series for each figure of each Hub."""
        conditions = GaugeMetricFamily(
            "processhub_hub_condition",
            "1 where the condition of the Hub is True, 0 where it is not.",
            labels=["namespace", "hub", "condition", "reason"],
        )
        pods = GaugeMetricFamily("processhub_hub_members", "Members that have a pod.", labels=["namespace", "hub"])
        ready = GaugeMetricFamily(
            "processhub_hub_members_ready", "Members that are ready.", labels=["namespace", "hub"]
        )
        children = GaugeMetricFamily(
            "processhub_hub_children_in_state",
            "Children that shall run, by state.",
            labels=["namespace", "hub", "state"],
        )
        for hub in self._hubs():
            key = list(hub.metadata.key)
            for condition in hub.status.conditions:
                conditions.add_metric([*key, condition.type, condition.reason], float(condition.status == "True"))
            pods.add_metric(key, hub.status.replicas or 0)
            ready.add_metric(key, hub.status.ready_replicas or 0)
            if (counts := hub.status.children) is not None:
                for state in ("running", "pending", "failed"):
                    children.add_metric([*key, state], getattr(counts, state))
        return conditions, pods, ready, children


HUBS = HubStatuses()
REGISTRY.register(HUBS)


def forget(key: tuple[str, str]) -> None:
    """Remove the series of a hub that is gone."""
    for gauge in (CHILDREN, MEMBERS):
        with contextlib.suppress(KeyError):
            gauge.remove(*key)
