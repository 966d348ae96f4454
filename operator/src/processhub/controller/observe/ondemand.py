"""The children on demand: those that requests have started, or that members ask for, and when each is to end.

They have no objects. Their entries have the Hub's uid, and are followed as those of a ChildSet whose ids are on record.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Collection, Iterable, Mapping

import msgspec

from processhub.api.grouporders import GroupOrderError, parse_stop_orders
from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_STOP, is_child_id
from processhub.api.reasons import Reason, Role, State
from processhub.cluster.timestamps import unix_time, utc_now
from processhub.controller.observe.members import Member
from processhub.controller.observe.views import ViewFacts
from processhub.controller.rounds.round import Round
from processhub.controller.store.childsets import KnownSet, known_on_demand
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.activation import chosen_member
from processhub.core.model.membership import Phase
from processhub.registry.copies import is_current
from processhub.registry.grammar import Assignment, Report

_ENDED_STATES = {"Temporary": (State.STOPPED, State.FAILED), "Transient": (State.STOPPED,)}


class _InSlice(msgspec.Struct, frozen=True):
    """What one slice says of children on demand.

    ``epochs``: id → the epoch of its entry. ``idle``: those that their member reports idle. ``over``: those that are
    not started again by their restart policy. ``started``: id → when its present run was started (Unix time).
    ``origins``: id → the member that was asked for it first.
    """

    epochs: Mapping[str, int]
    idle: frozenset[str]
    over: frozenset[str]
    started: Mapping[str, float]
    origins: dict[str, str]


_NONE = _InSlice({}, frozenset(), frozenset(), {}, {})


class _Copies:
    """How many entries each child on demand has. Only slices in which some have come or gone are counted again."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._slices: Mapping[str, _InSlice] = {}

    def of(self, slices: Mapping[str, _InSlice]) -> Mapping[str, int]:
        """The number of entries by id, in these slices, which are all there are. It holds until the next call."""
        before, self._slices = self._slices, slices
        for name in before.keys() | slices.keys():
            old, new = before.get(name, _NONE), slices.get(name, _NONE)
            if old is not new:
                self._counts.update(new.epochs.keys() - old.epochs.keys())
                for child_id in old.epochs.keys() - new.epochs.keys():
                    self._counts[child_id] -= 1
                    if not self._counts[child_id]:
                        del self._counts[child_id]
        return self._counts


class _Since(msgspec.Struct, frozen=True):
    """Since when (monotonic seconds) a child has run; before its first start, since when it has been on record."""

    at: float
    started: bool


class OnDemandWatch:
    """The children on demand of one hub, as a leader knows them."""

    def __init__(self) -> None:
        self._known: KnownSet | None = None
        self._copies = _Copies()
        self._since: dict[str, _Since] = {}
        self._timed = False  # whether all children that ran before are in ``_since``

    def look(self, round: Round, members: Mapping[str, Member], views: ViewFacts) -> KnownSet | None:
        """The children on demand that the hub should have, or None without spec.onDemand.

        Another round is asked for when the next one's ttlSeconds are over.
        """
        hub = round.hub
        if hub.spec.on_demand is None:
            self._known, self._copies, self._since = None, _Copies(), {}
            return None
        slices = [
            (member, known) for member in members.values() for known in member.slices if not known.is_stale(round.term)
        ]
        found = [_in_slice(hub, member, known) for member, known in slices]
        copies = self._copies.of(
            {known.present.metadata.name: each for (_, known), each in zip(slices, found, strict=True)}
        )
        ended = {child_id for each in found for child_id in each.idle} | _stopped(hub, [known for _, known in slices])
        ended |= _over(found, copies)
        if hub.spec.on_demand.ttl_seconds is not None:
            started = {child_id: at for each in found for child_id, at in each.started.items()}
            ended |= self._expired(round, hub.spec.on_demand.ttl_seconds, copies, started)
        else:
            self._since, self._timed = {}, False
        asked = _asked(round, members, views, copies)
        origins = ChainMap(asked, *(each.origins for each in found if each.origins))
        self._known = known_on_demand(hub, (copies.keys() - ended) | asked.keys(), origins, self._known)
        return self._known

    def _expired(self, round: Round, ttl: int, ids: Mapping[str, int], started: Mapping[str, float]) -> set[str]:
        """The ids whose ttlSeconds are over since their first start.

        One that has not started has them from when this leader saw it first. Of a start that this leader has seen, its
        own clock tells the time: a member's clock may be wrong, and each start would be over at once. Only what has
        run before is timed by its member's clock.
        """
        now, clock = round.now(), utc_now().timestamp()
        since: dict[str, _Since] = {}
        for child_id in ids:
            known, runs = self._since.get(child_id), child_id in started
            if known is None and runs and not self._timed:
                known = _Since(now - max(0.0, clock - started[child_id]), True)
            elif known is None or (runs and not known.started):
                known = _Since(now, runs)
            since[child_id] = known
        self._timed = True
        self._since = since
        left = {child_id: known.at + ttl - now for child_id, known in since.items()}
        if later := [seconds for seconds in left.values() if seconds > 0]:
            round.again_in(min(later))
        return {child_id for child_id, seconds in left.items() if seconds <= 0}


