"""ChildSet.status: how many of its children are wanted, run, wait and have failed, and why the others wait."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import msgspec

from processhub.api.childset import ChildSet, ChildSetStatus
from processhub.api.meta import Condition, condition_of, merge_conditions
from processhub.api.reasons import GroupReason, Reason, Role, State
from processhub.controller.observe.members import Member
from processhub.controller.report.kstatus import differs, of_refusal, reconciling, stalled
from processhub.controller.store.childsets import SeenSet
from processhub.core.acceptance import Refusal
from processhub.core.listing import listed
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild, attributes_digest
from processhub.registry.copies import is_current
from processhub.registry.grammar import Assignment

_NAMED = 3  # Ids that a message names.
log = logging.getLogger(__name__)


class Tally:
    """The reported states of one ChildSet's children.

    ``former``: the ids that run by an earlier template. ``ending``: the ids that may still run, and are not wanted.
    """

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str, str]] = {}
        self.former: set[str] = set()
        self.ending: set[str] = set()

    def add(self, child_id: str, state: str, reason: str = "", last_exit: str = "") -> None:
        """Count the reported state of one active copy. A child is running if one of its copies is."""
        if self._states.get(child_id, ("", "", ""))[0] != State.RUNNING:
            self._states[child_id] = (state, reason, last_exit)

    def count(self, state: State) -> int:
        """The number of children in a state."""
        return sum(reported == state for reported, _, _ in self._states.values())

    @property
    def failed(self) -> list[str]:
        """The ids of the children that failed, in order: ``set-9`` comes before ``set-10``."""
        failed = [child_id for child_id, (state, _, _) in self._states.items() if state == State.FAILED]
        return sorted(failed, key=_by_number)

    def reason(self, child_id: str) -> str:
        """The reason that the child's member reports; empty if it reports none."""
        return self._states.get(child_id, ("", "", ""))[1]

    def described(self, child_id: str) -> str:
        """The child's id with the reason of its state and its last exit, such as ``set-9 (Exited, exit code 1)``."""
        state, reason, last_exit = self._states.get(child_id, (State.PENDING, "", ""))
        return f"{child_id} ({', '.join(part for part in (reason or state, last_exit) if part)})"


def tallies(sets: Mapping[str, SeenSet], members: Mapping[str, Member]) -> dict[str, Tally]:
    """The tally of each ChildSet by uid, in one pass over all entries."""
    found = {uid: Tally() for uid in sets}
    if not found:
        return found
    for member in members.values():
        for known in member.slices:
            reports = {} if member.judgement.restarting else member.reports_in(known)
            for child_id, entry in known.assignments.items():
                tally = found.get(entry.uid)
                if tally is None or entry.wait:
                    continue
                if child_id not in sets[entry.uid].known.wanted:
                    tally.ending.add(child_id)
                    continue
                report = reports.get(child_id)
                if report is not None and entry.role == Role.ACTIVE and is_current(entry, report):
                    tally.add(child_id, report.state, report.reason, report.last_exit)
                known_set = sets[entry.uid].known
                wanted = known_set.wanted[child_id]
                if differs(entry, wanted) and not _as_a_hook_has_it(entry, wanted):
                    tally.former.add(child_id)
            for child_id in known.ending:
                report = known.reports.get(child_id)
                if report is not None and (tally := found.get(report.uid)) is not None:
                    tally.ending.add(child_id)
    return found


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
    suspended = seen.refusal is not None and seen.refusal.reason is Reason.SUSPENDED
    desired = 0 if suspended else len(seen.known.wanted)
    running, failed = tally.count(State.RUNNING), tally.count(State.FAILED)
    generation = item.metadata.generation
    ready = _ready(seen, tally, unplaced, desired, generation)
    conditions: tuple[Condition, ...] = (_accepted(None if suspended else seen.refusal, generation), ready)
    if (abnormal := _abnormal(seen, tally, ready)) is not None:
        conditions = (*conditions, abnormal)
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
        _accepted(refusal, generation),
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


