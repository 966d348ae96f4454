"""The operator's Prometheus metrics."""

from __future__ import annotations

import contextlib

from prometheus_client import Counter, Gauge, Histogram

LEADER = Gauge("processhub_leader", "1 where this replica leads")
TERM = Gauge("processhub_term", "Term of this leader")
CHILDREN = Gauge("processhub_hub_children", "Children that shall run", ["namespace", "hub"])
MEMBERS = Gauge("processhub_hub_members_live", "Members whose Lease is held", ["namespace", "hub"])
ROUND_SECONDS = Histogram("processhub_round_seconds", "Duration of one reconcile round of a hub")
PLAN_SECONDS = Histogram("processhub_plan_seconds", "Duration of plan()")
FAILED_ROUNDS = Counter("processhub_failed_rounds_total", "Rounds that ended with an error and are tried again")
HOOK_EVENTS = Counter("processhub_hook_events_total", "Events for hooks: delivered, failed or dropped", ["outcome"])


def forget(key: tuple[str, str]) -> None:
    """Remove the series of a hub that is gone."""
    for gauge in (CHILDREN, MEMBERS):
        with contextlib.suppress(KeyError):
            gauge.remove(*key)
