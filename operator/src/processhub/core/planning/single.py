"""The planner for one copy of each child: which member a child is placed on or moved to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from processhub.api.reasons import Reason
from processhub.core.model.membership import Phase
from processhub.core.model.placement import NOWHERE
from processhub.core.model.plan import Move, Unplaced
from processhub.core.model.snapshot import DesiredChild, MemberView, OnRecord
from processhub.core.planning.builder import MAPPED, NOT_PLACED, PINNED, REFUSED, takes, unavailable
from processhub.core.planning.steps import ChildSteps
from processhub.core.strategies import HASH, Strategy
from processhub.core.strategies.base import PlacementView
from processhub.core.strategies.migration import MigrationMode


class SingleCopyPlanner(ChildSteps):
    """The planner of hubs that keep one copy of each child."""

    def place_new(self) -> None:
        """Find a member for each child that has none."""
        ready: list[DesiredChild] = []
        for child in self.new:
            ended = self.ended.get(child.id)
            if blocked := self.proofs.blocked(child.id, () if ended is None else (ended.member,)):
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
        view = self.placement_view(len(children))
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
            view, full = self.placement_view(0), self.no_room(self.candidates(0))
            self.unplaced.update({child.id: strategy.why_not(child, view) or full for child in left_over})

    def apply_move_requests(self) -> None:
        """Carry out the requests to move children, within the budget."""
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
        now = self.leaving[: self.budget.allow(len(self.leaving))]
        if not now:
            return
        view = self.placement_view(len(now))
        strategy = HASH if self.strategy.hash_after_loss else self.strategy
        chosen = strategy.place([child for child, _ in now], view)
        for (child, source), index in zip(now, chosen.tolist(), strict=True):
            if index == NOWHERE:
                self.budget.put_off()
                self.budget.why = self.budget.why or self._why_it_stays(child, view)
            else:
                self.begin_move(child, source, view.slots[index].name, f"{source} is drained")

    def _why_it_stays(self, child: DesiredChild, view: PlacementView) -> str:
        """Why no member takes a child of a member that is to be emptied."""
        if not any(slot.open for slot in view.slots):
            return "no other member is ready"
        return self.no_place(child, view).message

    def rebalance(self) -> None:
        """Move children onto the joining members that outrank their present ones, within the budget."""
        joiners = self.joiners()
        if not joiners:
            return
        unfinished: set[str] = set()
        if self.snapshot.spec.distribution.rebalance.on_join:
            unfinished = self._move_onto(joiners) | self._to_be_seen(joiners)
        for member in joiners:
            if member.name not in unfinished:
                self.joining[member.name] = False

    def detect_imbalance(self) -> None:
        """Check the loads for an imbalance, once nothing else is under way."""
        restless = self.budget.moving or self.budget.pending_moves or self.joining
        if not restless and not any(member.joining for member in self.snapshot.members):
            self.imbalance = self.strategy.imbalance(self.placement_view(0))

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
        if (ended := self.ended.get(child.id)) is not None:
            entry = self.assignment(child, wait=True, ended=self.end_of(child, ended))
        else:
            entry = self.asleep(child) if child.suspended else self.assignment(child)
        self.put(name, child.id, entry)
        if source := self.lost_from.get(child.id):
            self.moves.append(Move(child.id, source, name, f"{source} was lost", lost=True))

    # Move requests.

    def _apply_move_request(self, child_id: str, name: str, sources: Mapping[str, str], begun: set[str]) -> str | None:
        """The result of a request: "" if the child is on record there, else why not; None while it is under way.

        ``sources`` maps each child that may be moved now to its member. A child whose move begins is added to
        ``begun``.
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
        if source is not None and not self.budget.spent:
            begun.add(child_id)
            self.begin_move(child, source, name, "a move was requested")  # where it can't begin yet, the request stays
        else:
            self.budget.put_off()
        return None

    def _ends_up_on(self, child_id: str, places: tuple[OnRecord, ...]) -> str:
        """The member that the child will be on when the move under way is over; "" if it is placed again."""
        left = [place for place in places if self.changes.get(place.member, {}).get(child_id, place.entry) is not None]
        # A target's entry is newer than its source's.
        return max(left, key=lambda place: place.entry.epoch).member if left else ""

    # Joins.

    def _move_onto(self, joiners: list[MemberView]) -> set[str]:
        """Begin moves, each child onto the joining member that draws it most; returns the members that need more."""
        begun = {move.id for move in self.moves}
        movable = [(child, source) for child, source in self.movable if child.id not in begun]
        if not movable:
            return set()
        view = self.placement_view(0)
        chosen, drawn = self.strategy.draw(movable, [joiner.name for joiner in joiners], view)
        slots = {slot.name: slot for slot in view.slots}
        unfinished, full, left = set[str](), set[str](), set[str]()
        for index, joiner in enumerate(joiners):
            wanting = np.flatnonzero(chosen == index)
            # The strongest come first, so that a round that is cut off by the budget or the cap moves the best matches.
            order = wanting[np.argsort(-drawn[wanting], kind="stable")]
            room = slots[joiner.name].room if self.strategy.capped else slots[joiner.name].space
            take = min(len(order), room)
            now = self.budget.allow(take)
            for position in order[:now].tolist():
                child, source = movable[position]
                if self.mode(child, source, joiner.name, by_choice=True) is MigrationMode.LATER:
                    self.deferred.append(child.id)
                    unfinished.add(joiner.name)
                    continue
                if self.begin_move(child, source, joiner.name, f"{joiner.name} {self._why(joiner)}"):
                    left.add(source)
                else:
                    unfinished.add(joiner.name)
            if take > now:
                unfinished.add(joiner.name)
            if len(order) > take:
                full.add(joiner.name)
        # If members exchange children, a full one has room again when those that leave it have left.
        return unfinished | (full & left)

    def _why(self, joiner: MemberView) -> str:
        return "is now preferred by strategy and weights" if joiner.resettles else "joined"

    def _to_be_seen(self, joiners: list[MemberView]) -> set[str]:
        """The members that keep joining, because children that they may outrank the member of can't be moved yet.

        These are children of a member that is away, children that are being moved, and children that are being edited.
        """
        if any(member.phase is Phase.HELD for member in self.snapshot.members):
            return {member.name for member in joiners}
        if not self.unsteady:
            return set()
        chosen, _ = self.strategy.draw(self.unsteady, [joiner.name for joiner in joiners], self.placement_view(0))
        return {joiners[index].name for index in set(chosen.tolist()) if index != NOWHERE}
