"""``kubectl hub explain``: why a child is where it is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.movednodes import moved_nodes
from processhub.api.naming import ANNOTATION_NODES
from processhub.cli.conditions import print_conditions
from processhub.cli.demandplace import by_choice, how_started, when_it_ends
from processhub.cli.durations import age
from processhub.cli.errors import DONE, CliError
from processhub.cli.output import out, say, structured, table
from processhub.cli.shared import Output, Target
from processhub.cli.status import ready_of
from processhub.cli.target import opened, warn_of_unready
from processhub.client.demand import Outlook, outlook
from processhub.client.records import Record
from processhub.client.resolve import find_children, find_owner, named_like, no_child
from processhub.client.session import Session, translated
from processhub.cluster.errors import ForbiddenError
from processhub.cluster.kinds import untyped
from processhub.core.listing import counted
from processhub.core.model.placement import Candidate, child_key, load_caps, rank
from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies import MemberSlot, PlacementView
from processhub.core.strategies.hashing import Modulo

_EVENTS = untyped("v1", "events")
_MEMBERS_MAX = 3  # members that are named with the reason why they are not ready, for a child that has no place


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The data that ``explain`` prints. ``events`` are ``(time, reason, message)``, oldest first.

    ``outlook``: what a request would do, for a child that is on no record.
    """

    child_id: str
    hub: Hub
    child: Child | None
    owner: ChildSet | None  # the set that the child belongs to, if it has no Child object
    record: Record | None
    choices: list[Choice]
    reasons: list[str]
    events: list[tuple[str, str, str]]
    outlook: Outlook | None = None

    @property
    def on_demand(self) -> bool:
        """Whether a request has started the child."""
        return self.record is not None and self.record.on_demand


class Choice(msgspec.Struct, frozen=True, rename="camel"):
    """A member as a candidate for the child; ``cap`` is the most children it may have when one is placed there."""

    member: str
    ready: bool
    drained: bool
    weight: int
    score: float
    children: int
    cap: int


async def explain(child_id: str, target: Target) -> int:
    """Print why the child is where it is; returns the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        hub = session.living_hub()
        record = session.registry.records.get(child_id)
        with translated(f"child {child_id!r} can't be explained"):
            child = (await find_children(session, [child_id])).get(child_id)
            owner = await find_owner(session, child_id)
            if owner is not None and (child is None or record is not None):
                child = None  # the id belongs to the set's child; this Child waits for it
            else:
                owner = None
            asks = child or owner
            would = outlook(session, child_id) if asks is None and record is None else None
            if asks is None and record is None and would is None:
                raise CliError(await no_child(session, child_id))
            like = await named_like(session, child_id) if would is not None else ""
            if asks is not None:
                events = await _history(session, asks)
            else:
                events = await _history(session, hub, about=repr(child_id))
        warn_of_unready(session, {node.name for node in record.nodes} if record else set())
        choices = candidates(hub, child_id, session.registry.records)
        found = Explanation(
            child_id=child_id,
            hub=hub,
            child=child,
            owner=owner,
            record=record,
            choices=choices,
            reasons=[*filter(None, (like, would.says))] if would else _reasons(session, child_id, asks, choices),
            events=events,
            outlook=would,
        )
        if target.output is Output.TABLE:
            _print(found)
        elif target.output is Output.NAME:
            on_demand = session.on_demand(child_id) or would
            known = asks or (hub if on_demand else None)
            out(f"{known.kind.lower()}/{known.metadata.name}" if known else child_id)
        else:
            structured(_plain(found), target.output)
    return DONE


def _reasons(session: Session, child_id: str, asks: Child | ChildSet | None, choices: list[Choice]) -> list[str]:
    hub, record = session.living_hub(), session.registry.records.get(child_id)
    if record is None or not session.on_demand(child_id):
        return why(hub, asks, record, choices)
    choice = by_choice(session, child_id, record)
    because = [choice, *_now(hub, record)] if choice else why(hub, None, record, choices)
    return [*how_started(record), *because, *when_it_ends(hub, record)]


def candidates(hub: Hub, child_id: str, records: dict[str, Record]) -> list[Choice]:
    """The hub's members as candidates for the child, the highest score first."""
    loads = Counter(
        node.name for record in records.values() for node in record.nodes if not node.waiting or node.asleep
    )
    members = {member.name: member for member in hub.status.members}
    weights = {name: hub.spec.members.weights.get(name, 1) for name in members}
    drained = hub.drained
    open_weights = {name: weight for name, weight in weights.items() if members[name].ready and name not in drained}
    total = sum(loads.values()) + (0 if child_id in records else 1)
    caps = load_caps(total, open_weights, hub.spec.distribution.load_cap_percent)
    limit = hub.spec.members.max_children
    ranked = rank(child_id, [Candidate(name, weight) for name, weight in weights.items()])
    return [
        Choice(
            member=name,
            ready=members[name].ready,
            drained=name in drained,
            weight=weights[name],
            score=round(score, 4),
            children=loads[name],
            cap=min(caps.get(name, 0), limit),
        )
        for name, score in ranked
    ]


