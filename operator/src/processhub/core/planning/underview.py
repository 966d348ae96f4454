"""The part of a plan that may be carried out while members may start children by themselves.

The planner knows no views. What it plans is restricted here, so that an id that leaves the record runs nowhere, and one
that comes onto it is started by nobody else (docs/protocol.md, rules 28 and 30 to 32). What is held back is planned
again in the next round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import msgspec

from processhub.api.reasons import Reason
from processhub.core.model.activation import View, chosen_member
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.model.snapshot import HubSnapshot, MemberView, OnRecord
from processhub.core.planning.builder import takes
from processhub.registry.grammar import NOBODY, Assignment

Changes = Mapping[str, Assignment | None]  # by member
_WAITS = Unplaced(Reason.WAITING, "waiting until the members have closed the view by which they start children")


class NotClosed(msgspec.Struct, frozen=True):
    """The view that is not closed yet, whether it is open, and the first epoch of each member's block."""

    view: View
    open: bool
    blocks: Mapping[str, int] = {}


class Restricted(msgspec.Struct, frozen=True):
    """What is left of a plan.

    ``grants``: the members that need a new block before an entry may leave the record. ``close``: whether the view must
    be closed before all of the plan can be carried out.
    """

    plan: Plan
    grants: frozenset[str] = frozenset()
    close: bool = False


def under_view(snapshot: HubSnapshot, plan: Plan, state: NotClosed | None) -> Restricted:
    """Restrict a plan to what the view allows; all of it is allowed where no view is left that is not closed."""
    return Restricted(plan) if state is None else _Restriction(snapshot, plan, state).result()


def all_stay(plan: Plan, record: Mapping[str, tuple[OnRecord, ...]]) -> bool:
    """Whether each id that is on record stays so when the plan is carried out, and no other comes onto it."""
    for child_id in {child_id for changes in plan.entries.values() for child_id in changes}:
        places = record.get(child_id, ())
        if all(plan.entries.get(place.member, {}).get(child_id, place.entry) is None for place in places):
            return False
    return True


def with_recorded(
    plan: Plan, recorded: Mapping[str, Mapping[str, Assignment]], record: Mapping[str, tuple[OnRecord, ...]]
) -> Plan:
    """The plan with the entries of what members have started by themselves, each where it runs."""
    if not recorded:
        return plan
    entries = {member: dict(changes) for member, changes in plan.entries.items()}
    planned = {child_id for changes in plan.entries.values() for child_id in changes}
    for member, found in recorded.items():
        for child_id, entry in found.items():
            elsewhere = any(place.member != member for place in record.get(child_id, ()))
            if elsewhere or (child_id in planned and child_id not in plan.entries.get(member, ())):
                continue
            declared = plan.entries.get(member, {}).get(child_id)
            entries.setdefault(member, {})[child_id] = entry if declared is None else _adopting(declared, entry)
    return msgspec.structs.replace(plan, entries=entries)


def with_pods(snapshot: HubSnapshot, plan: Plan, state: NotClosed | None, workload: str) -> Plan:
    """The plan with an entry for each child's Pod that would be on no record: it keeps the id until the Pod is gone.

    A Pod may outlive its entry, for as long as its node does not answer. ``workload``: of an entry that has no former.
    """
    entries = {member: dict(changes) for member, changes in plan.entries.items()}
    next_epoch = plan.next_epoch
    for child_id in sorted(snapshot.pods):
        record = {place.member: place.entry for place in snapshot.record.get(child_id, ())}
        planned = {member: changes[child_id] for member, changes in entries.items() if child_id in changes}
        if any(entry is not None for entry in (record | planned).values()):
            continue
        for member in _keepers(snapshot, child_id, record, state):
            former = record.get(member) or Assignment(uid=NOBODY, epoch=0, workload=workload)
            if former.of_nobody and member in record:
                del entries[member][child_id]
                continue
            entries.setdefault(member, {})[child_id] = _of_nobody(former, next_epoch)
            next_epoch += 1
    return msgspec.structs.replace(plan, entries=entries, next_epoch=next_epoch)


def _keepers(
    snapshot: HubSnapshot, child_id: str, record: Mapping[str, Assignment], state: NotClosed | None
) -> list[str]:
    """The members that are to keep an id on record.

    That is one of those that have it. If none of them may keep it, as they are drained, it is another one beside them,
    and alone from the next round on.
    """
    members = {member.name: member for member in snapshot.members if member.phase is not Phase.GONE}
    places = [name for name in record if name in members]
    for name in places:
        if takes(members[name]):
            return [name]
    if state is not None and state.open:
        other = chosen_member(state.view, child_id)
    else:
        other = min((name for name, member in members.items() if takes(member)), default="")
    return list(dict.fromkeys(name for name in (*places[:1], other) if name))


def _of_nobody(entry: Assignment, epoch: int) -> Assignment:
    """The entry that follows this one, and keeps the id on record without a child."""
    return msgspec.structs.replace(entry, uid=NOBODY, epoch=epoch, wait=True, asleep=False, run=0, to="")


