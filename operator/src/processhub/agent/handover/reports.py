"""Reports of a child's handover (docs/protocol.md, rules 20 and 21)."""

from __future__ import annotations

from processhub.agent.children.child import MESSAGE_MAX, Child
from processhub.registry.grammar import Given, HandoverOrder, Kept


def report_kept(child: Child, why: str, text: str = "") -> None:
    """Report that the state was not handed over; ``text`` adds an explanation for people."""
    if child.desired is not None and child.desired.assignment.to:
        epoch = HandoverOrder.parse(child.desired.assignment.to).epoch
        child.handover.kept = Kept(epoch, why, text[:MESSAGE_MAX]).format()
        child.changed(urgent=True)


def report_sent(child: Child, checksum: str) -> None:
    """Report that the target has the whole state."""
    if child.desired is not None and child.desired.assignment.to:
        child.handover.sent = Given(HandoverOrder.parse(child.desired.assignment.to).epoch, checksum).format()
        child.changed(urgent=True)


def report_received(child: Child, checksum: str) -> None:
    """Report that the state from the former member has arrived."""
    child.handover.received = checksum
    child.changed(urgent=True)


def report_lost(child: Child) -> None:
    """Report that the state was lost with an earlier agent of this member. The former member then sends it again."""
    if child.desired is not None and not child.handover.kept:
        child.handover.kept = Kept(child.desired.assignment.epoch, "lost").format()
        child.status.message = (
            "its state was lost with an earlier agent of this member; its former member sends it again"
        )
        child.changed(urgent=True)