def why(hub: Hub, child: Child | ChildSet | None, record: Record | None, choices: list[Choice]) -> list[str]:
    """Sentences that explain the child's place, in the order in which the controller decides.

    ``child`` is the object that describes the child, or None if there is none any more.
    """
    strategy = hub.spec.distribution.strategy
    spec = child.spec.template if isinstance(child, ChildSet) else child.spec if child else None
    if record is None:
        kinds = ("Accepted", "Ready") if isinstance(child, ChildSet) else ("Accepted", "Placed")
        said = _held_back(child, *kinds)
        return [*(said or ["the operator has not answered yet"]), *_not_ready(hub)[:_MEMBERS_MAX]]
    here = record.nodes[0].name
    sentences = []
    if named := _named_by(hub, child):
        sentences.append(named)
    elif strategy == "ConsistentHashing" and choices:
        sentences.append(_by_hash(here, choices))
    elif strategy != "ConsistentHashing":
        sentences.append(by_strategy(hub, record.spec.id, spec.origin if spec else "", here))
    if spec and spec.pinned:
        sentences.append("it is pinned: never moved, it waits for its member")
    return [*sentences, *_now(hub, record), *(() if isinstance(child, ChildSet) else _held_back(child, "Placed"))]


def _held_back(child: Child | ChildSet | None, *kinds: str) -> list[str]:
    """What the conditions of these kinds say, where they are not true."""
    held_back = [found for found in (child.status.conditions if child else ()) if found.type in kinds]
    return list(dict.fromkeys(found.message or found.reason for found in held_back if found.status != "True"))


def _by_hash(here: str, choices: list[Choice]) -> str:
    """Why the hash has the child on ``here``."""
    names = [choice.member for choice in choices if choice.weight > 0]
    place = names.index(here) + 1 if here in names else 0
    if place == 1:
        return f"{here} has the highest score of the {counted(len(names), 'member', 'members')}"
    if place:
        return _later_choice(here, names[: place - 1])
    return f"{here} is not a member any more; the child moves when it is proven to have ended there"


def _now(hub: Hub, record: Record) -> list[str]:
    """What the child waits for, and why it does not run."""
    here, sentences = record.nodes[0].name, []
    if record.nodes[0].asleep:
        sentences.append("it is suspended, so it does not run; started there again when suspend is false")
    elif any(node.waiting for node in record.nodes):
        waiting = next(node.name for node in record.nodes if node.waiting)
        if waiting == here:  # a move whose source is no longer on record, or a pod child edited in place
            sentences.append(f"{here} starts it as soon as what ran for it before has ended")
        else:
            sentences.append(f"it is moving to {waiting}, which starts it when {here} has stopped it")
    sentences += _not_ready(hub, here)
    if hub.partitioned:
        sentences.append(f"the hub has lost its quorum: {hub.partitioned}")
    if not record.alive:
        node = record.nodes[0]
        said = node.reason if node.reason != node.state else ""
        reason = f" ({said}{': ' + node.message if node.message else ''})" if said else ""
        sentences.append(f"it is {node.state} there{reason}")
    return sentences


def _named_by(hub: Hub, child: Child | ChildSet | None) -> str:
    """What names the members of a guided child, or ""."""
    strategy = hub.spec.distribution.strategy
    if strategy != "Guided":
        return ""
    if isinstance(child, Child) and (moved := moved_nodes(child)):
        return f"moved to {', '.join(moved)} by hand; there until its spec.nodes is edited ({ANNOTATION_NODES})"
    nodes = () if child is None else (child.spec.template if isinstance(child, ChildSet) else child.spec).nodes
    return f"its spec.nodes names {', '.join(nodes)} ({strategy})" if nodes else ""


def _later_choice(here: str, better: list[str]) -> str:
    """Why the child is on ``here``, although it scores higher on the members ``better``."""
    were = "was" if len(better) == 1 else "were"
    return (
        f"{here} is its choice number {len(better) + 1}: when it was placed, {', '.join(better)} {were} full "
        "(loadCapPercent), drained, away or not yet there, or it was moved by hand; a child on record stays where it is"
    )


def _not_ready(hub: Hub, name: str = "") -> list[str]:
    """Why members are not ready, with ``name`` that one."""
    members = [member for member in hub.status.members if member.message and name in ("", member.name)]
    return [f"member {member.name} is not ready: {member.message}" for member in members]


