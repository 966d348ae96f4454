"""The planner: from one snapshot to what the slices shall say.

Pure: the operator, ``kubectl hub plan``, the model checker and the benchmarks call the same function.
Placement is sticky: a child on record stays where it is. Rules by number are PROTOCOL.md's:

- a child gets an entry only when no other member may still run its id (7), and a new uid only after the old one's end;
- a planned move writes the waiting entry first, removes the source's in a later round, and starts the target
  when the source is proven stopped (8);
- a member that is GONE loses its entries at once, except bound children, which wait for it (10, 17);
- a join moves children only onto the joiner, and only where it outranks their present member (18);
- a suspended child runs nowhere and keeps its place, and its room there: it is started where it stood (8).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from processhub.api.reasons import Reason, Role
from processhub.core.model.membership import Phase
from processhub.core.model.placement import NOWHERE
from processhub.core.model.plan import Move, Plan, Unplaced
from processhub.core.model.snapshot import Claim, DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.builder import (
    MAPPED,
    NOT_PLACED,
    PINNED,
    REFUSED,
    PlanBuilder,
    same_attributes,
    takes,
    unavailable,
)
from processhub.core.planning.handover import Next, Step, goes_to, has_lost, has_taken_over, next_step, order_for
from processhub.core.planning.partitioned import plan_partitioned
from processhub.core.planning.placementview import placement_view
from processhub.core.planning.replicated import ReplicaPlanner
from processhub.core.strategies import HASH, Strategy, strategy_of
from processhub.core.strategies.migration import MigrationMode, MigrationStrategy, PossibleMove, migration_of


def plan(snapshot: HubSnapshot, strategy: Strategy | None = None, migration: MigrationStrategy | None = None) -> Plan:
    """What to change now. Executing it and planning again with the outcome leads, step by step, to rest.

    ``strategy`` and ``migration`` are the hub's where they are none of ProcessHub's own; without, KeyError is raised.
    """
    if snapshot.partitioned:
        return plan_partitioned(snapshot)
    strategy = strategy or strategy_of(snapshot.spec.distribution.strategy)
    if snapshot.spec.keeps_copies:
        replicas = ReplicaPlanner(snapshot, strategy)
        replicas.remove_unwanted()
        replicas.follow_children()
        replicas.apply_move_requests()
        replicas.top_up()
        replicas.rebalance()
        return replicas.result()
    planner = SingleCopyPlanner(snapshot, strategy, migration or migration_of(snapshot.spec.migration.strategy))
    planner.remove_unwanted()
    planner.follow_children()
    planner.place_new()
    planner.apply_move_requests()
    planner.drain()
    planner.rebalance()
    planner.detect_imbalance()
    return planner.result()


class SingleCopyPlanner(PlanBuilder):
    """One copy of each child."""

    def __init__(self, snapshot: HubSnapshot, strategy: Strategy, migration: MigrationStrategy) -> None:
        super().__init__(snapshot)
        self.strategy, self.migration = strategy, migration
        self.new: list[DesiredChild] = []
        self.lost_from: dict[str, str] = {}  # id → the member it was lost with or is to leave
        self.leaving: list[tuple[DesiredChild, str]] = []  # children of members that are drained
        self.movable: list[tuple[DesiredChild, str]] = []  # steady children that a join may move, and their member
        self.unsteady: list[
            tuple[DesiredChild, str]
        ] = []  # those that it may move later, and the member they will be on

    # steps

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

    def place_new(self) -> None:
        """Find a member for each child that has none."""
        ready: list[DesiredChild] = []
        for child in self.new:
            if blocked := self.blocked(child.id):
                self.unplaced[child.id] = blocked
            elif child.nodes:
                self._place_bound(child, child.nodes[0])
            else:
                ready.append(child)
        if not ready:
            return
        if not any(takes(member) for member in self.snapshot.members) or not self.snapshot.formed:
            message = "no member of the hub is ready; placed when one is"
            self.unplaced.update({child.id: Unplaced(Reason.NO_MEMBERS, message) for child in ready})
            return
        again = [child for child in ready if child.id in self.lost_from] if self.strategy.hash_after_loss else []
        fresh = [child for child in ready if child.id not in self.lost_from] if again else ready
        self._place(again, HASH)
        self._place(fresh, self.strategy)

    def _place(self, children: list[DesiredChild], strategy: Strategy) -> None:
        if not children:
            return
        view = placement_view(self, self.strategy, len(children))
        left_over = []
        for child, index in zip(children, strategy.place(children, view).tolist(), strict=True):
            if index == NOWHERE:
                left_over.append(child)
                continue
            name = view.slots[index].name
            if child.id not in self.lost_from:
                self.last_placed = name
            self._start(child, name)
        if left_over:
            view, full = placement_view(self, self.strategy, 0), self.no_room(self.candidates(0))
            self.unplaced.update({child.id: strategy.why_not(child, view) or full for child in left_over})

    def apply_move_requests(self) -> None:
        """Move children to where somebody asked to have them, within the budget."""
        if not self.snapshot.move_requests:
            return
        sources = {child.id: source for child, source in (*self.leaving, *self.movable)}
        begun = set[str]()
        for child_id, name in self.snapshot.move_requests.items():
            answer = self._apply_move_request(child_id, name, sources, begun)
            if answer is not None:
                self.move_results[child_id] = answer
        if begun:
            self.movable = [pair for pair in self.movable if pair[0].id not in begun]
            self.leaving = [pair for pair in self.leaving if pair[0].id not in begun]

    def drain(self) -> None:
        """Move children off the members that are to be emptied, within the budget."""
        now = self.leaving[: max(self.budget, 0)]
        self.pending_moves += len(self.leaving) - len(now)
        if not now:
            return
        view = placement_view(self, self.strategy, len(now))
        strategy = HASH if self.strategy.hash_after_loss else self.strategy
        chosen = strategy.place([child for child, _ in now], view)
        for (child, source), index in zip(now, chosen.tolist(), strict=True):
            if index == NOWHERE:
                self.pending_moves += 1
            else:
                self.begin_move(child, source, view.slots[index].name, f"{source} is drained")

    def rebalance(self) -> None:
        """Move onto the joiners the children that they outrank the present member for, within the budget."""
        joiners = [
            member
            for member in sorted(self.snapshot.members, key=lambda member: member.name)
            if self.joining.get(member.name, member.joining) and member.phase is Phase.LIVE and not member.draining
        ]
        if not joiners:
            return
        unfinished: set[str] = set()
        if self.snapshot.spec.distribution.rebalance.on_join:
            unfinished = self._move_onto(joiners) | self._to_be_seen(joiners)
        for member in joiners:
            if member.name not in unfinished:
                self.joining[member.name] = False

    def detect_imbalance(self) -> None:
        """Look for an imbalance of loads, once nothing else is under way."""
        restless = self.moving or self.pending_moves or any(member.joining for member in self.snapshot.members)
        if not restless and not self.joining:
            self.imbalance = self.strategy.imbalance(placement_view(self, self.strategy, 0))

    # one child

    def begin_move(self, child: DesiredChild, source: str, target: str, why: str) -> None:
        """Put the waiting entry on ``target``, and have the source hand over where the hub does that.

        The state is not taken before the waiting entry is there, so the two need no order. A source whose entry changes
        otherwise is told in the next round.
        """
        super().begin_move(child, source, target, why)
        if child.id in self.changes.get(source, ()) or self._mode(child, source, target) is not MigrationMode.HOT:
            return
        entry = self.changes[target][child.id]
        there = next((place for place in self.snapshot.record[child.id] if place.member == source), None)
        if entry is not None and there is not None:
            self._order(child, there, OnRecord(target, entry))

    def _mode(self, child: DesiredChild, source: str, target: str, *, by_choice: bool = False) -> MigrationMode:
        return self.migration.mode(child, PossibleMove(source=source, target=target, by_choice=by_choice))

    def _confirm(self, child: DesiredChild, places: tuple[OnRecord, ...], claim: Claim) -> bool:
        """Put a child on record where it was started because its owner could not be reached; whether that is so.

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
            # With a Pod of its own it waits as at the end of a move: what follows starts when that is gone (23).
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
        hot = goes_to(source) == target.member or self._mode(child, source.member, target.member) is MigrationMode.HOT
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

    def _place_bound(self, child: DesiredChild, name: str) -> None:
        member = self.members.get(name)
        if member is None or not takes(member) or not self.snapshot.formed:
            self.unplaced[child.id] = unavailable(name)
        elif full := self.full(name):
            self.unplaced[child.id] = full
        else:
            self._start(child, name)

    def _start(self, child: DesiredChild, name: str) -> None:
        self.load[name] += 1
        self.put(name, child.id, self.assignment(child))
        if source := self.lost_from.get(child.id):
            self.moves.append(Move(child.id, source, name, f"{source} was lost", lost=True))

    # orders

    def _apply_move_request(self, child_id: str, name: str, sources: Mapping[str, str], begun: set[str]) -> str | None:
        """How the order ended: "" where the child is on record there, else why not; None while it is under way.

        ``sources``: the member of each child that may be moved now. One whose move begins is put into ``begun``.
        """
        child, places = self.snapshot.children.get(child_id), self.snapshot.record.get(child_id, ())
        if child is None or child.suspended or not places:
            return NOT_PLACED
        if name == self._ends_up_on(child_id, places):
            return ""
        if child.nodes:
            return MAPPED
        if child.pinned:
            return PINNED
        if unfit := self.unfit(name):
            return unfit
        if full := self.full(name):
            return full.message
        source = sources.get(child_id)
        if source is None and child.refused:
            return REFUSED
        if source is not None and self.budget > 0:
            begun.add(child_id)
            self.begin_move(child, source, name, "it was asked for")
        else:
            self.pending_moves += 1
        return None

    def _ends_up_on(self, child_id: str, places: tuple[OnRecord, ...]) -> str:
        """The member that the child will be on when the move under way is over; "" where it is placed anew."""
        left = [place for place in places if self.changes.get(place.member, {}).get(child_id, place.entry) is not None]
        # A target's entry is newer than its source's.
        return max(left, key=lambda place: place.entry.epoch).member if left else ""

    # joins

    def _move_onto(self, joiners: list[MemberView]) -> set[str]:
        """Begin moves, each child onto the joiner that draws it most; the joiners that have some left for later."""
        begun = {move.id for move in self.moves}
        movable = [(child, source) for child, source in self.movable if child.id not in begun]
        if not movable:
            return set()
        view = placement_view(self, self.strategy, 0)
        chosen, drawn = self.strategy.draw(movable, [joiner.name for joiner in joiners], view)
        slots = {slot.name: slot for slot in view.slots}
        unfinished, full, left = set[str](), set[str](), set[str]()
        for index, joiner in enumerate(joiners):
            wanting = np.flatnonzero(chosen == index)
            # The strongest first, so that a round cut off by the budget or the cap takes what belongs there most.
            order = wanting[np.argsort(-drawn[wanting], kind="stable")]
            room = slots[joiner.name].room if self.strategy.capped else slots[joiner.name].space
            take = min(len(order), room)
            now = min(take, max(self.budget, 0))
            for position in order[:now].tolist():
                child, source = movable[position]
                if self._mode(child, source, joiner.name, by_choice=True) is MigrationMode.LATER:
                    self.deferred.append(child.id)
                    unfinished.add(joiner.name)
                    continue
                left.add(source)
                self.begin_move(child, source, joiner.name, f"{joiner.name} {self._why(joiner)}")
            self.pending_moves += take - now
            if take > now:
                unfinished.add(joiner.name)
            if len(order) > take:
                full.add(joiner.name)
        # Where members trade children, one that is full has room again when those that leave it have.
        return unfinished | (full & left)

    def _why(self, joiner: MemberView) -> str:
        return "draws it by strategy and weights" if joiner.resettles else "joined"

    def _to_be_seen(self, joiners: list[MemberView]) -> set[str]:
        """The joiners that stay so, because children that they may outrank the member of can't be moved yet.

        Such are those of a member that is away, those on their way and those that are being edited.
        """
        if any(member.phase is Phase.HELD for member in self.snapshot.members):
            return {member.name for member in joiners}
        if not self.unsteady:
            return set()
        chosen, _ = self.strategy.draw(
            self.unsteady, [joiner.name for joiner in joiners], placement_view(self, self.strategy, 0)
        )
        return {joiners[index].name for index in set(chosen.tolist()) if index != NOWHERE}


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
