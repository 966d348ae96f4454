"""Child.status: what a Child's user sees, computed from the record and the members' reports, and written."""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from processhub.api.child import Child, ChildStatus, NodeStatus
from processhub.api.meta import Condition, merge_conditions
from processhub.api.reasons import Reason, Role, State
from processhub.controller.observe.members import Member
from processhub.core.acceptance import Refusal
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Unplaced
from processhub.registry.grammar import Assignment, Report

NODES_MAX = 100  # copies that a status lists, by the schema
_EXIT_MAX = 1024  # characters of lastExit, by the schema
_HAS_PROCESS = (State.STARTING, State.RUNNING, State.STOPPING)
_STARTING = {State.PENDING: Reason.PENDING, State.STARTING: Reason.STARTING, State.STOPPING: Reason.STOPPING}


class Copy(msgspec.Struct, frozen=True):
    """One copy of a child: the entry and what its member reports of it (None: nothing, or of another epoch)."""

    member: Member
    entry: Assignment | None
    report: Report | None


def copies_of(child_id: str, members: Mapping[str, Member]) -> list[Copy]:
    """Where a child is on record or still reported, on record first."""
    return copies_by_id({child_id}, members).get(child_id, [])


def copies_by_id(ids: Set[str], members: Mapping[str, Member]) -> dict[str, list[Copy]]:
    """Where each of these children is on record or still reported, on record first; one look at each slice for all."""
    copies: dict[str, list[Copy]] = {}
    for member in members.values():
        for known in member.slices:
            # What a member that is gone said last is nothing that it runs.
            speaks = known.present.status.holder == member.holder and member.phase is not Phase.GONE
            here = ids & known.assignments.keys()
            for child_id in here | (ids & known.reports.keys()) if speaks else here:
                report = known.reports.get(child_id) if speaks else None
                copies.setdefault(child_id, []).append(Copy(member, known.assignments.get(child_id), report))
    for found in copies.values():
        found.sort(key=order)
    return copies


def order(copy: Copy) -> tuple[bool, bool, bool]:
    """The key that puts what is on record first, the active one before the others."""
    entry = copy.entry
    return entry is None, entry is not None and entry.wait, entry is not None and entry.role != Role.ACTIVE


def node_of(copy: Copy) -> NodeStatus:
    """The copy as status.nodes shows it."""
    pod = copy.member.pod.metadata.name if copy.member.pod else ""
    entry, report = copy.entry, copy.report
    # One that was promoted runs on, though it may not have heard of its new epoch yet.
    current = entry is None or (
        report is not None and report.uid == entry.uid and report.epoch in (entry.epoch, entry.run)
    )
    if entry is not None and entry.asleep:
        return _asleep(copy, pod, entry)
    if report is None or not current or copy.member.phase is Phase.GONE or copy.member.judgement.restarting:
        # Not reported yet, or nobody is there to run it: on record only.
        assert entry is not None or report is not None
        known = entry or report
        assert known is not None
        return NodeStatus(name=copy.member.name, pod=pod, role=known.role, state=State.PENDING, epoch=known.epoch)
    return NodeStatus(
        name=copy.member.name,
        pod=pod,
        role=report.role,
        state=State.STOPPING if entry is None else report.state,
        pid=report.pid,
        epoch=report.epoch,
        restarts=report.restarts,
        started_at=report.started_at,
        last_exit=report.last_exit[:_EXIT_MAX],
    )


def _asleep(copy: Copy, pod: str, entry: Assignment) -> NodeStatus:
    """A copy of a suspended child: Stopped, and Stopping until its member has ended it."""
    away = copy.member.phase is Phase.GONE or copy.member.judgement.restarting
    if copy.report is None or away or copy.report.state not in _HAS_PROCESS:
        return NodeStatus(name=copy.member.name, pod=pod, role=entry.role, state=State.STOPPED, epoch=entry.epoch)
    return NodeStatus(
        name=copy.member.name,
        pod=pod,
        role=copy.report.role,
        state=State.STOPPING,
        pid=copy.report.pid,
        epoch=copy.report.epoch,
        restarts=copy.report.restarts,
        started_at=copy.report.started_at,
    )


