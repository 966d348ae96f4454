"""ChildSet.status: how many of its children are wanted, run, wait and have failed, and why the others wait."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Set
from functools import cached_property, partial

import msgspec

from processhub.api.childset import ChildSet, ChildSetStatus
from processhub.api.meta import Condition, condition_of, merge_conditions
from processhub.api.reasons import GroupReason, Reason, Role, State
from processhub.controller.observe.members import Member
from processhub.controller.report.kstatus import (
    accepted,
    described,
    differs,
    is_refused,
    of_refusal,
    reconciling,
    stalled,
)
from processhub.controller.store.childsets import SeenSet
from processhub.controller.store.slices import KnownSlice, all_once
from processhub.core.acceptance import Refusal
from processhub.core.listing import counted, listed
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild, attributes_digest
from processhub.registry.copies import is_current
from processhub.registry.grammar import Assignment, Report

_NAMED = 3  # Ids that a message names.
_WELL = (State.RUNNING, Reason.STARTED, "")
log = logging.getLogger(__name__)


class Tally:
    """The reported states of one ChildSet's children.

    ``former``: the ids that run by an earlier template. ``ending``: the ids that may still run, and are not wanted.
    """

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str, str]] = {}
        self._parts: list[Tally] = []  # of other children of the set
        self.former: set[str] = set()
        self.ending: set[str] = set()

    def add(self, child_id: str, state: str, reason: str = "", last_exit: str = "") -> None:
        """Count the reported state of one active copy. A child is running if one of its copies is."""
        if self._states.get(child_id, ("", "", ""))[0] != State.RUNNING:
            reported = (state, reason, last_exit)
            self._states[child_id] = _WELL if reported == _WELL else reported  # most have this one

    def forget(self, child_id: str) -> None:
        """Take the state of one child back, before its next one is counted."""
        self._states.pop(child_id, None)
        for computed in ("_counts", "_failed"):
            self.__dict__.pop(computed, None)

    def include(self, part: Tally) -> None:
        """Count the children of another tally, which is complete. No child may be in both."""
        self._parts.append(part)
        self.former |= part.former
        self.ending |= part.ending

    @cached_property
    def _counts(self) -> Counter[str]:
        own = Counter(state for state, _, _ in self._states.values())
        return sum((part._counts for part in self._parts), own)

    @cached_property
    def _failed(self) -> list[str]:
        own = [child_id for child_id, (state, _, _) in self._states.items() if state == State.FAILED]
        return own + [child_id for part in self._parts for child_id in part._failed]

    def count(self, state: State) -> int:
        """The number of children in a state, when all were added."""
        return self._counts[state]

    @property
    def failed(self) -> list[str]:
        """The ids of the children that failed, in order: ``set-9`` comes before ``set-10``."""
        return sorted(self._failed, key=_by_number)

    def _reported(self, child_id: str) -> tuple[str, str, str] | None:
        """The state, the reason and the last exit of a child, None if none was added."""
        tallies = (self, *self._parts)
        return next((tally._states[child_id] for tally in tallies if child_id in tally._states), None)

    def reason(self, child_id: str) -> str:
        """The reason that the child's member reports; empty if it reports none."""
        return (self._reported(child_id) or ("", "", ""))[1]

    def described(self, child_id: str) -> str:
        """The child's id with the reason of its state and its last exit."""
        state, reason, last_exit = self._reported(child_id) or (State.PENDING, "", "")
        return described(child_id, reason or state, last_exit)


def tallies(sets: Mapping[str, SeenSet], members: Mapping[str, Member], distinct: int = -1) -> dict[str, Tally]:
    """The tally of each ChildSet by uid.

    ``distinct``: the number of children on record. Where no child has a second entry, the slices are counted apart. A
    slice that has not changed is not counted again.
    """
    found = {uid: Tally() for uid in sets}
    if not found:
        return found
    slices = [(member, known) for member in members.values() for known in member.slices]
    if all_once((known for _, known in slices), distinct):
        # A set's children as they are wanted are one object for each generation of the set.
        wanted = tuple((uid, _Same(seen.known.wanted)) for uid, seen in sets.items())
        for member, known in slices:
            for uid, part in _part(sets, wanted, member, known).items():
                found[uid].include(part)
    else:
        for member, known in slices:
            _add(found, sets, known, member.counted_reports_in(known))
    for _, known in slices:
        for child_id in known.ending:
            report = known.reports.get(child_id)
            if report is not None and (whole := found.get(report.uid)) is not None:
                whole.ending.add(child_id)
    return found