def _adopting(declared: Assignment, run: Assignment) -> Assignment:
    """The entry of a child that was declared while its member started it: with the same workload it runs on."""
    same = declared.workload == run.workload and not declared.wait
    return msgspec.structs.replace(declared, run=run.epoch) if same else declared


class _Restriction:
    def __init__(self, snapshot: HubSnapshot, plan: Plan, state: NotClosed) -> None:
        self._snapshot, self._plan, self._state = snapshot, plan, state
        self._members = {member.name: member for member in snapshot.members}
        template = snapshot.spec.on_demand
        self._shared = template is not None and template.max is not None
        self._next_epoch = plan.next_epoch
        self._unplaced = dict(plan.unplaced)
        self._held: set[str] = set()
        self._grants: set[str] = set()
        self._close = False

    def result(self) -> Restricted:
        by_id: dict[str, dict[str, Assignment | None]] = {}
        for member, changes in self._plan.entries.items():
            for child_id, entry in changes.items():
                by_id.setdefault(child_id, {})[member] = entry
        entries: dict[str, dict[str, Assignment | None]] = {}
        for child_id, changes in by_id.items():
            for member, entry in self._allowed(child_id, changes).items():
                entries.setdefault(member, {})[child_id] = entry
        plan = msgspec.structs.replace(
            self._plan,
            entries=entries,
            unplaced=self._unplaced,
            moves=tuple(move for move in self._plan.moves if move.id not in self._held),
            next_epoch=self._next_epoch,
        )
        return Restricted(plan, frozenset(self._grants), self._close)

    def _allowed(self, child_id: str, changes: Changes) -> Changes:
        places = self._snapshot.record.get(child_id, ())
        if not places:
            return self._comes(child_id, changes)
        if any(changes.get(place.member, place.entry) is not None for place in places):
            there = {place.member for place in places}
            if self._shared and any(
                entry is not None and entry.on_demand for name, entry in changes.items() if name not in there
            ):
                # The share there has no place for it (docs/protocol.md, rule 33).
                return self._hold(child_id, close=True)
            return changes  # it is on record all along
        if any(entry is not None for entry in changes.values()):
            return self._hold(child_id)  # it would be on no record for a moment
        allowed: dict[str, Assignment | None] = {}
        for place in places:
            allowed.update(self._leaves(child_id, place))
        return allowed

    def _comes(self, child_id: str, changes: Changes) -> Changes:
        """A new entry is written for the member that may start the id by itself, and for no other."""
        chosen = chosen_member(self._state.view, child_id)
        if not self._state.open:
            return self._hold(child_id)
        (member, entry), *more = changes.items()
        if entry is not None and entry.of_nobody:
            return changes if member == chosen and not more else self._hold(child_id)
        child = self._snapshot.children[child_id]
        if child.nodes or more or entry is None or (child.on_demand and self._shared):
            return self._hold(child_id, close=True)
        if changes.keys() == {chosen}:
            return changes
        if chosen not in self._members or not takes(self._members[chosen]):
            return self._hold(child_id)
        if self._loads[chosen] >= self._snapshot.spec.members.max_children:
            return self._hold(child_id, close=True)
        self._loads[chosen] += 1
        return {chosen: entry}

    @cached_property
    def _loads(self) -> Counter[str]:
        """The number of children of each member, with those that are planned for it."""
        loads = Counter(place.member for places in self._snapshot.record.values() for place in places)
        for member, changes in self._plan.entries.items():
            loads[member] += sum(child_id not in self._snapshot.record for child_id in changes)
        return loads

    def _leaves(self, child_id: str, place: OnRecord) -> Changes:
        """An entry leaves the record when nobody can start its id under a lower epoch, and its end is proven."""
        chosen, member = chosen_member(self._state.view, child_id), self._members.get(place.member)
        if member is not None and member.phase is Phase.GONE:
            return {}  # the view is to be closed first
        if place.member != chosen and not place.entry.of_nobody:
            self._next_epoch += 1
            return {place.member: _of_nobody(place.entry, self._next_epoch - 1)}
        if not all(self._is_proven(child_id, other) for name, other in self._members.items() if name != chosen):
            return {}
        if self._state.blocks.get(chosen, 0) <= place.entry.epoch:
            if self._state.open:
                self._grants.add(chosen)
            return {}
        return {place.member: None}

    def _is_proven(self, child_id: str, member: MemberView) -> bool:
        """Whether no run of the child is left on the member, but one by an entry that is on record."""
        return member.phase is Phase.GONE or (child_id not in member.possibly_running and member.settled)

    def _hold(self, child_id: str, *, close: bool = False) -> Changes:
        self._close = self._close or close
        self._held.add(child_id)
        if child_id in self._snapshot.children:
            self._unplaced.setdefault(child_id, _WAITS)
        return {}
