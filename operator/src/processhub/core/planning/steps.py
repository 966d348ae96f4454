"""One copy of each child: the next step for each child that is on record.

A child starts on another member only after its entry was removed, its state handed over or its former end proven; each
is a step. The children that are to be placed or moved are collected for ``single``, which finds members for them.
"""

from __future__ import annotations

import msgspec

from processhub.api.reasons import Role
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move, Unplaced
from processhub.core.model.snapshot import Claim, DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.builder import PlanBuilder, same_attributes, takes, unavailable
from processhub.core.planning.handover import Next, Step, goes_to, has_lost, has_taken_over, next_step, order_for
from processhub.core.strategies.migration import MigrationMode, MigrationStrategy, PossibleMove


class ChildSteps(PlanBuilder):
    """The part of the planning that follows the children on record and places none."""

    def __init__(self, snapshot: HubSnapshot, migration: MigrationStrategy) -> None:
        super().__init__(snapshot)
        self.migration = migration
        self.new: list[DesiredChild] = []
        self.lost_from: dict[str, str] = {}  # id → the member it was lost with or is to leave
        self.leaving: list[tuple[DesiredChild, str]] = []  # children of members that are drained
        self.movable: list[tuple[DesiredChild, str]] = []  # steady children that a join may move, and their member
        # Those that a join may move later, and the member that they will be on.
        self.unsteady: list[tuple[DesiredChild, str]] = []

    def follow_children(self) -> None:
        """Bring each child's entries one step nearer to what it asks for; collect those without a place."""
        record = self.snapshot.record
        live, active, deferred = Phase.LIVE, Role.ACTIVE, self.snapshot.deferred
        members, claims, uncertain = self.members, self.snapshot.claims, self.snapshot.uncertain
        for child_id, child in self.snapshot.children.items():
            places = record.get(child_id)
            if child_id in uncertain:
                self.leave_alone(places or ())
                continue
            if child.suspended:
                self._sleep(child, places or ())
                continue
            if places is None:
                self.new.append(child)
                continue
            if claims and child_id in claims and self._confirm(child, places, claims[child_id]):
                continue
            if len(places) == 1:
                # The fast path: on record once, on a live member, as asked for.
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
                    if not child.nodes and not child.pinned and not child.refused:
                        (self.unsteady if child_id in deferred else self.movable).append((child, member.name))
                    continue
            self._follow(child, places)

    # one child

    def begin_move(self, child: DesiredChild, source: str, target: str, why: str) -> None:
        """Put the waiting entry on ``target``, and have the source hand over where the hub does that.

        The state is not taken before the waiting entry is there, so the two need no order. A source whose entry changes
        otherwise is ordered in the next round.
        """
        super().begin_move(child, source, target, why)
        if child.id in self.changes.get(source, ()) or self.mode(child, source, target) is not MigrationMode.HOT:
            return
        entry = self.changes[target][child.id]
        there = next((place for place in self.snapshot.record[child.id] if place.member == source), None)
        if entry is not None and there is not None:
            self._order(child, there, OnRecord(target, entry))

    def mode(self, child: DesiredChild, source: str, target: str, *, by_choice: bool = False) -> MigrationMode:
        """How the hub's migration strategy has the child moved."""
        return self.migration.mode(child, PossibleMove(source=source, target=target, by_choice=by_choice))

    def _confirm(self, child: DesiredChild, places: tuple[OnRecord, ...], claim: Claim) -> bool:
        """Put a child on record where it was started because its owner could not be reached; whether that was done.

        The one case where another owner starts before the last one is proven stopped: the hub asks for it
        (onDemand.onOwnerLost Local), and gives up for it that there is one at a time.
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
        # A move's target is to be active: what else waits slept, beside another copy, when the hub kept several.
        waiting = [place for place in places if place.entry.wait and (not running or place.entry.role == Role.ACTIVE)]
        if any(place.entry.uid != child.uid for place in places):
            self.forget_earlier(child, places)
        elif handed := _handed_over(running):
            self._finish_move(child, *handed)
        elif waiting:
            self._continue_move(child, running, waiting[0])
            for surplus in places:
                if surplus.entry.wait and surplus is not waiting[0]:
                    self.put(surplus.member, child.id, None)
        else:
            # Of a hub that kept several copies, the active one stays.
            keeper = min(running, key=lambda place: (place.entry.role != Role.ACTIVE, -place.entry.epoch))
            for on_record in places:
                if on_record is not keeper:
                    self.put(on_record.member, child.id, None)
            self._settle(child, keeper)

    def _sleep(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> None:
        """Have a suspended child stop, and keep one place for it: where it is, not where a move was to take it.

        Of a handover that is committed both ends are kept, until the target is known to have taken the state.
        """
        if any(place.entry.uid != child.uid for place in places):
            self.forget_earlier(child, places)
            return
        source, keeper = _kept_asleep([place for place in places if not self.loses_its_place(child, place)])
        self.load.update([source.member] if source is not None else [])
        for place in places:
            if place is not keeper and place is not source:
                self.put(place.member, child.id, None)
        if keeper is not None:
            self.put_to_sleep(child, keeper, "" if keeper.up or keeper.came_up else keeper.got or keeper.entry.state)

    def _settle(self, child: DesiredChild, place: OnRecord) -> None:
        """A child with one entry: lost, to be moved, to be changed, or as it should be."""
        member = self.members.get(place.member)
        if member is None or (member.phase is Phase.GONE and not self._waits_for(child, member)):
            self.put(place.member, child.id, None)
            self.lost_from[child.id] = place.member
            self.new.append(child)
            return
        self.load[member.name] += 1
        waits = self._refresh(child, place)
        if member.phase is Phase.GONE:
            self.unplaced[child.id] = unavailable(member.name)
            return
        if waits:
            return  # one step at a time: a second waiting entry would have to be taken back
        if child.nodes and child.nodes[0] != member.name:
            self._move_bound(child, place)
        elif member.draining:
            self._leave(child, member)
        elif child.movable:
            self.unsteady.append((child, member.name))

    def _waits_for(self, child: DesiredChild, member: MemberView) -> bool:
        """Whether the child stays on record with a member that is gone."""
        return child.pinned or (member.wanted and bool(child.nodes) and child.nodes[0] == member.name)

    def _refresh(self, child: DesiredChild, place: OnRecord) -> bool:
        """Bring the entry up to what is asked for; whether it has to wait for something now."""
        entry = place.entry
        if entry.role != Role.ACTIVE and (
            blocked := self.blocked(
                child.id, besides=(place.member,), besides_pods_of=self.passive_pods(child.id, (place,))
            )
        ):
            # Of a hub that kept several copies: the active one may run yet, whatever else is to change here. Nor is it
            # moved: a handover makes its target active without asking again.
            self.unplaced[child.id] = blocked
            return True
        besides = (place.member, *self._waiting(child.id))
        if entry.to and (blocked := self.blocked(child.id, besides, besides_pods_of=(place.member,))):
            # Its target may have started it, and is not proven to have ended it: it was taken for gone, and is back.
            self.unplaced[child.id] = blocked
            return True
        child = self.due(child, entry)
        if entry.workload != child.workload:
            # With a Pod of its own it waits as at the end of a move: what follows starts when that is gone
            # (docs/protocol.md, rule 23).
            waits = child.id in self.snapshot.pods
            self.put(place.member, child.id, self.assignment(child, wait=waits))
            return waits
        if refreshed := self.refreshed(child, entry, Role.ACTIVE):
            self.put(place.member, child.id, refreshed)
        return False

    def _waiting(self, child_id: str) -> list[str]:
        """The members whose entry of the child is no order to start it, and of one that slept never was."""
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
        elif self.budget > 0:
            self.begin_move(child, place.member, target.name, "its nodes were changed")
        else:
            self.pending_moves += 1

    def _stay_until_taken(self, child: DesiredChild, member: MemberView, why: Unplaced) -> None:
        """It runs on where it is until the member that it is bound to takes it, unless a drain is to end that."""
        self.unplaced[child.id] = why
        if member.draining and member.forced:
            self.put(member.name, child.id, None)
        elif member.draining:
            self.stranded.setdefault(member.name, []).append(child.id)

    def _leave(self, child: DesiredChild, member: MemberView) -> None:
        if child.bound and not (member.forced and member.wanted):
            self.stranded.setdefault(member.name, []).append(child.id)
        if child.bound and member.forced:
            # On record with its member, not to be started: as at the end of a move.
            self.put(member.name, child.id, self.assignment(child, wait=True))
            self.unplaced[child.id] = unavailable(member.name)
            return
        if not child.bound:
            self.leaving.append((child, member.name))

    def _continue_move(self, child: DesiredChild, running: list[OnRecord], target: OnRecord) -> None:
        member = self.members.get(target.member)
        # One that is pinned and runs nowhere was edited in place: it waits for its member as it would have before.
        stays = child.pinned and not running and (not child.nodes or child.nodes[0] == target.member)
        lost = member is not None and (member.phase is Phase.GONE or not self._may_still_go(child, member))
        if member is None or (lost and not stays):
            # Given up: with the source still on record it simply stays there.
            self.put(target.member, child.id, None)
            if running:
                self._settle(child, max(running, key=lambda place: place.entry.epoch))
            else:
                self.new.append(child)
            return
        self.load[member.name] += 1
        resumes = target.entry.asleep and not running
        if member.phase is Phase.GONE or (member.draining and (member.forced or resumes)):
            self.unplaced[child.id] = unavailable(member.name)
            if not member.wanted:
                self.stranded.setdefault(member.name, []).append(child.id)
            if resumes:
                self.keep_asleep(child, target)
            return
        self.moving += not resumes
        if not child.bound:
            self.unsteady.append((child, member.name))
        if target.entry.asleep and running and child.id in member.possibly_running:
            return  # it may have been started with the state before it was suspended: that ends first
        for source in running:
            # While the target restarts the source runs on.
            if member.phase is Phase.LIVE or self.lost(source.member):
                self.release_source(child, source, target)
        if running:
            return
        blocked = self.blocked(child.id, besides=(member.name,))
        if blocked is None:
            self.put(member.name, child.id, self.assignment(child, state=target.got or target.entry.state))
        elif resumes or child.id in self.snapshot.pods:
            self.unplaced[child.id] = blocked  # that may take long, and is the pod's node's affair

    def release_source(self, child: DesiredChild, source: OnRecord, target: OnRecord) -> None:
        """One step further in taking the child from its source, with its state where the hub hands that over."""
        # What was ordered stands: only then is there a state that could be lost.
        hot = goes_to(source) == target.member or self.mode(child, source.member, target.member) is MigrationMode.HOT
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
                self.moving -= 1
                self.load[target.member] -= 1
                self.put(target.member, child.id, None)
                self.deferred.append(child.id)
                if not child.bound:
                    self.joining[target.member] = True  # it draws the child again once that is no longer deferred
                self._settle(child, source)

    def _finish_move(self, child: DesiredChild, source: OnRecord, target: OnRecord) -> None:
        """The target has the state and the order to start; the source keeps its copy while that may be needed."""
        source_member, member = self.members.get(source.member), self.members.get(target.member)
        emptied = source_member is not None and source_member.draining
        if self.lost(source.member) or has_taken_over(target, emptied=emptied):
            self.put(source.member, child.id, None)
            self._settle(child, target)
        elif member is None or self.lost(target.member):
            self.put(target.member, child.id, None)
            self._settle(child, source)
        elif target.failed and (not self._may_still_go(child, member) or self._is_asked_for_elsewhere(child, member)):
            # It does not come up there, and is not to stay: the source resumes when its end there is proven.
            self.put(target.member, child.id, None)
            self.load[source.member] += 1
        else:
            self.moving += 1
            self.load[target.member] += 1
            edited = self.due(child, target.entry)
            if has_lost(target):
                self.put(target.member, child.id, self.assignment(child, wait=True))
            elif edited.workload != target.entry.workload:
                # It may not come up as it was: the edit starts it anew with the same state.
                self.put(target.member, child.id, self.assignment(edited, state=target.entry.state))
            elif not same_attributes(target.entry, edited):
                entry = edited.entry(target.entry.epoch, run=target.entry.run, state=target.entry.state)
                self.put(target.member, child.id, entry)

    def _may_still_go(self, child: DesiredChild, member: MemberView) -> bool:
        return member.wanted and not member.draining and (not child.nodes or child.nodes[0] == member.name)

    def _is_asked_for_elsewhere(self, child: DesiredChild, member: MemberView) -> bool:
        ordered = self.snapshot.move_requests.get(child.id, member.name)
        return ordered != member.name and not child.bound and not self.unfit(ordered)


def _kept_asleep(places: list[OnRecord]) -> tuple[OnRecord | None, OnRecord | None]:
    """Of a suspended child the source of a handover, where its copy may be needed yet, and the place that it keeps."""
    if handed := _handed_over(places):
        source, target = handed
        return (None if has_taken_over(target, emptied=False) else source), target

    def last(place: OnRecord) -> tuple[bool, bool, int]:
        entry = place.entry
        is_target = entry.wait and not entry.asleep
        return is_target, entry.role != Role.ACTIVE, -entry.epoch

    return None, min(places, key=last, default=None)


def _handed_over(running: list[OnRecord]) -> tuple[OnRecord, OnRecord] | None:
    """Source and target of a handover that is committed, None where there is none."""
    for source in running:
        for target in running:
            if target.entry.state and goes_to(source) == target.member:
                return source, target
    return None