def _part(sets: Mapping[str, SeenSet], wanted: object, member: Member, known: KnownSlice) -> dict[str, Tally]:
    """The tallies of one slice, by uid. ``wanted``: what they depend on of the sets."""
    reports = member.counted_reports_in(known)

    def compute() -> dict[str, Tally]:
        found = {uid: Tally() for uid in sets}
        _add(found, sets, known, reports)
        return found

    def follow(found: dict[str, Tally], ids: Set[str]) -> dict[str, Tally]:
        for child_id in ids & known.assignments.keys():
            entry = known.assignments[child_id]
            tally = found.get(entry.uid)
            if tally is not None and not entry.wait and child_id in sets[entry.uid].known.wanted:
                tally.forget(child_id)
                _add_report(tally, child_id, entry, reports.get(child_id))
        return found

    return known.derived("tallies", (known.other(reports), wanted), compute, follow)


class _Same:
    """An object that equals itself only: mappings of thousands are not compared by what they contain."""

    def __init__(self, it: object) -> None:
        self._it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._it is other._it

    def __hash__(self) -> int:
        return id(self._it)


def _add(
    found: Mapping[str, Tally], sets: Mapping[str, SeenSet], known: KnownSlice, reports: Mapping[str, Report]
) -> None:
    """Count the entries of one slice."""
    for child_id, entry in known.assignments.items():
        tally = found.get(entry.uid)
        if tally is None or entry.wait:
            continue
        wanted = sets[entry.uid].known.wanted.get(child_id)
        if wanted is None:
            tally.ending.add(child_id)
            continue
        _add_report(tally, child_id, entry, reports.get(child_id))
        if differs(entry, wanted) and not _as_a_hook_has_it(entry, wanted):
            tally.former.add(child_id)


def _add_report(tally: Tally, child_id: str, entry: Assignment, report: Report | None) -> None:
    if report is not None and entry.role == Role.ACTIVE and is_current(entry, report):
        tally.add(child_id, report.state, report.reason, report.last_exit)


def _as_a_hook_has_it(entry: Assignment, wanted: DesiredChild) -> bool:
    """Whether the entry has the changes of a hook to the child as it is wanted now."""
    return bool(entry.asked) and entry.asked == attributes_digest(wanted)


def child_set_status(
    seen: SeenSet, tally: Tally, unplaced: Mapping[str, Unplaced], now: str, selector: str = ""
) -> ChildSetStatus:
    """Compute the status of a ChildSet; ``now`` (RFC 3339) is the time of conditions that changed.

    ``selector``: the label selector of the hub's member pods.
    """
    item = seen.known.object
    assert isinstance(item, ChildSet)
    suspended = seen.refusal is not None and seen.refusal.reason is Reason.SUSPENDED
    desired = 0 if suspended else len(seen.known.wanted)
    running, failed = tally.count(State.RUNNING), tally.count(State.FAILED)
    generation = item.metadata.generation
    ready = _ready(seen, tally, unplaced, desired, generation)
    conditions = (accepted(seen.refusal, generation, seen.note), ready, _abnormal(seen, tally, unplaced, ready))
    return ChildSetStatus(
        conditions=merge_conditions(item.status.conditions, conditions, now),
        observed_generation=generation,
        desired=desired,
        running=running,
        pending=max(0, desired - running - failed),
        failed=failed,
        selector=selector,
    )


def refused_set_status(item: ChildSet, refusal: Refusal, now: str) -> ChildSetStatus:
    """The status of a ChildSet whose hub does not exist, or is not accepted, while its children keep running."""
    generation = item.metadata.generation
    conditions = (
        accepted(refusal, generation),
        condition_of("Ready", False, refusal.reason, refusal.message, generation),
        of_refusal(refusal, generation),
    )
    desired = len(item.ids)
    gone = refusal.reason is Reason.HUB_NOT_FOUND
    before = ChildSetStatus(desired=desired, pending=desired) if gone else item.status
    return msgspec.structs.replace(
        before,
        conditions=merge_conditions(item.status.conditions, conditions, now),
        observed_generation=generation,
        desired=desired,
    )