def by_strategy(hub: Hub, child_id: str, origin: str, here: str) -> str:
    """Explain the child's place by the hub's strategy, as far as that can be known afterwards."""
    strategy = hub.spec.distribution.strategy
    stays = "a child on record stays where it is"
    if strategy == "Modulo":
        order = [member.name for member in hub.status.members]
        slots = tuple(MemberSlot(name=name) for name in order)
        child = DesiredChild(id=child_id, uid="", key=child_key(child_id), workload="")
        home = order[int(Modulo().homes([child], PlacementView(spec=hub.spec, slots=slots))[0])] if order else ""
        if home == here:
            return f"{here} is the member of its number (Modulo)"
        return (
            f"its member by number is {home}; while that is away or full, the hash decides; it returns when that joins"
        )
    known = {member.name for member in hub.status.members}
    if strategy in ("Local", "NotLocal") and origin and origin not in known:
        return f"its origin {origin} is no member of the hub: {here} by the hash ({strategy})"
    if strategy == "Local" and origin:
        if origin == here:
            return f"{here} is its origin (Local)"
        return f"its origin is {origin}; while that is away or full, the hash decides; it returns when that joins"
    if strategy == "NotLocal" and origin:
        if origin == here:
            return f"{here} is its origin: no other member could take it (NotLocal, notLocalFallback)"
        return f"any member but its origin {origin} may have it, by the hash (NotLocal)"
    if strategy == "RoundRobin":
        return f"it went to {here} by turns (RoundRobin), or by the hash after a loss; {stays}"
    if strategy == "LeastLoaded":
        return f"{here} was the least loaded member when it was placed (LeastLoaded); {stays}"
    if strategy in ("Local", "NotLocal"):
        return f"it has no origin: {here} by the hash ({strategy})"
    return f"placed by the strategy {strategy}"


async def _history(session: Session, child: Child | ChildSet | Hub, about: str = "") -> list[tuple[str, str, str]]:
    """``(time, reason, message)`` of the Events about the object whose messages name ``about``, oldest first."""
    fields = f"involvedObject.kind={child.kind},involvedObject.name={child.metadata.name}"
    try:
        found, _ = await session.client.list(_EVENTS, session.namespace, fields=fields)
    except ForbiddenError as error:
        say(f"warning: its history is not shown: {error.message}")
        return []
    events = [event for event in found if isinstance(event, dict)]
    mine = [event for event in events if event.get("involvedObject", {}).get("uid") in ("", None, child.metadata.uid)]
    found_events = [
        (
            str(event.get("eventTime") or event.get("lastTimestamp") or ""),
            str(event.get("reason", "")),
            str(event.get("message", "")),
        )
        for event in mine
        if about in str(event.get("message", ""))
    ]
    return sorted(found_events)


def _print(found: Explanation) -> None:
    now = datetime.now(UTC)
    child, record, distribution = found.child or found.owner, found.record, found.hub.spec.distribution
    out(f"Child:     {found.child_id}{f' (child/{found.child.metadata.name})' if found.child else ''}")
    if found.owner:
        out(f"ChildSet:  {found.owner.metadata.name} (it has no Child object; conditions and history are the set's)")
    if found.on_demand:
        out("On demand: yes (a request has started it; it has no object)")
    out(
        f"Hub:       {found.hub.metadata.name} "
        f"({distribution.strategy}, loadCapPercent {distribution.load_cap_percent})"
    )
    if record:
        node = record.nodes[0]
        pid = f", pid {node.pid}" if node.pid else ""
        restarts = counted(node.restarts, "restart", "restarts")
        out(f"Member:    {node.name} ({node.state}{pid}, epoch {node.epoch}, {restarts})")
    else:
        out("Member:    none")
    if record and len(record.nodes) > 1:
        out("\nCopies:")
        table(
            ("MEMBER", "ROLE", "STATE", "PID", "EPOCH", "RESTARTS"),
            (
                (node.name, node.role, node.state, str(node.pid or ""), str(node.epoch), str(node.restarts))
                for node in record.nodes
            ),
        )
        out("")
    for index, sentence in enumerate(found.reasons):
        out(f"{'Why:' if not index else '':<11}{sentence}")
    out("\nCandidates, by score:")
    table(("MEMBER", "READY", "WEIGHT", "SCORE", "CHILDREN", "CAP"), map(_choice_row, found.choices))
    print_conditions(child.status.conditions if child else (), now)
    if found.events:
        out("\nHistory:")
        table(("AGE", "REASON", "MESSAGE"), ((age(time, now), reason, text) for time, reason, text in found.events))


def _choice_row(each: Choice) -> tuple[str, ...]:
    ready = ready_of(each.ready, each.drained)
    return (each.member, ready, str(each.weight), f"{each.score:.4f}", str(each.children), str(each.cap))


def _plain(found: Explanation) -> dict[str, Any]:
    record, child = found.record, found.child or found.owner
    spec = child.spec.template if isinstance(child, ChildSet) else child.spec if child else None
    return {
        "id": found.child_id,
        "hub": found.hub.metadata.name,
        "strategy": found.hub.spec.distribution.strategy,
        "member": record.nodes[0].name if record else None,
        "childSet": found.owner.metadata.name if found.owner else None,
        "onDemand": found.on_demand,
        "onRecord": bool(record and record.on_record),
        "wouldStartOn": found.outlook.member or None if found.outlook else None,
        "pinned": bool(spec and spec.pinned),
        "nodes": msgspec.to_builtins(record.nodes) if record else [],
        "why": found.reasons,
        "candidates": msgspec.to_builtins(found.choices),
        "conditions": msgspec.to_builtins(child.status.conditions) if child else [],
        "history": [{"time": time, "reason": reason, "message": text} for time, reason, text in found.events],
    }
