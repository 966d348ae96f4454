"""Roll-outs of templates: how many children may be restarted with a changed one now, and when a roll-out stops.

A template is that of a ChildSet, or spec.onDemand of a Hub. One that can't run must not take all children down. So at
most ``maxFailed`` children are failed, or not yet proven, with the new template at one time. A child is proven when it
has been up for ``minReadySeconds``. For 40 children with the defaults (10 % and 2 s):

    second   restarted       proven   failed
    0        4               0        0
    2        4 more          4        0
    …
    18       the last 4      36       0

    0        4               0        0
    0.1      0               0        4        stopped: 36 run on with the former template

The children that wait for their turn are wanted with the workload that they have on record, whatever else happens to
them: one that is moved, or lost with its member, starts with that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import msgspec

from processhub.api.reasons import Reason, State
from processhub.controller.observe.members import Member
from processhub.controller.store.childsets import KnownSet
from processhub.registry.copies import is_current
from processhub.registry.grammar import Assignment, Report

_PERCENT = "%"


class Templated(msgspec.Struct, frozen=True):
    """The children of one template. ``ids``: those that are wanted. ``uid``: of the ChildSet, or the Hub.

    ``digest``: the hash of the template's workload. ``more``: children that run by an earlier template may still come
    on record.
    """

    uid: str
    digest: str
    ids: Collection[str]
    max_failed: int | str
    min_ready_seconds: int
    more: bool = False

    @property
    def bound(self) -> int:
        """The number of children that may fail with a changed template: a share is rounded up, and is 1 at least."""
        if isinstance(self.max_failed, int):
            return max(1, self.max_failed)
        return max(1, math.ceil(len(self.ids) * int(self.max_failed.removesuffix(_PERCENT)) / 100))


def of_set(known: KnownSet, *, more: bool = False) -> Templated:
    """The children of a ChildSet, or those on demand of a Hub. ``more``: as in ``Templated``."""
    return Templated(known.metadata.uid, known.digest, known.wanted, *known.pace, more)


class Rollout(msgspec.Struct, frozen=True):
    """The roll-out of one template in one round.

    ``held``: the former workload of each child whose turn has not come, by id. ``failed``: the children that fail with
    the present template. ``stopped``: no child's turn comes while they fail. ``again_in``: seconds until the next child
    is proven, if all goes well.
    """

    held: Mapping[str, str] = {}
    failed: tuple[str, ...] = ()
    stopped: bool = False
    again_in: float | None = None


class _Run(msgspec.Struct, frozen=True):
    """A run with the present template that is up: which one, and since when (monotonic seconds) it was seen."""

    epoch: int
    restarts: int
    since: float


class _Watched:
    """What is kept of one template while it is rolled out."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.done = False  # every child has the present template
        self.up: dict[tuple[str, str], _Run] = {}  # by id and member


class RolloutWatch:
    """The roll-outs of one hub. A new leader sees every run for the first time, and so waits for it to be proven."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}

    @property
    def under_way(self) -> bool:
        """Whether a child may still have an earlier template."""
        return any(not watch.done for watch in self._watched.values())

    def look(self, templates: Iterable[Templated], members: Mapping[str, Member], now: float) -> dict[str, Rollout]:
        """The roll-outs that are under way, by the uid of the ChildSet or the Hub."""
        watched = {each.uid: (each, self._of(each)) for each in templates}
        self._watched = {uid: watch for uid, (_, watch) in watched.items()}
        rolling = {uid: _Counts(each, watch) for uid, (each, watch) in watched.items() if not watch.done}
        if not rolling:
            return {}
        for member in members.values():
            for known_slice in member.slices:
                reports = {} if member.judgement.restarting else member.reports_in(known_slice)
                for child_id, entry in known_slice.assignments.items():
                    if (counts := rolling.get(entry.uid)) is not None:
                        report = reports.get(child_id)
                        current = report if report is not None and is_current(entry, report) else None
                        counts.add(member.name, child_id, entry, current, now)
        return {uid: rollout for uid, counts in rolling.items() if (rollout := counts.result(now)) is not None}

    def _of(self, template: Templated) -> _Watched:
        watch = self._watched.get(template.uid)
        return watch if watch is not None and watch.digest == template.digest else _Watched(template.digest)


class _Counts:
    """The children of one template, counted in one pass over their entries."""

    def __init__(self, template: Templated, watch: _Watched) -> None:
        self._template, self._watch = template, watch
        self._former: dict[str, str] = {}  # id → its workload, of those that have another than the template's
        self._begun: set[str] = set()  # those of which a copy has the template's already, or a hook's
        self._down: set[str] = set()  # those that have a copy that does not run
        self._failed: set[str] = set()
        self._unproven: set[str] = set()
        self._up: dict[tuple[str, str], _Run] = {}

    def add(self, member: str, child_id: str, entry: Assignment, report: Report | None, now: float) -> None:
        if entry.workload != self._template.digest and not entry.asked:
            if self._former.setdefault(child_id, entry.workload) != entry.workload:
                self._begun.add(child_id)  # its copies have two former ones, and can't wait with both
            if entry.asleep or (report is not None and report.state in (State.FAILED, State.STOPPED)):
                self._down.add(child_id)
            return
        self._begun.add(child_id)
        if report is None or entry.wait:
            self._unproven.add(child_id)
        elif report.state == State.RUNNING:
            key = (child_id, member)
            before = self._watch.up.get(key)
            if before is None or (before.epoch, before.restarts) != (report.epoch, report.restarts):
                before = _Run(report.epoch, report.restarts, now)
            self._up[key] = before
            if now - before.since < self._template.min_ready_seconds:
                (self._failed if report.restarts else self._unproven).add(child_id)
        elif report.state == State.STOPPED and report.reason == Reason.COMPLETED:
            pass  # it has done its work
        elif report.restarts or report.state in (State.FAILED, State.STOPPED):
            self._failed.add(child_id)
        else:
            self._unproven.add(child_id)

    def result(self, now: float) -> Rollout | None:
        """The roll-out, or None if every child has the template."""
        self._watch.up = self._up
        wanted = self._template.ids
        waiting = [child_id for child_id in wanted if child_id in self._former and child_id not in self._begun]
        if not waiting:
            self._watch.done = not self._template.more and not any(child_id in wanted for child_id in self._former)
            return None
        # The place of a child that fails, or of one that is down anyway, is taken by nobody else.
        bound = self._template.bound
        failed = tuple(child_id for child_id in wanted if child_id in self._failed)
        allowed = max(0, bound - len(self._failed | self._unproven))
        running = [child_id for child_id in waiting if child_id not in self._down]
        held = {child_id: self._former[child_id] for child_id in running[allowed:]}
        ready = self._template.min_ready_seconds
        waits = [run.since + ready - now for run in self._up.values() if now - run.since < ready]
        return Rollout(held, failed, bool(held) and len(failed) >= bound, min(waits, default=None))
