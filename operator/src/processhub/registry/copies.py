"""One copy of a child: the entry that a member has for it, joined with the member's report.

A member may report another incarnation than its entry names: the child was stopped and started again, it was deleted
and another child has its id, or the member has not read the entry yet. Everything that shows a copy takes its state
from here, so that all of them agree.

| entry                | report                           | state                            |
| -------------------- | -------------------------------- | -------------------------------- |
| asks for a run       | none, or of another incarnation  | Pending                          |
| asks for a run       | of this incarnation              | as reported                      |
| of a suspended child | none, or without a process       | Stopped                          |
| of a suspended child | with a process                   | Stopping: the process must end   |
| none                 | of a child with an earlier entry | Stopping: the process must end   |
| none                 | of a run that is not on record   | as reported                      |

A member runs a child that is not on record after a local takeover, and where it has started the child by itself. It
reports the latter in its slice 0. The entry may come into another of its slices: until it reports the child there, the
report in slice 0 is that of the entry (``joined``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from processhub.api.reasons import CRASH_ROUND, WAITED_FOR, Reason, State
from processhub.registry.grammar import (
    NOBODY,
    Assignment,
    EntryError,
    Report,
    has_state,
    parse_assignment,
    parse_report,
    same_incarnation,
    waits,
)

Known = TypeVar("Known", Assignment, Report)
HAS_PROCESS = (State.STARTING, State.RUNNING, State.STOPPING)


def of_a_child(known: Known | None) -> Known | None:
    """The entry or the report, or None if it stands for no child and so is not to be shown."""
    return None if known is None or known.uid == NOBODY else known


def is_current(entry: Assignment, report: Report | None) -> bool:
    """Whether the report is about the incarnation that the entry names: the uid and the epoch are the same.

    A promoted copy may not have read its new epoch yet, so a report of the epoch of its start counts too.
    This proves nothing about other incarnations: to prove that one has ended, the report must have the very epoch of
    the entry.
    """
    if report is None or report.uid != entry.uid:
        return False
    return report.epoch == entry.epoch or report.epoch == entry.started_with


def has_ended(report: Report) -> bool:
    """Whether the member does not start the incarnation again: it has finished, or exceeded the limit of restarts."""
    return report.state == State.STOPPED or report.reason == Reason.RESTARTS_EXCEEDED


def only_restarts(before: Report, after: Report) -> bool:
    """Whether an incarnation has only moved on in its loop of failing, waiting and starting again."""
    return (
        before.state in CRASH_ROUND
        and after.state in CRASH_ROUND
        and before.reason not in WAITED_FOR
        and after.reason not in WAITED_FOR
        and _lasting(before) == _lasting(after)
    )


def _lasting(report: Report) -> Report:
    """The report without the fields that each round of a crash loop changes."""
    return msgspec.structs.replace(
        report, state="", pid=0, restarts=0, started_at="", reason="", last_exit="", message=""
    )


AnyCopy = TypeVar("AnyCopy", bound="Copy")


class Copy(msgspec.Struct, frozen=True, gc=False):
    """The entry and the report of a child in one member's slice; one of them may be missing."""

    member: str
    entry: Assignment | None
    report: Report | None

    @property
    def current(self) -> bool:
        """Whether the report is about the incarnation that the entry names."""
        return self.entry is not None and is_current(self.entry, self.report)

    @property
    def shown(self) -> Report | None:
        """The report to show for this copy; None if only the entry is to be shown."""
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
            return shown.state if shown.claim or shown.view else State.STOPPING
        return State.STOPPING if entry.asleep else shown.state

    @property
    def self_started(self) -> bool:
        """Whether the member has started the child by itself, and it is not on record yet."""
        return self.entry is None and self.report is not None and bool(self.report.view)

    @property
    def running(self) -> bool:
        """Whether the copy runs."""
        return self.state == State.RUNNING

    @property
    def waiting(self) -> bool:
        """Whether the copy is on record, but not to be started yet."""
        return self.entry is not None and self.entry.wait

    def concerns(self, uid: str) -> bool:
        """Whether the entry or the report is about the child with this uid."""
        return (self.entry is not None and self.entry.uid == uid) or (
            self.report is not None and self.report.uid == uid
        )


def joined(copies: Sequence[AnyCopy]) -> Sequence[AnyCopy]:
    """The copies of one child, those of a run by its entry and by the report of the member that has started it as one.

    There is one copy for each slice in ``copies``.
    """
    if len(copies) < 2 or not any(copy.self_started for copy in copies):
        return copies
    started = {copy.member: copy for copy in copies if copy.self_started}
    found: list[AnyCopy] = []
    used: set[str] = set()
    for copy in copies:
        own = started.get(copy.member)
        if copy.entry is not None and copy.report is None and own is not None and is_current(copy.entry, own.report):
            copy = msgspec.structs.replace(copy, report=own.report)
            used.add(copy.member)
        found.append(copy)
    return [copy for copy in found if not (copy.self_started and copy.member in used)]


def parse_copy(member: str, entry: str | None, report: str | None) -> Copy | None:
    """Parse the texts of an entry and a report into a copy. An unreadable text counts as absent; None without both."""
    ordered = reported = None
    with contextlib.suppress(EntryError):
        ordered = parse_assignment(entry) if entry else None
    with contextlib.suppress(EntryError):
        reported = parse_report(report) if report else None
    return Copy(member, ordered, reported) if ordered or reported else None


def is_running(entry: str | None, report: str) -> bool:
    """Whether a copy runs, by the texts of its entry and its report. They are parsed only if necessary."""
    if not has_state(report, State.RUNNING):
        return False
    if entry is not None and not waits(entry) and same_incarnation(entry, report):
        return True
    copy = parse_copy("", entry, report)
    return copy is not None and copy.running
