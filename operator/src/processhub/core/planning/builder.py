"""The plan builder: the changes so far, the room that is left, and the checks of what must be proven first.

Both planners use it: ``single`` plans one copy of each child, ``replicated`` several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import filterfalse

import msgspec

from processhub.api.reasons import Reason, Role
from processhub.core.listing import MemberNames, counted, listed
from processhub.core.model.membership import Phase
from processhub.core.model.placement import Candidate, load_caps
from processhub.core.model.plan import STRANDED_ALONE, STRANDED_GUIDED, STRANDED_PINNED, Move, Plan, Unplaced
from processhub.core.model.snapshot import DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.endproofs import EndProofs, pod_there
from processhub.core.planning.roundbudget import RoundBudget
from processhub.core.strategies.base import MemberSlot, PlacementView, Strategy
from processhub.registry.grammar import Assignment

# Why a request to move a child is refused.
NOT_PLACED = "it is not placed yet, or suspended"
PINNED = "it is pinned; set spec.pinned to false first"
MAPPED = "its spec.nodes names where it is; edit that"
REFUSED = "its last edit is not accepted; correct that first"


class PlanBuilder:
    """The working state of one plan."""

    def __init__(self, snapshot: HubSnapshot, strategy: Strategy) -> None:
        self.snapshot, self.strategy = snapshot, strategy
        self.members: dict[str, MemberView] = {member.name: member for member in snapshot.members}
        self.changes: dict[str, dict[str, Assignment | None]] = {}
        self.unplaced: dict[str, Unplaced] = {}
        self.moves: list[Move] = []
        self.joining: dict[str, bool] = {}
        self.deferred: list[str] = []
        self.stranded: dict[str, dict[str, str]] = {}  # by member and id, why
        self.move_results: dict[str, str] = {}
        self.imbalance: tuple[str, str] | None = None
        self.last_placed = snapshot.last_placed
        self.next_epoch = snapshot.next_epoch
        self.budget = RoundBudget(snapshot.move_budget)
        self.load: Counter[str] = Counter()
        for member in snapshot.members:
            # A member that was lost or is being emptied takes its share again when it returns. So does one that is not
            # wanted any more, if it is wanted again before it is gone.
            leaves = member.draining if member.phase is not Phase.GONE else member.wanted
            if leaves and not member.joining and snapshot.formed:
                self.joining[member.name] = True

    @cached_property
    def proofs(self) -> EndProofs:
        """The proofs of the ends of children."""
        return EndProofs(self.snapshot, self.members)

    @cached_property
    def _wanted_members(self) -> MemberNames:
        return MemberNames(member.name for member in self.snapshot.members if member.wanted)

    @cached_property
    def no_member_left(self) -> bool:
        """Whether no member is to take children, now or later: each is to be emptied, or has weight 0."""
        return not any(member.wanted and not member.draining and member.weight > 0 for member in self.snapshot.members)

    def remove_unwanted(self) -> None:
        """Remove the entries of children that should not be on record. The removal is the order to stop."""
        record = self.snapshot.record
        for child_id in filterfalse(self.snapshot.children.__contains__, record):
            if child_id not in self.snapshot.uncertain:
                for on_record in record[child_id]:
                    self.put(on_record.member, child_id, None)

    def result(self) -> Plan:
        """The finished plan."""
        flags = {member.name: member.joining for member in self.snapshot.members}
        return Plan(
            entries=self.changes,
            unplaced=self.unplaced,
            moves=tuple(self.moves),
            deferred=tuple(self.deferred),
            joining={name: value for name, value in self.joining.items() if flags[name] != value},
            stranded={name: tuple(sorted(ids)) for name, ids in self.stranded.items()},
            why_stranded={child_id: why for reasons in self.stranded.values() for child_id, why in reasons.items()},
            no_member_left=bool(self.stranded) and self.no_member_left,
            move_results=self.move_results,
            imbalance=self.imbalance,
            last_placed=self.last_placed,
            next_epoch=self.next_epoch,
            pending_moves=self.budget.pending_moves,
            pending_why=self.budget.why,
            moving=self.budget.moving,
            restarts=self.budget.restarts,
            pending_restarts=self.budget.pending_restarts,
        )

    def leave_alone(self, places: Iterable[OnRecord]) -> None:
        """Change nothing of a child whose entries may differ from the record (docs/protocol.md, rule 7).

        Any entry that is written for it elsewhere could start it a second time.
        """
        for place in places:
            self.load[place.member] += 1

    def forget_earlier(self, child: DesiredChild, places: Iterable[OnRecord]) -> None:
        """Remove an earlier child of the same id from the record. It must end before this one may start."""
        for place in places:
            self.put(place.member, child.id, None)
        if child.suspended:
            return
        if pods := self.snapshot.pods.get(child.id):
            self.unplaced[child.id] = pod_there(child.id, pods[0].text)
        else:
            text = f"the child that had the id {child.id!r} before is still stopping"
            self.unplaced[child.id] = Unplaced(Reason.ALREADY_STARTED, text)

    def follows_earlier(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> bool:
        """Whether an earlier child of the same id is on record, which is dealt with here.

        A child that a request has started is adopted by the object that has its id now: with the same workload it runs
        on, with another one it is restarted in place (docs/protocol.md, rule 31). A suspended one keeps the place: the
        next request would start an id that has left the record.
        """
        if all(place.entry.uid == child.uid for place in places):
            return False
        if self._may_adopt(child, places):
            for place in places:
                if child.suspended:
                    self.put(place.member, child.id, self.asleep(child, place.entry.role))
                    self.load[place.member] += 1
                    continue
                same = place.entry.workload == child.workload
                run = place.entry.started_with if same else 0
                state = place.entry.state if same and not place.came_up else ""
                self.put(place.member, child.id, self.assignment(child, role=place.entry.role, run=run, state=state))
                self.load[place.member] += 1
        else:
            self.forget_earlier(child, places)
        return True

    def _may_adopt(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> bool:
        """Whether each copy can get the child's entry where it is: none is moved or has a Pod of its own."""
        if child.on_demand or child.id in self.snapshot.pods:
            return False
        return all(
            place.entry.on_demand
            and not (place.entry.wait or place.entry.to or self.lost(place.member))
            and (not child.nodes or place.member in child.nodes)
            for place in places
        )

    def loses_its_place(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether a suspended child has no place to resume at, because its member is gone or being emptied.

        A child that is bound to its member keeps waiting for it.
        """
        member = self.members.get(place.member)
        if member is None:
            return True
        bound = child.pinned or (member.wanted and place.member in child.nodes)
        return not bound and (member.phase is Phase.GONE or member.draining)

    def put_to_sleep(self, child: DesiredChild, place: OnRecord, state: str = "") -> None:
        """Keep the entry of a suspended child, and its room, without starting it; ``state``: the state it has received.

        The rest of the entry stays as it is on record. An edit takes effect when the child is resumed.
        """
        member = self.members[place.member]
        self.load[place.member] += 1
        if not member.wanted and member.phase is not Phase.GONE:
            self.strand(child, place.member, "suspended, and keeps its place")
        if place.entry.asleep and place.entry.wait:
            return
        self.put(
            place.member,
            child.id,
            msgspec.structs.replace(
                place.entry, epoch=self.next_epoch, wait=True, asleep=True, run=0, to="", state=state, ended=""
            ),
        )
        self.next_epoch += 1

    def keep_asleep(self, child: DesiredChild, place: OnRecord) -> None:
        """Keep the entry of a resumed child that can't be started yet, with its edited attributes.

        Look-ups show the attributes at once. A changed workload takes effect with the start.
        """
        entry = place.entry
        if not same_attributes(entry, child):
            edited = child.entry(entry.epoch, wait=True, role=entry.role, state=entry.state)
            edited = msgspec.structs.replace(edited, asleep=True, workload=entry.workload)
            self.put(place.member, child.id, edited)

    def due(self, child: DesiredChild, entry: Assignment) -> DesiredChild:
        """The child as its entry should be now. If many change at once, those over the budget keep their workload."""
        if entry.workload == child.workload or not child.paced or self.budget.restart():
            return child
        return msgspec.structs.replace(child, workload=entry.workload)

    def begin_move(self, child: DesiredChild, source: str, target: str, why: str) -> bool:
        """Write the waiting entry on ``target``; ``why`` is a clause such as ``my-hub-3 joined``."""
        self.budget.begin_move()
        self.load[source] -= 1
        self.load[target] += 1
        # The target's entry gets a new epoch at once, so that any reader of both entries knows which is newer.
        self.put(target, child.id, self.assignment(child, wait=True))
        self.moves.append(Move(child.id, source, target, why))
        return True

    def unfit(self, name: str) -> str:
        """Why no child can be moved to the member of this name; "" if one can, given room."""
        member = self.members.get(name)
        if member is None or not member.wanted:
            return f"the hub has no member {name!r}; its members are {self._wanted_members.some}"
        if member.draining:
            return f"member {name} is drained"
        return "" if takes(member) else f"member {name} is not ready"

    def leave_nowhere(self, child: DesiredChild, member: MemberView) -> None:
        """Keep a child on a member that is to be emptied while no other is to take it, or stop it by force."""
        if member.forced:
            self.put(member.name, child.id, None)
            self.unplaced[child.id] = Unplaced(Reason.NO_MEMBERS, "all members are drained; placed when one is not")
        else:
            self.strand(child, member.name, STRANDED_ALONE)

    def strand(self, child: DesiredChild, member: str, otherwise: str) -> None:
        """Note that a child can't leave a member that is to be emptied; ``otherwise``: why, if it is not bound."""
        why = STRANDED_PINNED if child.pinned else STRANDED_GUIDED if child.nodes else otherwise
        self.stranded.setdefault(member, {})[child.id] = why

    def lost(self, name: str) -> bool:
        """Whether the member is proven to run nothing, and is not waited for."""
        member = self.members.get(name)
        return member is None or member.phase is Phase.GONE

    def joiners(self) -> list[MemberView]:
        """The members that take their share of children now."""
        return [
            member
            for member in sorted(self.snapshot.members, key=lambda member: member.name)
            if self.joining.get(member.name, member.joining) and takes(member)
        ]

    def candidates(self, more: int) -> list[Candidate]:
        """The members that may take children now, with their room under cap and capacity for ``more`` new ones."""
        if not self.snapshot.formed:
            return []
        room = self.room(more)
        open_members = [member for member in self.snapshot.members if takes(member)]
        if more and sum(room[member.name] for member in open_members) < more:
            # Not all members that the cap counts are there, so only the capacity limits.
            limit = self.snapshot.spec.members.max_children
            room = {member.name: max(0, limit - self.load[member.name]) for member in open_members}
        return [Candidate(member.name, member.weight, room[member.name]) for member in open_members]

    def no_room(self, candidates: list[Candidate]) -> Unplaced:
        """Why none of the ready members takes a child."""
        if all(candidate.weight <= 0 for candidate in candidates):
            names = listed([candidate.name for candidate in candidates])
            return Unplaced(Reason.NO_MEMBERS, f"each ready member ({names}) has weight 0 (spec.members.weights)")
        limit = self.snapshot.spec.members.max_children
        return Unplaced(
            Reason.CAPACITY_EXCEEDED,
            f"each ready member has its {counted(limit, 'child', 'children')} (spec.members.maxChildren); add "
            "members or raise it",
        )

    def no_place(self, child: DesiredChild, view: PlacementView) -> Unplaced:
        """Why no member takes this child, by the strategy or for want of room."""
        return self.strategy.why_not(child, view) or self.no_room(self.candidates(0))

    def placement_view(self, more: int) -> PlacementView:
        """The unfinished plan as the strategy sees it now, with room for ``more`` new children."""
        room = {candidate.name: candidate.room or 0 for candidate in self.candidates(more)}
        limit = self.snapshot.spec.members.max_children
        slots = (
            MemberSlot(
                name=member.name,
                weight=member.weight,
                open=member.name in room,
                wanted=member.wanted,
                children=self.load[member.name],
                room=room.get(member.name, 0),
                space=max(0, limit - self.load[member.name]) if member.name in room else 0,
                usage=member.usage,
            )
            for member in self.snapshot.members
        )
        last = self.last_placed
        if not last and self.strategy.by_turns:
            places = (place for places in self.snapshot.record.values() for place in places)
            newest = max(places, key=lambda place: place.entry.epoch, default=None)
            last = newest.member if newest else ""
        return PlacementView(spec=self.snapshot.spec, slots=tuple(slots), last=last)

    def full(self, name: str) -> Unplaced | None:
        """Why the member has no room for a child that is bound to it; None if it has."""
        limit = self.snapshot.spec.members.max_children
        if self.load[name] < limit:
            return None
        full = f"{name} has its {counted(limit, 'child', 'children')} (spec.members.maxChildren)"
        return Unplaced(Reason.CAPACITY_EXCEEDED, full)

    def room(self, more: int) -> dict[str, int]:
        """How many more children each open member may take under cap and capacity, with ``more`` new ones."""
        open_members = [member for member in self.snapshot.members if takes(member)]
        total = more + sum(self.load[member.name] for member in open_members)
        caps = load_caps(
            total,
            {member.name: member.weight for member in open_members},
            self.snapshot.spec.distribution.load_cap_percent,
        )
        limit = self.snapshot.spec.members.max_children
        return {name: max(0, min(cap, limit) - self.load[name]) for name, cap in caps.items()}

    def assignment(
        self,
        child: DesiredChild,
        *,
        wait: bool = False,
        role: str = Role.ACTIVE,
        run: int = 0,
        state: str = "",
        ended: str = "",
    ) -> Assignment:
        """The child's entry with the next epoch."""
        epoch = self.next_epoch
        self.next_epoch += 1
        return child.entry(epoch, wait=wait, role=role, run=run, state=state, ended=ended)

    def asleep(self, child: DesiredChild, role: str = Role.ACTIVE) -> Assignment:
        """The entry by which a suspended child gets a place, with the next epoch."""
        return msgspec.structs.replace(self.assignment(child, wait=True, role=role), asleep=True)

    def refreshed(self, child: DesiredChild, place: OnRecord, role: str) -> Assignment | None:
        """The entry for the child's present spec in this role, or None if the entry is that already.

        A changed workload, or a change from active to passive, is a restart with a new epoch. A promotion has a new
        epoch too, but the process keeps running. The same is true of a copy that was ordered to hand its state over and
        need not any more. A state that the child has not taken up yet stays with it.
        """
        entry, state = place.entry, place.untaken_state
        if entry.workload != child.workload or (entry.role == Role.ACTIVE and role == Role.PASSIVE):
            return self.assignment(child, role=role, state=state if entry.role == role else "")
        if entry.role != role or entry.to:
            return self.assignment(child, role=role, run=entry.started_with, state=state, ended=entry.ended)
        if not same_attributes(entry, child):
            return child.entry(entry.epoch, role=role, run=entry.run, state=state, ended=entry.ended)
        return None

    def put(self, member: str, child_id: str, entry: Assignment | None) -> None:
        """Set the child's entry in the member's slice; None removes it."""
        self.changes.setdefault(member, {})[child_id] = entry


def takes(member: MemberView) -> bool:
    """Whether the member may take children now."""
    return member.phase is Phase.LIVE and not member.draining and member.wanted


def same_attributes(entry: Assignment, child: DesiredChild) -> bool:
    """Whether the entry has the child's attributes that change without a restart."""
    return (
        entry.restart_policy == child.restart_policy
        and entry.tags == child.tags
        and entry.metadata == child.metadata
        and entry.asked == child.asked
        and entry.idle_seconds == child.idle_seconds
    )


def unavailable(*names: str, emptied: bool = False) -> Unplaced:
    """Why a child that is bound to these members does not run. ``emptied``: the only one is emptied by force."""
    if len(names) > 1:
        message = f"members {listed(names)} are not ready; started when one of them is"
    else:
        why = "is emptied by force; started when it takes children again"
        message = f"member {listed(names)} {why if emptied else 'is not ready; started when it is'}"
    return Unplaced(Reason.MEMBER_UNAVAILABLE, message)
