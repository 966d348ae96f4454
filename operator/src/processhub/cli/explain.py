"""``kubectl hub explain``: why a child is where it is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec

from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.cli.durations import age
from processhub.cli.errors import DONE, CliError
from processhub.cli.options import Output, Target
from processhub.cli.output import out, structured, table
from processhub.cli.target import opened
from processhub.client.records import Record
from processhub.client.resolve import find_children
from processhub.client.session import Session, translated
from processhub.cluster.kinds import untyped
from processhub.core.placement import Candidate, load_caps, rank

_EVENTS = untyped("v1", "events")


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All that bears on a child's place; ``events`` are ``(time, reason, message)``, oldest first."""

    child_id: str
    hub: Hub
    child: Child | None
    record: Record | None
    choices: list[Choice]
    reasons: list[str]
    events: list[tuple[str, str, str]]


class Choice(msgspec.Struct, frozen=True, rename="camel"):
    """A member as a candidate for the child; ``cap`` is the most children it may have when one is placed."""

    member: str
    ready: bool
    weight: int
    score: float
    children: int
    cap: int


async def explain(child_id: str, target: Target) -> int:
    """Print all that bears on the child's place; the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        hub = session.living_hub()
        record = session.registry.records.get(child_id)
        with translated(f"child {child_id!r} can't be explained"):
            child = (await find_children(session, [child_id])).get(child_id)
            if child is None and record is None:
                raise CliError(f"no child {child_id!r} in hub {session.name} of namespace {session.namespace}")
            events = await _history(session, child) if child else []
        choices = candidates(hub, child_id, session.registry.records)
        found = Explanation(
            child_id=child_id,
            hub=hub,
            child=child,
            record=record,
            choices=choices,
            reasons=why(hub, child, record, choices),
            events=events,
        )
        if target.output is Output.TABLE:
            _print(found)
        elif target.output is Output.NAME:
            out(f"child/{child.metadata.name}" if child else child_id)
        else:
            structured(_plain(found), target.output)
    return DONE


def candidates(hub: Hub, child_id: str, records: dict[str, Record]) -> list[Choice]:
    """The hub's members, the one the child is drawn to most first."""
    loads = Counter(node.name for record in records.values() for node in record.nodes if not node.waiting)
    members = {member.name: member for member in hub.status.members}
    weights = {name: hub.spec.members.weights.get(name, 1) for name in members}
    open_weights = {name: weight for name, weight in weights.items() if members[name].ready}
    total = sum(loads.values()) + (0 if child_id in records else 1)
    caps = load_caps(total, open_weights, hub.spec.distribution.load_cap_percent)
    limit = hub.spec.members.max_children
    drawn = rank(child_id, [Candidate(name, weight) for name, weight in weights.items()])
    return [
        Choice(
            member=name,
            ready=members[name].ready,
            weight=weights[name],
            score=round(score, 4),
            children=loads[name],
            cap=min(caps.get(name, 0), limit),
        )
        for name, score in drawn
    ]


def why(hub: Hub, child: Child | None, record: Record | None, choices: list[Choice]) -> list[str]:
    """The sentences that tell it, in the order in which the operator decides."""
    strategy = hub.spec.distribution.strategy
    if record is None:
        held_back = [condition for condition in (child.status.conditions if child else ()) if _holds_back(condition)]
        said = [f"{condition.reason}: {condition.message}" for condition in held_back]
        return said or ["the operator has not answered yet"]
    here = record.nodes[0].name
    sentences = []
    if child and child.spec.nodes:
        sentences.append(f"its spec.nodes names {', '.join(child.spec.nodes)} ({strategy})")
    elif strategy == "ConsistentHashing" and choices:
        names = [choice.member for choice in choices if choice.weight > 0]
        place = names.index(here) + 1 if here in names else 0
        if place == 1:
            sentences.append(f"{here} has the highest score of the {len(names)} members")
        elif place:
            sentences.append(
                f"{here} is its choice number {place}: when it was placed, {', '.join(names[: place - 1])} was full "
                "(loadCapPercent), away or not yet there; a child on record stays where it is"
            )
        else:
            sentences.append(f"{here} is no member any more; the child moves when it is proven to have stopped there")
    if child and child.spec.pinned:
        sentences.append("it is pinned: never moved, it waits for its member")
    if any(node.waiting for node in record.nodes):
        waiting = next(node.name for node in record.nodes if node.waiting)
        if waiting == here:  # an edit in place
            sentences.append(f"{here} starts it anew when the pod that it had before its edit is gone")
        else:
            sentences.append(f"it is moving to {waiting}, which starts it when {here} has stopped it")
    if not record.alive:
        node = record.nodes[0]
        reason = f" ({node.reason}{': ' + node.message if node.message else ''})" if node.reason else ""
        sentences.append(f"it is {node.state} there{reason}")
    return sentences


