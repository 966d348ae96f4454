"""The placement of several copies of each child. Which copy is active is decided in roles.py.

Copies go to the members that rendezvous hashing ranks highest, each in another zone and on another node if possible. A
copy leaves a member only if there are enough others: the new copy starts before the old one ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from processhub.api.reasons import Reason, Role
from processhub.core.model.membership import Phase
from processhub.core.model.plan import STRANDED_GUIDED, Move, Unplaced
from processhub.core.model.snapshot import DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.builder import MAPPED, NOT_PLACED, PINNED, REFUSED, same_attributes, takes, unavailable
from processhub.core.planning.copymove import CopyMove, CopyStep, next_step
from processhub.core.planning.endproofs import pod_there
from processhub.core.planning.roles import Roles, is_open
from processhub.core.planning.spread import spread
from processhub.core.strategies.base import Strategy


class HeldCopies(msgspec.Struct, frozen=True):
    """A child with the copies that it keeps (``kept``), and those of them that are not about to leave (``staying``)."""

    child: DesiredChild
    kept: tuple[OnRecord, ...]
    staying: tuple[OnRecord, ...]

    @property
    def names(self) -> set[str]:
        """The members that have a copy."""
        return {place.member for place in self.kept}


class ReplicaPlanner(Roles):
    """The planner of hubs that keep several copies of each child."""

    def __init__(self, snapshot: HubSnapshot, strategy: Strategy) -> None:
        super().__init__(snapshot, strategy)
        self.short: list[HeldCopies] = []  # children that lack copies
        self.steady: list[HeldCopies] = []  # children that a join may move
        self.lost_copies: dict[str, list[str]] = {}  # id → members that are gone with a copy
        # Children that have no copy yet on the member that was requested.
        self.lack_asked: list[tuple[HeldCopies, CopyMove]] = []
        self.asked_for: dict[str, str] = {}  # id → the member that the next copy goes to

    # The steps of a plan.

    def follow_children(self) -> None:
        """Take the next step for each child's copies, and collect the children that lack copies."""
        record = self.snapshot.record
        for child_id, child in self.snapshot.children.items():
            places = record.get(child_id, ())
            if child_id in self.snapshot.uncertain:
                self.leave_alone(places)
            elif child.suspended:
                self._sleep(child, places)
            elif self._as_it_should_be(child, places):
                for place in places:
                    self.load[place.member] += 1
                if child.movable:
                    self.steady.append(HeldCopies(child, places, places))
            else:
                self._follow(child, places)
        for child_id in self.snapshot.move_requests:
            ordered = self.snapshot.children.get(child_id)
            if ordered is None or ordered.suspended:
                self.move_results[child_id] = NOT_PLACED

    def apply_move_requests(self) -> None:
        """Add the requested copies, within the budget. Surplus copies leave once these are up."""
        short = {held.child.id for held in self.short}
        for held, move in self.lack_asked:
            child_id, name = held.child.id, move.member
            if full := self.full(name):
                self.move_results[child_id] = full.message
            elif self.budget.spent or child_id in self.members[name].possibly_running:
                self.budget.put_off()
            elif child_id in short:
                self.budget.moving += 1
                self.asked_for[child_id] = name  # one copy is lacking anyway
            else:
                self.budget.begin_move()
                self.load[name] += 1
                role = Role.PASSIVE if self.standby else Role.ACTIVE
                self.put(name, child_id, self.assignment(held.child, role=role))
                source = move.active or self._lowest(held.child, list(held.staying), name)
                self.moves.append(Move(child_id, source.member if source else "", name, "a move was requested"))

    def top_up(self) -> None:
        """Find members for the missing copies."""
        lacking = [held for held in self.short if self._may_grow(held)]
        if not lacking:
            return
        # Bound children need no rank, because their members are named.
        ranks = self.strategy.ranks([held.child for held in lacking], self.view)
        room = self.room_for(sum(self.copies - len(held.staying) for held in lacking))
        for held, ranked in zip(lacking, ranks, strict=True):
            leaving = len(held.kept) - len(held.staying)
            if leaving and self.budget.spent:
                self.budget.put_off(leaving)
                continue
            new = not held.kept and held.child.id not in self.lost_copies
            queue = self.strategy.queue(self.placement_view(1)) if new and self.strategy.balances else None
            self._add_copies(held, queue or ranked, room)

    def rebalance(self) -> None:
        """Move copies onto joining members that rank above a member that has one, within the budget."""
        joiners = self.joiners()
        if not joiners:
            return
        unfinished: set[str] = set()
        if self.snapshot.spec.distribution.rebalance.on_join:
            if any(member.phase is Phase.HELD for member in self.snapshot.members):
                unfinished = {member.name for member in joiners}
            unfinished |= self._copy_onto({member.name for member in joiners})
        for member in joiners:
            if member.name not in unfinished:
                self.joining[member.name] = False

    # Steps for one child.

    def _as_it_should_be(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> bool:
        """Whether nothing is to be done: all copies are on record, on live members, in their roles, as specified.

        This is the fast path of most children.
        """
        if child.id in self.snapshot.move_requests:
            return False
        if len(places) != self.copies or not places or (child.nodes and len(child.nodes) != len(places)):
            return False
        active = 0
        for place in places:
            entry, member = place.entry, self.members.get(place.member)
            if (
                member is None
                or not takes(member)
                or entry.wait
                or entry.uid != child.uid
                or entry.workload != child.workload
                or (child.nodes and member.name not in child.nodes)
                or not same_attributes(entry, child)
            ):
                return False
            active += entry.role == Role.ACTIVE
        return active == (1 if self.standby else len(places))

    def _follow(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> None:
        if self.follows_earlier(child, places):
            return
        if self._leaves_pods(child, places):
            # Its agent can't see when they are gone, so the edit makes it another child (docs/protocol.md, rule 23).
            for place in places:
                self.put(place.member, child.id, None)
            self.unplaced[child.id] = pod_there(child.id, self.snapshot.pods[child.id][0].text)
            return
        kept = []
        for place in places:
            member = self.members.get(place.member)
            if (
                member is None
                or self._is_former_target(child, place)
                or (member.phase is Phase.GONE and not _waits_for(child, member))
            ):
                self.put(place.member, child.id, None)
                self.lost_copies.setdefault(child.id, []).append(place.member)
                continue
            self.load[place.member] += 1
            if member.draining and self.no_member_left and not child.bound:
                self.leave_nowhere(child, member)
            elif child.bound and member.draining and not (member.forced and member.wanted):
                self.strand(child, member.name, STRANDED_GUIDED)
            if self.changes.get(place.member, {}).get(child.id, place.entry) is not None:
                kept.append(place)
        staying = [place for place in kept if self._stays(child, place.member)]
        move = self._requested(child, kept, staying)
        kept = self._without_surplus(child, kept, staying, move)
        staying = [place for place in staying if place in kept]
        self.give_roles(child, kept, places, move)
        if kept and all(self._waits(child, place) for place in kept):
            self.unplaced[child.id] = unavailable(*(place.member for place in kept))
        held = HeldCopies(child, tuple(kept), tuple(staying))
        if move is not None and move.step is CopyStep.ADD:
            self.lack_asked.append((held, move))
        if len(staying) < (len(child.nodes) or self.copies) or not kept:
            self.short.append(held)
        elif child.movable and len(kept) == self.copies and move is None:
            self.steady.append(held)
        else:
            self.budget.moving += len(kept) - len(staying)

    def _sleep(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> None:
        """Stop all copies of a suspended child. They keep their places, and the active one its role."""
        if self.follows_earlier(child, places):
            return
        for place in places:
            if self.loses_its_place(child, place) or self._is_former_target(child, place):
                self.put(place.member, child.id, None)
            else:
                self.put_to_sleep(child, place)

    def _waits(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether the copy does not run after this plan: it sleeps, or its member is gone."""
        gone = self.members[place.member].phase is Phase.GONE
        return gone or (self.sleeps(child, place) and not self._is_woken(child, place))

    def _is_woken(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether this plan starts the copy again."""
        entry = self.changes.get(place.member, {}).get(child.id)
        return entry is not None and not entry.wait

    def _is_former_target(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether the copy is the target of a move that was begun while the hub kept one copy, and was not started.

        Two other copies wait as well: that of a bound child, for its member, and one that was asleep, for its start.
        """
        entry, bound = place.entry, child.pinned or place.member in child.nodes
        return entry.wait and not entry.asleep and not bound

    def _leaves_pods(self, child: DesiredChild, places: tuple[OnRecord, ...]) -> bool:
        """Whether the child has Pods, and an edit that is due now makes it a child without Pods."""
        if child.pod or child.id not in self.snapshot.pods:
            return False
        changed = next((place.entry for place in places if place.entry.workload != child.workload), None)
        return changed is not None and self.due(child, changed).workload == child.workload

    def _stays(self, child: DesiredChild, name: str) -> bool:
        """Whether a copy may stay on this member."""
        if child.nodes:
            return name in child.nodes
        return child.pinned or is_open(self.members[name])

    def _without_surplus(
        self, child: DesiredChild, kept: list[OnRecord], staying: list[OnRecord], move: CopyMove | None
    ) -> list[OnRecord]:
        """Remove one copy if there are enough others: of a member to be emptied, as requested, or the lowest-ranked."""
        wanted = self.wanted_copies(child)
        leaving = [place for place in kept if place not in staying]
        if not self.copies or (not leaving and len(staying) <= wanted):
            return kept
        if leaving and child.bound and not child.nodes:
            return kept
        victim = leaving[0] if leaving else self._surplus(child, staying, move)
        others = [place for place in staying if place is not victim and not self.sleeps(child, place)]
        if victim is None or len(others) < min(wanted, len(self.open)) or not others:
            return kept
        if victim.up and not all(place.tried for place in others):
            self.budget.moving += 1
            return kept  # the new copy is not up yet
        self.put(victim.member, child.id, None)
        self.load[victim.member] -= 1
        return [place for place in kept if place is not victim]

    def _surplus(self, child: DesiredChild, staying: list[OnRecord], move: CopyMove | None) -> OnRecord | None:
        """The surplus copy: the one that was moved, that of a cancelled move, or the lowest-ranked one."""
        if move is None or move.step is CopyStep.ADD:
            return self._lowest(child, staying)
        if move.step is CopyStep.YIELD:
            return move.active if move.active is not None and self.can_follow(child, staying, move.active) else None
        if move.step is CopyStep.GIVE_UP:
            return move.there
        waits_to_run = self.standby and move.there is not move.active
        return None if waits_to_run else self._lowest(child, staying, move.member)

    def _lowest(self, child: DesiredChild, staying: list[OnRecord], asked: str = "") -> OnRecord | None:
        """The copy with the lowest rank, except the active one beside passive ones.

        A copy on ``asked`` is not considered, because it should stay or come.
        """
        rest = [place for place in staying if place.member != asked]
        must = {place.member for place in rest if self.standby and place.entry.role == Role.ACTIVE}
        beside = {asked} if asked else set[str]()
        names = {place.member for place in rest}
        best = spread(self.members, self.ranked(child), names, self.copies - len(beside), must, beside)
        worst = [place for place in rest if place.member not in best]
        return worst[-1] if worst else None

    # Move requests.

    def _requested(self, child: DesiredChild, kept: list[OnRecord], staying: list[OnRecord]) -> CopyMove | None:
        """The child's requested move and its next step; None if no move is requested, or it is finished."""
        name = self.snapshot.move_requests.get(child.id)
        if name is None:
            return None
        move = next_step(name, staying, self.wanted_copies(child), standby=self.standby)
        if move.step is CopyStep.DONE:
            self.move_results[child.id] = ""
        elif refusal := self._refusal(child, kept, move):
            self.move_results[child.id] = refusal
        elif move.step is CopyStep.GIVE_UP:
            self.move_results[child.id] = f"its copy on {name} does not run"
            return move  # that copy is the surplus one
        else:
            if move.step is not CopyStep.ADD:
                self.budget.moving += 1
            return move
        return None

    def _refusal(self, child: DesiredChild, kept: list[OnRecord], move: CopyMove) -> str:
        if self.every and not self.standby:
            return "the hub runs it on every member"
        if unfit := self.unfit(move.member):
            return unfit
        if not self.members[move.member].weight:
            return f"member {move.member} has weight 0, so it takes no copies"
        if move.there is not None:
            return ""
        if not kept:
            return NOT_PLACED
        if child.nodes:
            return MAPPED
        if child.pinned:
            return PINNED
        return REFUSED if child.refused else ""

    # More copies.

    def _may_grow(self, held: HeldCopies) -> bool:
        child = held.child
        if held.kept:
            return self.snapshot.formed
        # The child is not on record at all: nothing of an earlier child may be left.
        if blocked := self.proofs.blocked(child.id):
            self.unplaced[child.id] = blocked
        elif not self.snapshot.formed or not any(takes(member) for member in self.snapshot.members):
            self.unplaced[child.id] = (
                unavailable(*child.nodes)
                if child.nodes
                else Unplaced(Reason.NO_MEMBERS, "no member of the hub is ready; placed when one is")
            )
        else:
            return True
        return False

    def _add_copies(self, held: HeldCopies, ranked: Sequence[str], room: dict[str, int]) -> None:
        child, present = held.child, held.names
        limit = self.snapshot.spec.members.max_children
        if child.nodes:
            names = [name for name in child.nodes if name not in present]
            usable = [name for name in names if self._can_take(name, child.id) and self.load[name] < limit]
            wanted = len(names)
        else:
            wanted = self.wanted_copies(child) - len(held.staying)
            open_names = [name for name in ranked if name not in present and self._can_take(name, child.id)]
            usable = [name for name in open_names if room.get(name, 0) > 0]
            if len(usable) < wanted:
                # Not all members that the cap counts are there, so only the capacity limits.
                usable = [name for name in open_names if self.load[name] < limit]
        fixed = {place.member for place in held.staying}
        asked = {self.asked_for.get(child.id, "")} & set(usable)
        chosen = spread(self.members, usable, set(usable), wanted, asked, beside=fixed) if not child.nodes else usable
        if not chosen and not held.kept:
            self.unplaced[child.id] = self._no_place(child)
        for number, name in enumerate(chosen):
            first = number == 0 and not held.kept
            role = Role.ACTIVE if first or not self.standby else Role.PASSIVE
            self.put(name, child.id, self.assignment(child, role=role))
            self.load[name] += 1
            self.last_placed = name if not held.kept else self.last_placed
            room[name] = room.get(name, 0) - 1
        self._report_moves(held, chosen)

    def _report_moves(self, held: HeldCopies, chosen: Sequence[str]) -> None:
        """Report the new copies that replace a lost or leaving one as moves."""
        child_id = held.child.id
        leaving = [place.member for place in held.kept if place not in held.staying]
        for name, source in zip(chosen, [*self.lost_copies.get(child_id, ()), *leaving], strict=False):
            lost = source not in leaving
            if not lost:
                self.budget.begin_move()
            why = f"{source} was lost" if lost else f"{source} is drained"
            self.moves.append(Move(child_id, source, name, why, lost=lost))

    def _no_place(self, child: DesiredChild) -> Unplaced:
        if child.nodes:
            full = [blocked for name in child.nodes if name in self.members and (blocked := self.full(name))]
            return full[0] if full else unavailable(*child.nodes)
        return self.no_place(child, self.placement_view(0))

    def _can_take(self, name: str, child_id: str) -> bool:
        member = self.members.get(name)
        # If an earlier copy has not been seen to end, wait for that: no other member takes its place.
        return member is not None and takes(member) and member.weight > 0 and child_id not in member.possibly_running

    # Joins.

    def _copy_onto(self, joiners: set[str]) -> set[str]:
        """Add copies on the joining members; returns the members that need more rounds.

        The copies with the lowest rank leave once the new ones are up.
        """
        unfinished: set[str] = set()
        room = self.shares() if self.strategy.balances else self.room_for(0)
        ranks = self.strategy.ranks([held.child for held in self.steady], self.view)
        for held, ranked in zip(self.steady, ranks, strict=True):
            present = held.names
            must = {place.member for place in held.kept if self.standby and place.entry.role == Role.ACTIVE}
            best = spread(self.members, ranked, present | joiners, self.copies, must)
            for name in best:
                if name in present or room.get(name, 0) <= 0 or held.child.id in self.members[name].possibly_running:
                    continue
                unfinished.add(name)
                if self.budget.spent:
                    self.budget.put_off()
                    continue
                self.budget.begin_move()
                room[name] -= 1
                self.load[name] += 1
                role = Role.PASSIVE if self.standby else Role.ACTIVE
                self.put(name, held.child.id, self.assignment(held.child, role=role))
                out = next((place.member for place in held.kept if place.member not in best), "")
                self.moves.append(Move(held.child.id, out, name, f"{name} joined"))
        return unfinished


def _waits_for(child: DesiredChild, member: MemberView) -> bool:
    return child.pinned or (member.wanted and member.name in child.nodes)
