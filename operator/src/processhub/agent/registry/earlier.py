"""Reports that were written before this agent knew their children: by an earlier agent of this member, or by itself."""

from __future__ import annotations

import contextlib

from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.registry.copies import has_ended, is_current
from processhub.registry.grammar import EntryError, Report, parse_report


class EarlierReports:
    """The reports in this member's own slices that another holder of its Lease has written.

    Of the agent's own reports those count by which a child has ended for good. It does not know the child any more
    where the slice was out of sight, as one whose label somebody takes off.
    """

    def __init__(self, slices: SliceWatcher, holder: str) -> None:
        self._slices, self._holder = slices, holder

    def of(self, child_id: str, desired: DesiredRun) -> Report | None:
        """The earlier report of the same incarnation of the child, or None if there is none.

        A child that was edited after it had taken up the state that its entry names has taken it up all the same.
        """
        item = self._slices.own_slice(desired.slice)
        text = item.status.reports.get(child_id) if item is not None else None
        if item is None or text is None:
            return None
        with contextlib.suppress(EntryError):
            report, entry = parse_report(text), desired.assignment
            if item.status.holder == self._holder:
                return report if is_current(entry, report) and has_ended(report) else None
            if is_current(entry, report):
                return report
            if entry.state and report.uid == entry.uid:
                return Report(uid=entry.uid, epoch=entry.epoch, started_at=report.started_at)
        return None