def _accepted(refusal: Refusal | None, generation: int) -> Condition:
    if refusal is None:
        return condition_of("Accepted", True, Reason.ACCEPTED, "", generation)
    return condition_of("Accepted", False, refusal.reason, refusal.message, generation)


def _abnormal(seen: SeenSet, tally: Tally, ready: Condition) -> Condition | None:
    """The condition Reconciling or Stalled, if one of them holds."""
    generation, refusal = ready.observed_generation, seen.refusal
    if refusal is not None and refusal.reason is not Reason.SUSPENDED:
        return of_refusal(refusal, generation)
    temporary = seen.known.object.spec.template.restart_policy == "Temporary"
    if seen.failing:
        return stalled(ready.reason, ready.message, generation)
    if lost := [it for it in tally.failed if temporary or tally.reason(it) == Reason.RESTARTS_EXCEEDED]:
        those = _some([tally.described(child_id) for child_id in lost])
        return stalled(GroupReason.CHILDREN_FAILED, f"{len(lost)} children are not started again: {those}", generation)
    if tally.ending:
        return reconciling(Reason.STOPPING, f"{len(tally.ending)} children are being stopped", generation)
    if refusal is not None or ready.status == "True" or ready.reason == GroupReason.CHILDREN_FAILED:
        return None
    return reconciling(ready.reason, ready.message, generation)


def _ready(seen: SeenSet, tally: Tally, unplaced: Mapping[str, Unplaced], desired: int, generation: int) -> Condition:
    def condition(holds: bool, reason: str, message: str) -> Condition:
        return condition_of("Ready", holds, reason, message, generation)

    refusal, running = seen.refusal, tally.count(State.RUNNING)
    if refusal is not None:
        return condition(False, refusal.reason, refusal.message)
    if seen.taken:
        those = _some([f"{child_id} ({owner})" for child_id, owner in sorted(seen.taken.items())])
        message = f"{len(seen.taken)} of {desired} ids belong to others: {those}; started when those are deleted"
        return condition(False, Reason.ALREADY_STARTED, message)
    if seen.failing:
        maximum = seen.known.object.spec.max_failed
        return condition(
            False,
            GroupReason.ROLLOUT_STOPPED,
            f"{len(seen.failing)} of {desired} children fail with the changed template (maxFailed {maximum}): "
            f"{_some([tally.described(child_id) for child_id in seen.failing])}; {len(seen.held)} run on with the "
            "former one; edit spec.template",
        )
    if tally.former:
        return condition(
            False, GroupReason.UPDATING, f"{len(tally.former)} of {desired} children still run the former template"
        )
    if failed := tally.failed:
        those = _some([tally.described(child_id) for child_id in failed])
        return condition(False, GroupReason.CHILDREN_FAILED, f"{len(failed)} of {desired} children failed: {those}")
    waiting = {child_id: why for child_id, why in unplaced.items() if child_id in seen.known.wanted}
    if waiting:
        (reason, count), *_ = Counter(why.reason for why in waiting.values()).most_common(1)
        child_id, why = next((child_id, why) for child_id, why in waiting.items() if why.reason is reason)
        return condition(
            False, reason, f"{count} of {desired} children are not placed, such as {child_id}: {why.message}"
        )
    if running < desired:
        return condition(False, Reason.PENDING, f"{running} of {desired} children running")
    return condition(True, Reason.STARTED, f"{running} of {desired} children running")


def _by_number(child_id: str) -> tuple[str, int]:
    """The order of ids: by the number at the end, if they have one."""
    head, dash, number = child_id.rpartition("-")
    return (head, int(number)) if dash and number.isascii() and number.isdigit() else (child_id, -1)


def _some(texts: list[str]) -> str:
    return listed(texts, _NAMED)