def _holds_back(condition: Any) -> bool:
    return bool(condition.status != "True" and condition.type in ("Accepted", "Placed"))


async def _history(session: Session, child: Child) -> list[tuple[str, str, str]]:
    """``(time, reason, message)`` of the Events about the child, oldest first."""
    found, _ = await session.client.list(
        _EVENTS, session.namespace, fields=f"involvedObject.kind=Child,involvedObject.name={child.metadata.name}"
    )
    events = [event for event in found if isinstance(event, dict)]
    mine = [event for event in events if event.get("involvedObject", {}).get("uid") in ("", None, child.metadata.uid)]
    told = [
        (
            str(event.get("eventTime") or event.get("lastTimestamp") or ""),
            str(event.get("reason", "")),
            str(event.get("message", "")),
        )
        for event in mine
    ]
    return sorted(told)


def _print(found: Explanation) -> None:
    now = datetime.now(UTC)
    child, record, distribution = found.child, found.record, found.hub.spec.distribution
    out(f"Child:     {found.child_id}{f' (child/{child.metadata.name})' if child else ''}")
    out(
        f"Hub:       {found.hub.metadata.name} "
        f"({distribution.strategy}, loadCapPercent {distribution.load_cap_percent})"
    )
    if record:
        node = record.nodes[0]
        pid = f", pid {node.pid}" if node.pid else ""
        out(f"Member:    {node.name} ({node.state}{pid}, epoch {node.epoch}, {node.restarts} restarts)")
    else:
        out("Member:    none")
    for index, sentence in enumerate(found.reasons):
        out(f"{'Why:' if not index else '':<11}{sentence}")
    out("\nCandidates, by score:")
    rows = [
        (each.member, str(each.ready), str(each.weight), f"{each.score:.4f}", str(each.children), str(each.cap))
        for each in found.choices
    ]
    table(("MEMBER", "READY", "WEIGHT", "SCORE", "CHILDREN", "CAP"), rows)
    if child and child.status.conditions:
        out("\nConditions:")
        table(
            ("TYPE", "STATUS", "REASON", "AGE", "MESSAGE"),
            (
                (item.type, item.status, item.reason, age(item.last_transition_time, now), item.message)
                for item in child.status.conditions
            ),
        )
    if found.events:
        out("\nHistory:")
        table(("AGE", "REASON", "MESSAGE"), ((age(time, now), reason, text) for time, reason, text in found.events))


def _plain(found: Explanation) -> dict[str, Any]:
    record, child = found.record, found.child
    return {
        "id": found.child_id,
        "hub": found.hub.metadata.name,
        "strategy": found.hub.spec.distribution.strategy,
        "member": record.nodes[0].name if record else None,
        "pinned": bool(child and child.spec.pinned),
        "nodes": msgspec.to_builtins(record.nodes) if record else [],
        "why": found.reasons,
        "candidates": msgspec.to_builtins(found.choices),
        "conditions": msgspec.to_builtins(child.status.conditions) if child else [],
        "history": [{"time": time, "reason": reason, "message": text} for time, reason, text in found.events],
    }