def _abnormal(seen: SeenSet, tally: Tally, unplaced: Mapping[str, Unplaced], ready: Condition) -> Condition | None:
    """The condition Reconciling or Stalled, if one of them holds."""
    generation, refusal = ready.observed_generation, seen.refusal
    if refusal is not None and refusal.reason is not Reason.SUSPENDED:
        return of_refusal(refusal, generation)
    temporary = seen.known.template.restart_policy == "Temporary"
    if seen.failing:
        return stalled(ready.reason, ready.message, generation)
    if refusal is None and (refused := _refused(seen, unplaced)):
        return stalled(*_not_placed(seen, refused, "refused"), generation)
    if lost := [it for it in tally.failed if temporary or tally.reason(it) == Reason.RESTARTS_EXCEEDED]:
        those = _some([tally.described(child_id) for child_id in lost])
        message = f"{counted(len(lost), 'child is', 'children are')} not started again: {those}"
        return stalled(GroupReason.CHILDREN_FAILED, message, generation)
    if tally.ending:
        message = f"{counted(len(tally.ending), 'child is', 'children are')} being stopped"
        return reconciling(Reason.STOPPING, message, generation)
    if refusal is not None or ready.status == "True" or ready.reason == GroupReason.CHILDREN_FAILED:
        return None
    return reconciling(ready.reason, ready.message, generation)


def _ready(seen: SeenSet, tally: Tally, unplaced: Mapping[str, Unplaced], desired: int, generation: int) -> Condition:
    condition = partial(condition_of, "Ready", generation=generation)
    refusal, running = seen.refusal, tally.count(State.RUNNING)
    children = counted(desired, "child", "children")
    if refusal is not None and (refusal.reason is Reason.SUSPENDED or running < desired):
        return condition(False, refusal.reason, refusal.message)
    if seen.taken:
        those = _some([f"{child_id} ({owner})" for child_id, owner in sorted(seen.taken.items())])
        belong = counted(len(seen.taken), "belongs to another", "belong to others", of=counted(desired, "id", "ids"))
        freed = "that is" if len(seen.taken) == 1 else "those are"
        return condition(False, Reason.ALREADY_STARTED, f"{belong}: {those}; started when {freed} deleted")
    if seen.failing:
        maximum, _ = seen.known.pace
        fail = counted(len(seen.failing), "fails", "fail", of=children)
        return condition(
            False,
            GroupReason.ROLLOUT_STOPPED,
            f"{fail} with the changed template (maxFailed {maximum}): "
            f"{_some([tally.described(child_id) for child_id in seen.failing])}; "
            f"{counted(len(seen.held), 'runs', 'run')} on with the former one; edit spec.template",
        )
    refused = _refused(seen, unplaced)
    if refused and running < desired:
        return condition(False, *_not_placed(seen, refused, "refused"))
    # What a refused edit leaves as it was is no work that is under way.
    if (former := tally.former - refused.keys()) and refusal is None:
        still = counted(len(former), "still runs", "still run", of=children)
        return condition(False, GroupReason.UPDATING, f"{still} the former template")
    if failed := tally.failed:
        those = _some([tally.described(child_id) for child_id in failed])
        return condition(False, GroupReason.CHILDREN_FAILED, f"{len(failed)} of {children} failed: {those}")
    if waiting := {it: why for it, why in unplaced.items() if it in seen.known.wanted and it not in refused}:
        return condition(False, *_not_placed(seen, waiting, "not placed"))
    if running < desired:
        return condition(False, Reason.PENDING, f"{running} of {children} running")
    return condition(True, Reason.STARTED, f"{running} of {children} running")


def _refused(seen: SeenSet, unplaced: Mapping[str, Unplaced]) -> dict[str, Unplaced]:
    """The set's children of which the API server or a hook refuses a start, or an edit: those run on as they were."""
    return {child_id: why for child_id, why in unplaced.items() if is_refused(why) and child_id in seen.known.wanted}


def _not_placed(seen: SeenSet, waiting: Mapping[str, Unplaced], what: str) -> tuple[str, str]:
    """The most frequent reason for which children wait, and a message: so many are ``what``."""
    (reason, count), *_ = Counter(why.reason for why in waiting.values()).most_common(1)
    child_id, why = next((child_id, why) for child_id, why in waiting.items() if why.reason is reason)
    children = counted(len(seen.known.wanted), "child", "children")
    return reason, f"{counted(count, 'is', 'are', of=children)} {what}, such as {child_id}: {why.message}"


def _by_number(child_id: str) -> tuple[str, int]:
    """The order of ids: by the number at the end, if they have one."""
    head, dash, number = child_id.rpartition("-")
    return (head, int(number)) if dash and number.isascii() and number.isdigit() else (child_id, -1)


def _some(texts: list[str]) -> str:
    return listed(texts, _NAMED)
