"""The reports of the children of one slice, as entries of its status."""

from __future__ import annotations

from itertools import islice

from processhub.agent.children.child import Child
from processhub.agent.children.report import awaits_pod, last_report_text, report_in, report_text
from processhub.agent.reporting.noise import FEW
from processhub.agent.reporting.statusfit import fit
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice, SliceStatus, stored_bytes
from processhub.registry.copies import only_restarts
from processhub.registry.grammar import parse_report, same_incarnation, shorten_report

_MANY = 8  # starts at once that are reported together
_ENVELOPE = 2048  # bytes of an object beside its spec and its status


class SliceReports:
    """The entries to report, taken from the changed children only when a status is composed."""

    def __init__(self) -> None:
        self.dirty: dict[str, Child] = {}  # by id: the children whose report may have changed
        self.observed = 0  # the observedGeneration to report: a child that is not listed then has ended
        self._spec_size = 0  # bytes of the spec as stored
        self._entries: dict[str, str] = {}
        self._turns: dict[str, int] = {}  # by id: how often the report of the child's present incarnation has changed
        self._named: dict[str, str] = {}  # the reports in the last status that was composed
        self._last: set[str] = set()  # ids of children that ended with the agent, and have a report for the next one

    def measure(self, item: RegistrySlice) -> None:
        """Take the size of a changed spec."""
        self._spec_size = stored_bytes(item.spec)

    def has(self, child_id: str) -> bool:
        """Whether the child has an entry."""
        return child_id in self._entries

    @property
    def many_start(self) -> bool:
        """Whether many of the children to report have begun to start, and have not come up yet.

        One write then reports all of them, when most are up.
        """
        starting = (child for child in self.dirty.values() if child.status.state == State.STARTING)
        return sum(1 for _ in islice(starting, _MANY)) == _MANY

    @property
    def only_wait(self) -> bool:
        """Whether all children to report wait for their state from another member. It is reported with its arrival."""
        return bool(self.dirty) and all(map(_waits, self.dirty.values()))

    def is_noise(self, child: Child, name: str) -> bool:
        """Whether the child only continues a crash loop of which some rounds are reported already."""
        before = self._entries.get(child.id)
        if before is None or self._turns.get(child.id, 0) < FEW or child.given_up:
            return False
        after, reported = report_in(child, name), parse_report(shorten_report(before, 0))
        if after is None or (awaits_pod(child) and reported.state != State.STARTING):
            return False
        return only_restarts(reported, after)

    def object_bytes(self, status: SliceStatus) -> int:
        """The bytes that the slice takes with this status."""
        return self._spec_size + stored_bytes(status) + _ENVELOPE

    def compose(self, item: RegistrySlice, beside: int = 0, *, observes: bool = True) -> dict[str, str]:
        """The reports to write into the slice's status. ``beside``: bytes of the status beside them.

        ``observes``: the present generation may be acknowledged.
        """
        entries = item.spec.entries
        for child_id, child in self.dirty.items():
            text = report_text(child, item.metadata.name)
            if text is None and (text := last_report_text(child, entries.get(child_id, ""))) is not None:
                self._last.add(child_id)
            self._enter(child_id, text)
        self.dirty.clear()
        for child_id in self._last - entries.keys():
            self._enter(child_id, None)
        self._named, whole = fit(self._entries, item.spec, self._spec_size, self._named, beside)
        if whole and observes:
            self.observed = item.metadata.generation
        return self._named

    def _enter(self, child_id: str, text: str | None) -> None:
        """Take a child's report (None: it has none), and count how often its present incarnation has changed it."""
        if text is None:
            self._entries.pop(child_id, None)
            self._turns.pop(child_id, None)
            return
        before, self._entries[child_id] = self._entries.get(child_id), text
        if before is None or not same_incarnation(before, text):
            self._turns.pop(child_id, None)
        elif before != text:
            self._turns[child_id] = self._turns.get(child_id, 0) + 1


def _waits(child: Child) -> bool:
    waits = child.desired is not None and child.desired.assignment.wait
    return waits and not (child.alive or child.handover.received or child.handover.kept)
