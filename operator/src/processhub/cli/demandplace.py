"""Sentences of ``kubectl hub explain`` about a child that a request has started: how it came there, when it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from processhub.api.hub import Hub, OnDemand
from processhub.api.reasons import Reason
from processhub.client.demand import by_what, chosen_by, view_of
from processhub.client.records import Record
from processhub.client.session import Session
from processhub.cluster.timestamps import unix_time


def how_started(record: Record) -> list[str]:
    """How it was started, and whether it is on record."""
    node = record.nodes[0]
    if not record.on_record:
        return [f"a request had {node.name} start it by itself; the operator has not put it on record yet"]
    if not node.started_at:
        return ["a request has started it"]
    return [f"a request has started it; its present run began at {node.started_at}"]


def by_choice(session: Session, child_id: str, record: Record) -> str:
    """What has chosen its member: the view, or the member that was asked; "" if the hub's strategy has."""
    here, strategy = record.nodes[0].name, session.living_hub().spec.distribution.strategy
    order = view_of(session)
    if order is not None and chosen_by(order, child_id) == here:
        return f"view {order.view} has {here} for its id by {by_what(order, child_id)}, whatever the load"
    if strategy == "Local":
        return f"{here} was asked for it, or the hash chose it because that member was away or full (Local)"
    return ""


def when_it_ends(hub: Hub, record: Record) -> list[str]:
    """What ends the child without an order to stop it."""
    template = hub.spec.on_demand
    if template is None:
        return ["it is ended, because the hub has no spec.onDemand any more"]
    sentences = []
    if _is_former(template, record):
        sentences.append("it runs the former spec.onDemand, and is restarted with the present one when its turn comes")
    node = record.nodes[0]
    if template.ttl_seconds is not None:
        seconds = f"{template.ttl_seconds} s after its first start (spec.onDemand.ttlSeconds)"
        started = unix_time(node.started_at)
        if started is not None and not node.restarts:
            ends = datetime.fromtimestamp(started, UTC) + timedelta(seconds=template.ttl_seconds)
            sentences.append(f"it ends at {ends:%Y-%m-%dT%H:%M:%SZ}, {seconds}, or earlier if it has been moved")
        else:
            sentences.append(f"it ends {seconds}")
    if template.idle_seconds and node.reason == Reason.IDLE:
        sentences.append(f"it is ended, because no request came for {template.idle_seconds} s")
    elif template.idle_seconds:
        sentences.append(f"it ends when no request has come for {template.idle_seconds} s (spec.onDemand.idleSeconds)")
    return sentences or ["it runs until it is stopped: spec.onDemand has neither ttlSeconds nor idleSeconds"]


def _is_former(template: OnDemand, record: Record) -> bool:
    spec = record.spec
    mine, theirs = (spec.exec, spec.python, spec.pod), (template.exec, template.python, template.pod)
    return mine not in (theirs, (None, None, None))
