"""One copy of each child: the next step for each child that is on record.

A child starts on another member only after its entry was removed, its state was handed over or its former end was
proven. Each of these is a step. Children that must be placed or moved are collected for ``single``, which finds members
for them.
"""

from __future__ import annotations

import msgspec

from processhub.api.reasons import Role, State
from processhub.core.model.membership import Phase
from processhub.core.model.plan import STRANDED_ALONE, STRANDED_GUIDED, Move, Unplaced
from processhub.core.model.snapshot import Claim, DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.builder import PlanBuilder, same_attributes, takes, unavailable
from processhub.core.planning.handover import (
    Next,
    Step,
    goes_to,
    handed_over,
    has_lost,
    has_taken_over,
    kept_asleep,
    next_step,
    order_for,
)
from processhub.core.planning.steady import SteadyChildren
from processhub.core.strategies.base import Strategy
from processhub.core.strategies.migration import MigrationMode, MigrationStrategy, PossibleMove
from processhub.registry.grammar import parse_end


class ChildSteps(PlanBuilder):
    """The part of the planning that follows the children on record. It places none."""

    def __init__(
        self, snapshot: HubSnapshot, strategy: Strategy, migration: MigrationStrategy, steady: SteadyChildren | None
    ) -> None:
        super().__init__(snapshot, strategy)
        self.migration = migration
        self._steady = steady or SteadyChildren()
        self.new: list[DesiredChild] = []
        self.lost_from: dict[str, str] = {}  # id → the member that the child was lost with or must leave
        # Of those without a place, the ones that have ended for good: id → where, until another member's entry says so.
        self.ended: dict[str, OnRecord] = {}
        self.leaving: list[tuple[DesiredChild, str]] = []  # children of members that are drained
        # Steady children that a join or a request may move, and their members. Without either it is not complete.
        self.movable: list[tuple[DesiredChild, str]] = []
        # Children that a join may move later, and the members that they will be on.
        self.unsteady: list[tuple[DesiredChild, str]] = []

    def follow_children(self) -> None:
        """Take the next step for each child's entries, and collect the children without a place."""
        record = self.snapshot.record
        live, active, deferred = Phase.LIVE, Role.ACTIVE, self.snapshot.deferred
        members, claims, uncertain = self.members, self.snapshot.claims, self.snapshot.uncertain
        # A request starts an id that is on no record, whatever the object says that declares it.
        by_request = self.snapshot.spec.on_demand is not None and not self.snapshot.spec.suspend
        if self.snapshot.move_requests or self.joiners():
            self._steady.forget()  # They may be moved.
        (ids, steady), others = self._steady.since(self.snapshot), set[str]()
        self.load.update(steady)
        for child_id in ids:
            child, places = self.snapshot.children[child_id], record.get(child_id)
            others.add(child_id)
            if child_id in uncertain:
                self.leave_alone(places or ())
                continue
            if child.suspended and (places is not None or not by_request):
                self._sleep(child, places or ())
                continue
            if places is None:
                self.new.append(child)
                continue
            if claims and child_id in claims and self._confirm(child, places, claims[child_id]):
                continue
            if len(places) == 1:
                # The fast path: the child is on record once, on a live member, as specified.
                on_record = places[0]
                entry = on_record.entry
                member = members.get(on_record.member)
                if (
                    member is not None
                    and member.phase is live
                    and not member.draining
                    and not entry.wait
                    and entry.workload == child.workload
                    and entry.uid == child.uid
                    and entry.role == active
                    and not entry.to
                    and (not child.nodes or child.nodes[0] == member.name)
                    and same_attributes(entry, child)
                ):
                    self.load[member.name] += 1
                    steady[member.name] += 1
                    others.discard(child_id)
                    if not child.nodes and not child.pinned and not child.refused:
                        (self.unsteady if child_id in deferred else self.movable).append((child, member.name))
                    continue
            self._follow(child, places)
        self._steady.keep(self.snapshot, others, steady)

    def joiners(self) -> list[MemberView]:
        """The members that take their share of children now."""
        return [
            member
            for member in sorted(self.snapshot.members, key=lambda member: member.name)
            if self.joining.get(member.name, member.joining) and member.phase is Phase.LIVE and not member.draining
        ]

    # Steps for one child.

    def begin_move(self, child: DesiredChild, source: str, target: str, why: str) -> bool:
        """Put the waiting entry on ``target``, and order the handover if the migration strategy has one.

        Returns False if the child was on ``target``, and its removal there is not acknowledged: by what that member
        keeps of its former stay it would start with a state that is older than the child (docs/protocol.md, rule 20).
        If the source's entry changes for another reason in this plan, it gets the order in the next round.
        """
        if child.id in self.changes.get(target, ()) or self.proofs.may_run(child.id, target):
            self.budget.put_off()
            return False
        super().begin_move(child, source, target, why)
        entry = self.changes[target][child.id]
        there = next((place for place in self.snapshot.record[child.id] if place.member == source), None)
        if entry is None or there is None:
            return True
        if end := self.end_of(child, there, ordered=self.snapshot.move_requests.get(child.id) == target):
            self.put(target, child.id, msgspec.structs.replace(entry, ended=end))
        elif child.id not in self.changes.get(source, ()) and self.mode(child, source, target) is MigrationMode.HOT:
            self._order(child, there, OnRecord(target, entry))
        return True

    def end_of(self, child: DesiredChild, place: OnRecord, *, ordered: bool = False) -> str:
        """The end that the child has on this place, "" if the next place is to start it (docs/protocol.md, rule 34).

        ``ordered``: a user has ordered the move. That starts a child again that has exceeded its restarts.
        """
        end = place.end or place.entry.ended
        if not end or (place.entry.uid, place.entry.workload) != (child.uid, child.workload):
            return ""
        ordered = ordered or (bool(child.nodes) and place.member not in child.nodes)
        return "" if ordered and parse_end(end).state == State.FAILED else end

    def mode(self, child: DesiredChild, source: str, target: str, *, by_choice: bool = False) -> MigrationMode:
        """The mode in which the hub's migration strategy moves the child."""
        return self.migration.mode(child, PossibleMove(source=source, target=target, by_choice=by_choice))

    def _confirm(self, child: DesiredChild, places: tuple[OnRecord, ...], claim: Claim) -> bool:
        """Put a local takeover on record; returns whether it was done.

        This is the one case in which another owner starts before the last one is proven stopped. The hub asks for it
        (onDemand.onOwnerLost Local), and accepts that two copies may run for a time.
        """
        template, member, (owner, *others) = self.snapshot.spec.on_demand, self.members.get(claim.member), places
        if template is None or template.on_owner_lost != "Local" or not child.on_demand or child.bound or others:
            return False
        if owner.entry.wait or (owner.entry.uid, owner.entry.epoch) != (claim.uid, claim.epoch):
            return False
        if owner.member == claim.member or child.uid != claim.uid or member is None or not takes(member):
            return False
        run = owner.entry.started_with if owner.entry.workload == child.workload else 0
        self.put(claim.member, child.id, self.assignment(child, run=run))
        self.put(owner.member, child.id, None)
        self.load[claim.member] += 1
        why = f"{claim.member} was asked for it and could not reach {owner.member}"
        self.moves.append(Move(child.id, owner.member, claim.member, why, lost=True))
        return True

    def _order(self, child: DesiredChild, source: OnRecord, target: OnRecord) -> None:
        member = self.members.get(source.member)
        order = order_for(target, must=member is not None and member.draining)
        self.put(source.member, child.id, msgspec.structs.replace(source.entry, to=order))

    def _follow(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> None:
        running = [place for place in places if not place.entry.wait]
        # The target of a move becomes active. Any other waiting copy was asleep, beside another copy, when the hub kept
        # several.
        waiting = [place for place in places if place.entry.wait and (not running or place.entry.role == Role.ACTIVE)]
        # Of a child that has ended, the entry of a lost member may still be there beside the next one. One that is
        # resumed keeps its place, whatever is left of a move that it was in.
        waiting.sort(key=lambda place: (-place.entry.epoch if place.entry.ended else 0, not place.entry.asleep))
        if self.follows_earlier(child, places):
            return
        if handed := handed_over(running):
            self._finish_move(child, *handed)
        elif waiting:
            self._continue_move(child, running, waiting[0])
            for surplus in places:
                if surplus.entry.wait and surplus is not waiting[0]:
                    self.put(surplus.member, child.id, None)
        else:
            # If the hub kept several copies, the active one stays.
            keeper = min(running, key=lambda place: (place.entry.role != Role.ACTIVE, -place.entry.epoch))
            for on_record in places:
                if on_record is not keeper:
                    self.put(on_record.member, child.id, None)
            self._settle(child, keeper)

    def _sleep(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> None:
        """Stop a suspended child and keep one place for it: its present one, not the target of a move.

        After the commit of a handover both ends are kept, until the target is known to have taken the state.
        """
        if self.follows_earlier(child, places):
            return
        source, keeper = kept_asleep([place for place in places if not self.loses_its_place(child, place)])
        self.load.update([source.member] if source is not None else [])
        for place in places:
            if place is not keeper and place is not source:
                self.put(place.member, child.id, None)
        if keeper is not None:
            self.put_to_sleep(child, keeper, keeper.untaken_state)

    def _settle(self, child: DesiredChild, place: OnRecord) -> None:
        """Decide on a child with one entry: it may be lost, be moved, be changed, or stay as it is."""
        member = self.members.get(place.member)
        if member is None or (member.phase is Phase.GONE and not self._waits_for(child, member)):
            self._place_again(child, place)
            self.lost_from[child.id] = place.member
            return
        self.load[member.name] += 1
        waits = self._refresh(child, place)
        if member.phase is Phase.GONE:
            self.unplaced[child.id] = unavailable(member.name)
            if not member.wanted:
                self.strand(child, member.name, STRANDED_ALONE)
            return
        if waits:
            return  # one step at a time: a second waiting entry would have to be taken back
        if child.nodes and child.nodes[0] != member.name:
            self._move_bound(child, place)
        elif member.draining:
            self._leave(child, place, member)
        elif child.movable:
            self.unsteady.append((child, member.name))

    def _place_again(self, child: DesiredChild, place: OnRecord) -> None:
        """Look for another member. The entry of a child that has ended stays until another member has one with that."""
        if self.end_of(child, place):
            self.ended[child.id] = place
            if self.no_member_left and not self.lost(place.member):
                self.strand(child, place.member, STRANDED_ALONE)
        else:
            self.put(place.member, child.id, None)
        self.new.append(child)

    def _waits_for(self, child: DesiredChild, member: MemberView) -> bool:
        """Whether the child stays on record with a member that is gone."""
        return child.pinned or (member.wanted and bool(child.nodes) and child.nodes[0] == member.name)

    def _refresh(self, child: DesiredChild, place: OnRecord) -> bool:
        """Update the entry to the child's spec; returns whether it must wait for something now."""
        entry = place.entry
        if entry.role != Role.ACTIVE and (
            blocked := self.proofs.blocked(
                child.id, besides=(place.member,), besides_pods_of=self.proofs.passive_pods(child.id, (place,))
            )
        ):
            # The hub kept several copies, and the active one may still run, so nothing else changes here. Nor is the
            # child moved: a handover makes its target active without a further check.
            self.unplaced[child.id] = blocked
            return True
        besides = (place.member, *self._waiting(child.id))
        if entry.to and (blocked := self.proofs.blocked(child.id, besides, besides_pods_of=(place.member,))):
            # Its target was taken for gone and has returned: it may have started the child, and is not proven to have
            # ended it.
            self.unplaced[child.id] = blocked
            return True
        child = self.due(child, entry)
        if entry.workload != child.workload:
            # The child has a Pod of its own, so it waits as at the end of a move: the next run starts when that Pod is
            # gone (docs/protocol.md, rule 23).
            waits = child.id in self.snapshot.pods
            self.put(place.member, child.id, self.assignment(child, wait=waits, state=place.untaken_state))
            return waits
        if refreshed := self.refreshed(child, place, Role.ACTIVE):
            self.put(place.member, child.id, refreshed)
        return False

    def _waiting(self, child_id: str) -> list[str]:
        """The members whose entry of the child does not order a start, and never did if it is asleep."""
        return [
            place.member
            for place in self.snapshot.record[child_id]
            if place.entry.wait and not (place.entry.asleep and child_id in self.members[place.member].possibly_running)
        ]

    def _move_bound(self, child: DesiredChild, place: OnRecord) -> None:
        target = self.members.get(child.nodes[0])
        if target is None or not takes(target):
            self._stay_until_taken(child, self.members[place.member], unavailable(child.nodes[0]))
        elif full := self.full(target.name):
            self._stay_until_taken(child, self.members[place.member], full)
        elif not self.budget.spent:
            self.begin_move(child, place.member, target.name, "its nodes were changed")
        else:
            self.budget.put_off()

    def _stay_until_taken(self, child: DesiredChild, member: MemberView, why: Unplaced) -> None:
        """Keep the child where it is until the member that it is bound to takes it, unless a drain by force ends it."""
        self.unplaced[child.id] = why
        if member.draining and member.forced:
            self.put(member.name, child.id, None)
        elif member.draining:
            self.strand(child, member.name, why.message)

    def _leave(self, child: DesiredChild, place: OnRecord, member: MemberView) -> None:
        if child.bound and not (member.forced and member.wanted):
            self.strand(child, member.name, STRANDED_GUIDED)
        end = self.end_of(child, place)
        if member.forced and (child.bound or (end and self.no_member_left)):
            # The child stays on record with its member without being started, as at the end of a move.
            state = "" if end else place.untaken_state
            self.put(member.name, child.id, self.assignment(child, wait=True, state=state, ended=end))
            self.unplaced[child.id] = unavailable(member.name, emptied=True)
            if not child.bound:
                self.strand(child, member.name, STRANDED_ALONE)
            return
        if child.bound:
            return
        if self.no_member_left:
            self.leave_nowhere(child, member)
        else:
            self.leaving.append((child, member.name))

    def _continue_move(self, child: DesiredChild, running: list[OnRecord], target: OnRecord) -> None:
        member = self.members.get(target.member)
        # A pinned child that runs nowhere was edited in place: it waits for its member, as it did before.
        stays = child.pinned and not running and (not child.nodes or child.nodes[0] == target.member)
        lost = member is not None and (member.phase is Phase.GONE or not self._may_still_go(child, member))
        if member is None or (lost and not stays):
            # The move is cancelled. If the source is still on record, the child stays there.
            if running:
                self.put(target.member, child.id, None)
                self._settle(child, max(running, key=lambda place: place.entry.epoch))
            else:
                self._place_again(child, target)
            return
        self.load[member.name] += 1
        resumes = target.entry.asleep and not running
        if member.phase is Phase.GONE or (member.draining and (member.forced or resumes)):
            emptied = member.phase is not Phase.GONE and member.forced
            self.unplaced[child.id] = unavailable(member.name, emptied=emptied)
            if not member.wanted:
                self.strand(child, member.name, "suspended, and keeps its place")
            if resumes:
                self.keep_asleep(child, target)
            return
        self.budget.moving += not resumes
        if not child.bound:
            self.unsteady.append((child, member.name))
        if target.entry.asleep and running and child.id in member.possibly_running:
            return  # the child may have been started with the state before it was suspended: that run must end first
        for source in running:
            if target.entry.asleep and has_taken_over(target, emptied=False):
                # It was up before it was suspended. The source's copy is older than what it left there.
                self.put(source.member, child.id, None)
            # While the target restarts, the source keeps running.
            elif member.phase is Phase.LIVE or self.lost(source.member):
                self.release_source(child, source, target)
        if running:
            return
        blocked = self.proofs.blocked(child.id, besides=(member.name,))
        if blocked is None:
            end = self.end_of(child, target)
            state = "" if end else target.untaken_state
            self.put(member.name, child.id, self.assignment(child, state=state, ended=end))
        elif resumes or child.id in self.snapshot.pods:
            self.unplaced[child.id] = blocked  # reported because this may take long: it depends on the Pod's node

    def release_source(self, child: DesiredChild, source: OnRecord, target: OnRecord) -> None:
        """Take the next step in removing the child from its source, with a handover if the strategy has one."""
        if target.entry.ended:
            self.put(source.member, child.id, None)
            return
        if end := self.end_of(child, source, ordered=True):
            # It has ended since the move began. The target's entry says so before the source's is removed.
            self.put(target.member, child.id, msgspec.structs.replace(target.entry, ended=end))
            return
        if source.entry.epoch > target.entry.epoch:
            # The move was given up, and the child has run on there. A state that the target has got is older than that.
            if self.lost(source.member):
                self.put(target.member, child.id, self.assignment(child, wait=True))
            else:
                self._give_up_move(child, source, target)
            return
        # An order that was given is completed: only then is there a state that could be lost.
        ordered = goes_to(source.entry) == target.member
        hot = ordered or self.mode(child, source.member, target.member) is MigrationMode.HOT
        source_member = self.members.get(source.member)
        following = next_step(source, source_member, target) if hot else Next(Step.COLD)
        match following.step:
            case Step.COLD:
                self.put(source.member, child.id, None)
            case Step.ORDER:
                self._order(child, source, target)
            case Step.COMMIT:
                self.put(target.member, child.id, self.assignment(child, state=following.checksum))
            case Step.AGAIN:
                self.put(target.member, child.id, self.assignment(child, wait=True))
            case Step.DEFER:
                self.deferred.append(child.id)
                self._give_up_move(child, source, target)

    def _give_up_move(self, child: DesiredChild, source: OnRecord, target: OnRecord) -> None:
        self.budget.moving -= 1
        self.load[target.member] -= 1
        self.put(target.member, child.id, None)
        if not child.bound:
            self.joining[target.member] = True  # the member draws the child again when it is no longer deferred
        self._settle(child, source)

    def _finish_move(self, child: DesiredChild, source: OnRecord, target: OnRecord) -> None:
        """Finish a committed move: the target may start; the source keeps its copy of the state while it is needed."""
        source_member, member = self.members.get(source.member), self.members.get(target.member)
        emptied = source_member is not None and source_member.draining
        if self.lost(source.member) or has_taken_over(target, emptied=emptied):
            self.put(source.member, child.id, None)
            self._settle(child, target)
        elif member is None or self.lost(target.member):
            self.put(target.member, child.id, None)
            self._settle(child, source)
        elif target.failed and (not self._may_still_go(child, member) or self._is_asked_for_elsewhere(child, member)):
            # The child does not come up there, and must not stay. The source resumes when its end there is proven.
            self.put(target.member, child.id, None)
            self.load[source.member] += 1
        else:
            self.budget.moving += 1
            self.load[target.member] += 1
            edited = self.due(child, target.entry)
            if has_lost(target):
                self.put(target.member, child.id, self.assignment(child, wait=True))
            elif edited.workload != target.entry.workload:
                # It may not come up as it was. The edit starts it again with the same state.
                self.put(target.member, child.id, self.assignment(edited, state=target.entry.state))
            elif not same_attributes(target.entry, edited):
                entry = edited.entry(target.entry.epoch, run=target.entry.run, state=target.entry.state)
                self.put(target.member, child.id, entry)

    def _may_still_go(self, child: DesiredChild, member: MemberView) -> bool:
        return member.wanted and not member.draining and (not child.nodes or child.nodes[0] == member.name)

    def _is_asked_for_elsewhere(self, child: DesiredChild, member: MemberView) -> bool:
        ordered = self.snapshot.move_requests.get(child.id, member.name)
        return ordered != member.name and not child.bound and not self.unfit(ordered)
