"""One copy of a child: the entry that a member has for it, joined with what the member reports.

A member may report another incarnation than its entry means: the child was stopped and started again, it was deleted
and another has its id, or the member has not read the entry yet. Every surface that shows a copy takes its state from
here, so that all of them agree.

| entry                | report                           | state                            |
| -------------------- | -------------------------------- | -------------------------------- |
| asks for a run       | none, or of another incarnation  | Pending                          |
| asks for a run       | of this incarnation              | as reported                      |
| of a suspended child | none, or of no process of it     | Stopped                          |
| of a suspended child | of a process of it               | Stopping: the process has to end |
| none                 | of a child with an entry before  | Stopping: the process has to end |
| none                 | of one whose owner is cut off    | as reported                      |
"""

from __future__ import annotations

import contextlib

import msgspec

from processhub.api.reasons import State
from processhub.registry.grammar import (
    Assignment,
    EntryError,
    Report,
    has_state,
    parse_assignment,
    parse_report,
    same_incarnation,
    waits,
)

HAS_PROCESS = (State.STARTING, State.RUNNING, State.STOPPING)


def is_current(entry: Assignment, report: Report | None) -> bool:
    """Whether the report is about the incarnation that the entry means: the uid and the epoch are the same.

    One that was promoted runs on, though it may not have heard of its new epoch yet: the epoch of its start counts too.
    That proves nothing of other incarnations: a proof that one has ended needs a report of the very epoch of the entry.
    """
    if report is None or report.uid != entry.uid:
        return False
    return report.epoch == entry.epoch or report.epoch == entry.started_with


class Copy(msgspec.Struct, frozen=True):
    """What the slice of a member says of a child: the entry of its spec, the report of its status, or both."""

    member: str
    entry: Assignment | None
    report: Report | None

    @property
    def current(self) -> bool:
        """Whether the report is about the incarnation that the entry means."""
        return self.entry is not None and is_current(self.entry, self.report)

    @property
    def shown(self) -> Report | None:
        """The report, where it is the one to show for this copy; None where the entry is all there is to show."""
        entry, report = self.entry, self.report
        if entry is None or report is None:
            return report
        if entry.asleep:
            return report if report.uid == entry.uid and report.state in HAS_PROCESS else None
        return report if self.current else None

    @property
    def state(self) -> str:
        """The state of the copy, by the table of this module."""
        entry, shown = self.entry, self.shown
        if shown is None:
            return State.STOPPED if entry is not None and entry.asleep else State.PENDING
        if entry is None:
            return shown.state if shown.claim else State.STOPPING
        return State.STOPPING if entry.asleep else shown.state

    @property
    def running(self) -> bool:
        """Whether the copy runs."""
        return self.state == State.RUNNING

    @property
    def waiting(self) -> bool:
        """Whether the copy is on record and not to be started yet."""
        return self.entry is not None and self.entry.wait

    def concerns(self, uid: str) -> bool:
        """Whether the entry or the report is about this incarnation of the id."""
        return (self.entry is not None and self.entry.uid == uid) or (
            self.report is not None and self.report.uid == uid
        )


def parse_copy(member: str, entry: str | None, report: str | None) -> Copy | None:
    """The copy by the texts of its entry and its report. One that can't be read counts as absent; None without both."""
    ordered = reported = None
    with contextlib.suppress(EntryError):
        ordered = parse_assignment(entry) if entry else None
    with contextlib.suppress(EntryError):
        reported = parse_report(report) if report else None
    return Copy(member, ordered, reported) if ordered or reported else None


def is_running(entry: str | None, report: str) -> bool:
    """Whether a copy runs, by the texts of its entry and its report; parses them only where that is needed."""
    if not has_state(report, State.RUNNING):
        return False
    if entry is not None and not waits(entry) and same_incarnation(entry, report):
        return True
    copy = parse_copy("", entry, report)
    return copy is not None and copy.running