def _in_slice(hub: Hub, member: Member, known: KnownSlice) -> _InSlice:
    reports, uid = member.reports_in(known), hub.metadata.uid

    def compute() -> _InSlice:
        own = {child_id: entry for child_id, entry in known.assignments.items() if entry.uid == uid}
        current = {
            child_id: report
            for child_id, entry in own.items()
            if (report := reports.get(child_id)) is not None and not entry.wait and is_current(entry, report)
        }
        return _InSlice(
            {child_id: entry.epoch for child_id, entry in own.items()},
            frozenset(child_id for child_id, report in current.items() if report.reason == Reason.IDLE),
            frozenset(child_id for child_id, report in current.items() if _is_over(own[child_id], report)),
            {child_id: at for child_id, report in current.items() if (at := unix_time(report.started_at)) is not None},
            {child_id: entry.origin for child_id, entry in own.items() if entry.origin},
        )

    return known.derived("on demand", (uid, known.other(reports)), compute)


def _is_over(entry: Assignment, report: Report) -> bool:
    """Whether the child has ended, and its restart policy starts it no more."""
    return report.state in _ENDED_STATES.get(entry.restart_policy, ())


def _over(found: list[_InSlice], copies: Mapping[str, int]) -> set[str]:
    """The ids of which every copy is over."""
    over = Counter(child_id for each in found for child_id in each.over)
    return {child_id for child_id, count in over.items() if count == copies[child_id]}


def _stopped(hub: Hub, slices: Collection[KnownSlice]) -> set[str]:
    """The ids that a user has ordered to stop, and whose run is still the one of the order."""
    try:
        orders = parse_stop_orders(hub.metadata.annotations.get(ANNOTATION_STOP, ""))
    except GroupOrderError:
        return set()  # The annotation is removed, and reported.
    return {child_id for child_id, epoch in orders.items() if is_run_of_order(hub, child_id, epoch, slices)}


def is_run_of_order(hub: Hub, child_id: str, epoch: int, slices: Iterable[KnownSlice]) -> bool:
    """Whether what is on record of a child on demand is the run that an order to stop names by its epoch.

    An order names the newest of the copies, and they leave the record one slice after another: an older one is what is
    left of that run, as are passive ones alone.
    """
    entries = [known.assignments[child_id] for known in slices if child_id in known.assignments]
    own = [entry for entry in entries if entry.uid == hub.metadata.uid]
    return any(entry.epoch <= epoch for entry in own) or (
        bool(own) and all(entry.role == Role.PASSIVE for entry in own)
    )


def _asked(
    round: Round, members: Mapping[str, Member], views: ViewFacts, on_record: Mapping[str, int]
) -> dict[str, str]:
    """The ids that members ask for and that may be placed, each with the first member that asks for it.

    While a view is not closed, only the member that may start an id asks for it: it can't, because a slice that named
    the id was deleted (docs/protocol.md, rule 27).
    """
    state, template = round.state, round.hub.spec.on_demand
    if round.hub.spec.suspend or template is None:
        return {}

    def declared(child_id: str) -> bool:
        return child_id in state.children.by_id or any(child_id in item.wanted for item in state.sets.values())

    found: dict[str, str] = {}
    for name, member in members.items():
        first = member.first
        if first is None or member.phase is not Phase.LIVE or first.present.status.holder != member.holder:
            continue
        for child_id in first.present.status.asks:
            if child_id in on_record or declared(child_id) or not is_child_id(child_id):
                continue
            if views.not_closed is None or chosen_member(views.not_closed.view, child_id) == name:
                found.setdefault(child_id, name)
    if found and template.max is not None:
        taken = on_record.keys() | {child_id for own in views.recorded.values() for child_id in own}
        taken |= {child_id for child_id in _ending(members) if not declared(child_id)}
        found = dict(list(found.items())[: max(0, template.max - len(taken))])
    return found


def _ending(members: Mapping[str, Member]) -> set[str]:
    """The ids that may run on a member beside what is on record there."""
    return {
        child_id
        for member in members.values()
        if member.phase is not Phase.GONE
        for known in member.slices
        for child_id in known.possibly_running(member.holder)
    }
