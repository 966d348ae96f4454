"""The report of a child, and the slices in whose status it stands."""

from __future__ import annotations

from processhub.agent.children.child import Child
from processhub.api.child import PodWorkload
from processhub.api.reasons import State
from processhub.registry.grammar import Report, format_report, names_state, parse_assignment


def reporting_slices(child: Child) -> set[str]:
    """The slices that report the child: the one that names it, and the one that named the run that is still ending."""
    return {item.slice for item in (child.desired, child.started_for) if item is not None}


def awaits_pod(child: Child) -> bool:
    """Whether the child starts as a Pod, which the operator creates once the start is reported."""
    if child.status.state != State.STARTING or child.started_for is None:
        return False
    return isinstance(child.started_for.workload, PodWorkload)


def report_text(child: Child, slice_name: str) -> str | None:
    """The text of the child's entry in that slice's status, or None if it has none there."""
    report = report_in(child, slice_name)
    return None if report is None else format_report(report)


def last_report_text(child: Child, entry: str) -> str | None:
    """The text of the report of a child that ended with the agent, while ``entry`` of the slice still names it.

    None if the next agent needs no report. It needs to know that the child has taken up the state that its entry names:
    its former member may have a copy of it, with which the child would start again (docs/protocol.md, rule 20).
    """
    if child.desired is not None or not child.status.started_at or not names_state(entry):
        return None
    ordered = parse_assignment(entry)
    return format_report(
        Report(uid=ordered.uid, epoch=ordered.epoch, role=ordered.role, started_at=child.status.started_at)
    )


def report_in(child: Child, slice_name: str) -> Report | None:
    """The child's report in that slice's status, or None if it has none there."""
    subject = child.started_for
    if subject is None or subject.slice != slice_name:
        if child.desired is None or child.desired.slice != slice_name:
            return None
        if subject is not None:
            # The next incarnation is on record. It is Pending until nothing of the old one is left.
            entry = child.desired.assignment
            return Report(uid=entry.uid, epoch=entry.epoch, role=entry.role)
        subject = child.desired
    entry = subject.assignment
    return Report(
        uid=entry.uid,
        epoch=entry.epoch,
        role=entry.role,
        state=child.status.state,
        pid=child.status.pid,
        restarts=child.history.restarts,
        started_at=child.status.started_at,
        reason=child.status.reason,
        last_exit=child.status.last_exit,
        message=child.status.message,
        gave=child.handover.sent,
        kept=child.handover.kept,
        got=child.handover.received,
        claim=subject.claim,
        view=subject.view,
    )