def child_status(
    child: Child,
    copies: list[Copy],
    refusal: Refusal | None,
    unplaced: Unplaced | None,
    now: str,
    first_started_at: str = "",
) -> ChildStatus:
    """The status; ``now`` (RFC 3339) marks conditions that changed."""
    own = [copy for copy in copies if (copy.entry or copy.report) is not None and _uid(copy) == child.metadata.uid]
    nodes = tuple(node_of(copy) for copy in own)
    generation = child.metadata.generation
    conditions = (
        _accepted(refusal, generation),
        _placed(own, refusal, unplaced, generation),
        _ready(own, nodes, refusal, unplaced, generation),
    )
    first = nodes[0] if nodes else None
    return ChildStatus(
        conditions=merge_conditions(child.status.conditions, conditions, now),
        observed_generation=generation,
        id=child.id,
        member=first.name if first else "",
        role=first.role if first else "",
        state=first.state if first else (State.STOPPED if _is_suspended(refusal) else State.PENDING),
        first_started_at=first_started_at or child.status.first_started_at,
        nodes=nodes[:NODES_MAX],
    )


def _uid(copy: Copy) -> str:
    known = copy.entry or copy.report
    return known.uid if known else ""


def _is_suspended(refusal: Refusal | None) -> bool:
    return refusal is not None and refusal.reason is Reason.SUSPENDED


def _accepted(refusal: Refusal | None, generation: int) -> Condition:
    if refusal is None or _is_suspended(refusal):
        return Condition(type="Accepted", status="True", reason=Reason.ACCEPTED, observed_generation=generation)
    return Condition(
        type="Accepted",
        status="False",
        reason=refusal.reason,
        message=refusal.message,
        observed_generation=generation,
    )


def _placed(own: list[Copy], refusal: Refusal | None, unplaced: Unplaced | None, generation: int) -> Condition:
    def condition(status: str, reason: str, message: str) -> Condition:
        return Condition(type="Placed", status=status, reason=reason, message=message, observed_generation=generation)

    on_record = [copy for copy in own if copy.entry is not None and not copy.entry.wait]
    if unplaced is not None:
        return condition("False", unplaced.reason, unplaced.message)
    if on_record:
        message = f"on {on_record[0].member.name}"
        if len(own) > NODES_MAX:
            message += f"; status.nodes has {NODES_MAX} of its {len(own)} copies"
        return condition("True", Reason.PLACED, message)
    if refusal is not None:
        return condition("False", refusal.reason, refusal.message)
    return condition("False", Reason.WAITING, "waiting to be placed")


def _ready(
    own: list[Copy],
    nodes: tuple[NodeStatus, ...],
    refusal: Refusal | None,
    unplaced: Unplaced | None,
    generation: int,
) -> Condition:
    def condition(status: str, reason: str, message: str = "") -> Condition:
        return Condition(type="Ready", status=status, reason=reason, message=message, observed_generation=generation)

    runs = bool(nodes) and nodes[0].state == State.RUNNING
    if unplaced is not None and unplaced.reason is Reason.PARTITIONED and not runs:
        return condition("False", Reason.PARTITIONED, unplaced.message)
    if not nodes:
        if refusal is not None:
            return condition("False", refusal.reason, refusal.message)
        return condition("False", Reason.PENDING, "not placed yet")
    node, report, entry = nodes[0], own[0].report, own[0].entry
    if entry is not None and entry.asleep:
        stopping = next((node.name for node in nodes if node.state == State.STOPPING), "")
        if stopping:
            return condition("False", Reason.STOPPING, f"stopping on {stopping}")
        if refusal is not None:
            return condition("False", refusal.reason, refusal.message)
        if unplaced is not None:
            return condition("False", unplaced.reason, unplaced.message)
    if node.state == State.RUNNING:
        if own[0].entry is not None:
            return condition("True", Reason.STARTED, f"running on {node.name}")
        return condition("False", Reason.STOPPING, f"stopping on {node.name}")
    if node.state == State.PENDING and own[0].member.judgement.restarting:
        return condition("False", Reason.PENDING, f"member {node.name} restarts; started again when it is back")
    if report is None or (node.state == State.PENDING and not report.reason):
        return condition("False", Reason.PENDING, f"waiting for member {node.name} to start it")
    reason = report.reason or _STARTING.get(State(node.state), Reason.COMPLETED)
    return condition("False", reason, report.message or node.last_exit)
