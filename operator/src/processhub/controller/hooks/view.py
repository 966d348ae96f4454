"""The view from which hooks' events are derived: a hub after a round, with only the children that may have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from processhub.api.reasons import State
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move, Plan
from processhub.core.model.snapshot import DesiredChild
from processhub.registry.copies import HAS_PROCESS, has_ended, of_a_child
from processhub.registry.grammar import Assignment, Report


class CopySeen(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a child on one member: the operator's entry and the member's report.

    ``partitioned``: the hub has lost its quorum, so members stop their children although the entries stay on record.
    """

    uid: str
    member: str
    entry: Assignment | None = None
    report: Report | None = None
    phase: Phase = Phase.LIVE
    partitioned: bool = False

    @property
    def registered(self) -> bool:
        """Whether the copy is on record to run there, and neither waits nor has handed its state over."""
        handed_over = self.report is not None and bool(self.report.gave)
        return self.entry is not None and not self.entry.wait and not handed_over

    @property
    def waiting(self) -> bool:
        """Whether the copy is the target of a move that has not been completed."""
        return self.entry is not None and self.entry.wait and not self.entry.asleep

    @property
    def running(self) -> bool:
        """Whether a live member reports that the copy runs."""
        return self.phase is Phase.LIVE and self.report is not None and self.report.state == State.RUNNING

    @property
    def ended(self) -> bool:
        """Whether the copy's process has ended, and its member does not restart it by itself.

        A member that restarts (HELD) starts its children again, whatever it reported before.
        """
        if self.phase is Phase.GONE:
            return True
        if self.partitioned or (self.entry is not None and self.entry.asleep):
            return self.report is None or self.report.state not in HAS_PROCESS
        if self.report is None:
            return not self.registered
        if self.phase is Phase.HELD:
            return False
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether its member has reported that it does not start the copy again."""
        return self.report is not None and has_ended(self.report)

    @property
    def self_started(self) -> bool:
        """Whether its member has started it by itself, and no leader has put it on record yet."""
        return self.entry is None and self.report is not None and bool(self.report.view)

    @property
    def epoch(self) -> int:
        """The newest epoch of the entry and the report."""
        return max(self.entry.epoch if self.entry else 0, self.report.epoch if self.report else 0)


class MemberSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One member, with its Lease's ``holder``. ``joining``: it lacks its share; ``leaving``: it is being emptied."""

    phase: Phase
    holder: str = ""
    restarting: bool = False
    joining: bool = False
    leaving: bool = False
    occupied: bool = False
    why: str = ""


class HubView(msgspec.Struct, frozen=True, kw_only=True):
    """A hub after a round. ``copies`` has the ids that were looked at; an id without a copy has an empty tuple.

    ``wanted``: id → the child that should run. ``moves`` were begun by the round's plan. ``deferred`` are children
    whose moves were cancelled, because they declined or their state could not be handed over.
    """

    members: Mapping[str, MemberSeen]
    copies: Mapping[str, tuple[CopySeen, ...]] = {}
    wanted: Mapping[str, DesiredChild] = {}
    moves: tuple[Move, ...] = ()
    moving: int = 0
    pending_moves: int = 0
    deferred: tuple[str, ...] = ()
    stranded: Mapping[str, tuple[str, ...]] = {}
    partitioned: bool = False
    quorum: Mapping[str, Any] = {}


def hub_view(observation: Observation, plan: Plan | None = None, ids: Iterable[str] | None = None) -> HubView:
    """The view of a hub; ``ids``: the children to look at, None for all."""
    members, wanted, quorum = observation.members, observation.snapshot.to_run, observation.quorum
    view = HubView(
        members={name: member_seen(member) for name, member in members.items()},
        copies=copies_seen(
            members, set(wanted) | _all_ids(members) if ids is None else set(ids), partitioned=quorum.partitioned
        ),
        wanted=wanted,
        partitioned=quorum.partitioned,
        quorum={"required": quorum.required, "live": quorum.live, "why": quorum.why},
    )
    if plan is None:
        return view
    return msgspec.structs.replace(
        view,
        moves=plan.moves,
        moving=plan.moving,
        pending_moves=plan.pending_moves,
        deferred=plan.deferred,
        stranded=plan.stranded,
    )


def copies_seen(members: Mapping[str, Member], ids: set[str], *, partitioned: bool) -> dict[str, tuple[CopySeen, ...]]:
    """The copies of each id."""
    found: dict[str, dict[tuple[str, str], CopySeen]] = {child_id: {} for child_id in ids}
    for member in members.values():
        for known in member.slices:
            reports = known.reports if known.present.status.holder == member.holder else {}
            # The intersection of key views takes time by the smaller one: a few ids cost little beside many entries.
            for child_id in (known.assignments.keys() & ids) | (reports.keys() & ids):
                _add(found[child_id], member, known.assignments.get(child_id), reports.get(child_id), partitioned)
    return {child_id: tuple(copies.values()) for child_id, copies in found.items()}


def ids_on(member: Member) -> set[str]:
    """The ids that are on record on the member or reported by it."""
    return {child_id for known in member.slices for child_id in known.assignments.keys() | known.reports.keys()}


def _all_ids(members: Mapping[str, Member]) -> set[str]:
    return set().union(*(ids_on(member) for member in members.values()))


def _add(
    copies: dict[tuple[str, str], CopySeen],
    member: Member,
    entry: Assignment | None,
    report: Report | None,
    partitioned: bool,
) -> None:
    entry, report = of_a_child(entry), of_a_child(report)
    for uid in {entry.uid if entry else "", report.uid if report else ""} - {""}:
        copy = CopySeen(
            uid=uid,
            member=member.name,
            entry=entry if entry and entry.uid == uid else None,
            report=report if report and report.uid == uid else None,
            phase=member.phase,
            partitioned=partitioned,
        )
        other = copies.get((uid, member.name))
        if other is not None and other.epoch == copy.epoch and other.self_started != copy.self_started:
            # The run has its entry in one slice, and is still reported in slice 0.
            ordered, started = (copy, other) if other.self_started else (other, copy)
            copy = ordered if ordered.report is not None else msgspec.structs.replace(ordered, report=started.report)
            copies[(uid, member.name)] = copy
        elif other is None or copy.epoch > other.epoch:
            copies[(uid, member.name)] = copy


def member_seen(member: Member) -> MemberSeen:
    """The member as hooks see it."""
    judgement = member.judgement
    return MemberSeen(
        phase=member.phase,
        holder=member.holder,
        restarting=judgement.restarting,
        joining=member.joining or not member.slices,
        leaving=judgement.draining or not member.wanted,
        occupied=any(known.assignments or known.possibly_running(member.holder) for known in member.slices),
        why=judgement.why,
    )
