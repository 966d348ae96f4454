"""Events about children on demand. They have no objects, so the Events are on the Hub, one for many children."""

from __future__ import annotations

from collections.abc import Iterator, Set

from processhub.api.reasons import EventReason, Reason, State
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.report.hubprogress import denied_edits
from processhub.controller.report.memory import ReportMemory
from processhub.controller.rounds.round import Round
from processhub.core.listing import listed
from processhub.core.model.plan import Plan
from processhub.registry.copies import is_current
from processhub.registry.grammar import Report

_LOOP_RESTARTS = 3  # restarts of one incarnation from which on a failure is called a crash loop
_NAMED = 3  # ids that a message names
_NOT_STARTED = "not started although requests ask for it"
_RUN_ON = "the edited spec.onDemand is denied, and the former one runs on"
_FOR_A_MOMENT = (Reason.WAITING, Reason.SUSPENDED, Reason.PARTITIONED)


def crash_loops(observation: Observation, ids: Set[str]) -> Iterator[tuple[Member, str, Report]]:
    """The children of ``ids`` that keep ending, each with its member and what that reports of the present run."""
    for member in observation.members.values() if ids else ():
        for known in member.slices:
            reports = member.reports_in(known)
            for child_id in ids & reports.keys():
                report, entry = reports[child_id], known.assignments.get(child_id)
                ends = report.state == State.FAILED and report.restarts >= _LOOP_RESTARTS
                if ends and entry is not None and is_current(entry, report):
                    yield member, child_id, report


def cause_of(report: Report) -> str:
    """The reason of the child's state and its last exit, as far as they are reported."""
    return ", ".join(filter(None, (report.reason, report.last_exit)))


def emit_on_demand(round: Round, observation: Observation, plan: Plan, memory: ReportMemory) -> None:
    """Post which children on demand have begun to keep ending, and which are not started although requests ask."""
    _emit_crash_loops(round, observation, memory)
    _emit_unplaced(round, observation, plan, memory)


def _emit_crash_loops(round: Round, observation: Observation, memory: ReportMemory) -> None:
    new: dict[str, str] = {}
    for _, child_id, report in crash_loops(observation, round.changed):
        if report.uid == round.hub.metadata.uid and memory.looping.get(child_id) != report.epoch:
            memory.looping[child_id] = report.epoch
            cause = cause_of(report)
            new[child_id] = f"{child_id!r} ({cause})" if cause else repr(child_id)
    for child_id in round.changed & memory.looping.keys():
        if child_id not in observation.snapshot.record:
            del memory.looping[child_id]
    if new:
        names = listed([new[child_id] for child_id in sorted(new)], _NAMED)
        message = f"children on demand keep ending and are restarted with back-off: {names}"
        round.events.about_hub(round.hub, EventReason.BACK_OFF, message, warning=True)


def _emit_unplaced(round: Round, observation: Observation, plan: Plan, memory: ReportMemory) -> None:
    demand = observation.demand(round.hub)
    if demand is None or not plan.unplaced:
        return
    denied = denied_edits(demand.known, observation, plan)
    causes: dict[tuple[str, str], list[str]] = {}
    for child_id, why in plan.unplaced.items():
        placed = child_id in observation.snapshot.record and why.reason is not Reason.INVALID  # Its Pod is refused.
        if child_id not in demand.known.wanted or (placed and child_id not in denied):
            continue
        if why.reason not in _FOR_A_MOMENT and memory.unplaced.get(child_id) != why:
            what = _RUN_ON if child_id in denied else _NOT_STARTED
            causes.setdefault((what, f"{why.reason}: {why.message}"), []).append(repr(child_id))
    for (what, cause), ids in causes.items():
        message = f"{what}: {listed(sorted(ids), _NAMED)}: {cause}"
        round.events.about_hub(round.hub, EventReason.REJECTED, message, warning=True)
