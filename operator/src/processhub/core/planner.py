"""The planner: from one snapshot to what the slices shall say.

Pure: the operator, ``kubectl hub plan``, the model checker and the benchmarks call the same function.
Placement is sticky: a child on record stays where it is. Rules by number are PROTOCOL.md's:

- a child gets an entry only when no other member may still run its id (7), and a new uid only after the old one's end;
- a planned move writes the waiting entry first, removes the source's in a later round, and starts the target
  when the source is proven stopped (8);
- a member that is GONE loses its entries at once, except bound children, which wait for it (10, 17);
- a join moves children only onto the joiner, and only where it outranks their present member (18).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from processhub.api.reasons import Reason
from processhub.api.slice import Assignment
from processhub.core.membership import Phase
from processhub.core.placement import NOWHERE, Candidate, load_caps, place, scores
from processhub.core.plan import Move, Plan, Unplaced
from processhub.core.snapshot import HubSnapshot, MemberView, OnRecord, Wanted


def plan(snapshot: HubSnapshot) -> Plan:
    """What to change now. Executing it and planning again with the outcome leads, step by step, to rest."""
    planner = _Planner(snapshot)
    planner.sweep_record()
    planner.follow_children()
    planner.place_new()
    planner.drain()
    planner.rebalance()
    return planner.result()


class _Planner:
    """The working state of one plan: counts and changes so far."""

    def __init__(self, snapshot: HubSnapshot) -> None:
        self.snapshot = snapshot
        self.members: dict[str, MemberView] = {member.name: member for member in snapshot.members}
        self.changes: dict[str, dict[str, Assignment | None]] = {}
        self.unplaced: dict[str, Unplaced] = {}
        self.moves: list[Move] = []
        self.joining: dict[str, bool] = {}
        self.stranded: dict[str, list[str]] = {}
        self.next_epoch = snapshot.next_epoch
        self.budget = snapshot.move_budget
        self.pending_moves = 0
        self.moving = 0
        self.load: Counter[str] = Counter()
        self.new: list[Wanted] = []
        self.lost_from: dict[str, str] = {}  # id → the member it was lost with or is to leave
        self.leaving: list[tuple[Wanted, str]] = []  # children of members that are drained
        self.movable: list[tuple[Wanted, str]] = []  # steady children that a join may move, and their member
        self.unsteady: list[tuple[Wanted, str]] = []  # those that it may move later, and the member they will be on
        self.settled = all(member.settled or member.phase is Phase.GONE for member in snapshot.members)
        self.blocking = [member for member in snapshot.members if member.phase is not Phase.GONE and (member.lingering)]
        for member in snapshot.members:
            # One that was lost or is being emptied takes its share again when it is back.
            leaves = member.phase is Phase.GONE or member.draining
            if leaves and member.wanted and not member.joining and snapshot.formed:
                self.joining[member.name] = True

    # steps

    def sweep_record(self) -> None:
        """Take off the record what nobody wants any more: that is the order to stop."""
        children = self.snapshot.children
        for child_id, places in self.snapshot.record.items():
            if child_id not in children:
                for on_record in places:
                    self._put(on_record.member, child_id, None)

    def follow_children(self) -> None:
        """Bring each child's entries one step nearer to what it asks for; collect those without a place."""
        record = self.snapshot.record
        live = Phase.LIVE
        members = self.members
        for child_id, child in self.snapshot.children.items():
            places = record.get(child_id)
            if places is None:
                self.new.append(child)
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
                    and (not child.nodes or child.nodes[0] == member.name)
                    and _same_attributes(entry, child)
                ):
                    self.load[member.name] += 1
                    if not child.nodes and not child.pinned:
                        self.movable.append((child, member.name))
                    continue
            self._follow(child, places)

    def place_new(self) -> None:
        """Find a member for each child that has none."""
        ready: list[Wanted] = []
        for child in self.new:
            if blocked := self._blocked(child.id):
                self.unplaced[child.id] = blocked
            elif child.nodes:
                self._place_bound(child, child.nodes[0])
            else:
                ready.append(child)
        if not ready:
            return
        candidates = self._candidates(len(ready))
        if not candidates:
            message = "no member of the hub is ready; placed when one is"
            self.unplaced.update({child.id: Unplaced(Reason.NO_MEMBERS, message) for child in ready})
            return
        chosen = place(_keys(ready), candidates)
        for child, index in zip(ready, chosen.tolist(), strict=True):
            if index == NOWHERE:
                self.unplaced[child.id] = self._no_room(candidates)
                continue
            self._start(child, candidates[index].name)

    def drain(self) -> None:
        """Move children off the members that are to be emptied, within the budget."""
        now = self.leaving[: max(self.budget, 0)]
        self.pending_moves += len(self.leaving) - len(now)
        candidates = self._candidates(len(now)) if now else []
        if not candidates:
            self.pending_moves += len(now)
            return
        chosen = place(_keys(child for child, _ in now), candidates)
        for (child, source), index in zip(now, chosen.tolist(), strict=True):
            if index == NOWHERE:
                self.pending_moves += 1
            else:
                self._begin_move(child, source, candidates[index].name, f"{source} is drained")

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

    def result(self) -> Plan:
        """The plan."""
        flags = {member.name: member.joining for member in self.snapshot.members}
        return Plan(
            entries=self.changes,
            unplaced=self.unplaced,
            moves=tuple(self.moves),
            joining={name: value for name, value in self.joining.items() if flags[name] != value},
            stranded={name: tuple(sorted(ids)) for name, ids in self.stranded.items()},
            next_epoch=self.next_epoch,
            pending_moves=self.pending_moves,
            moving=self.moving,
        )

    # one child

    def _follow(self, child: Wanted, places: tuple[OnRecord, ...]) -> None:
        running = [place for place in places if not place.entry.wait]
        waiting = [place for place in places if place.entry.wait]
        if any(place.entry.uid != child.uid for place in places):
            # Deleted and re-created under the same id: the old one ends first.
            for on_record in places:
                self._put(on_record.member, child.id, None)
            self.unplaced[child.id] = Unplaced(
                Reason.ALREADY_STARTED, f"the child that had the id {child.id!r} before is still stopping"
            )
        elif waiting:
            self._continue_move(child, running, waiting[0])
            for surplus in waiting[1:]:
                self._put(surplus.member, child.id, None)
        else:
            keeper, *older = sorted(running, key=lambda place: -place.entry.epoch)
            for on_record in older:
                self._put(on_record.member, child.id, None)
            self._settle(child, keeper)

    def _settle(self, child: Wanted, place: OnRecord) -> None:
        """A child with one entry: lost, to be moved, to be changed, or as it should be."""
        member = self.members.get(place.member)
        if member is None or (member.phase is Phase.GONE and not self._waits_for(child, member)):
            self._put(place.member, child.id, None)
            self.lost_from[child.id] = place.member
            self.new.append(child)
            return
        self.load[member.name] += 1
        self._refresh(child, place)
        if member.phase is Phase.GONE:
            self.unplaced[child.id] = _unavailable(member.name)
            return
        if child.nodes and child.nodes[0] != member.name:
            self._move_bound(child, place)
        elif member.draining:
            self._leave(child, member)
        elif not child.bound:
            self.unsteady.append((child, member.name))

    def _waits_for(self, child: Wanted, member: MemberView) -> bool:
        """Whether the child stays on record with a member that is gone."""
        return child.pinned or (member.wanted and bool(child.nodes) and child.nodes[0] == member.name)

    def _refresh(self, child: Wanted, place: OnRecord) -> None:
        entry = place.entry
        if entry.workload != child.workload:
            # With a Pod of its own it waits as at the end of a move: what follows starts when that is gone (23).
            self._put(place.member, child.id, self._assignment(child, wait=child.id in self.snapshot.pods))
        elif not _same_attributes(entry, child):
            self._put(place.member, child.id, self._assignment(child, epoch=entry.epoch))

    def _move_bound(self, child: Wanted, place: OnRecord) -> None:
        target = self.members.get(child.nodes[0])
        if target is None or not _takes(target):
            # It runs on where it is until its new member is there.
            self.unplaced[child.id] = _unavailable(child.nodes[0])
        elif full := self._full(target.name):
            self.unplaced[child.id] = full
        elif self.budget > 0:
            self._begin_move(child, place.member, target.name, "its nodes were changed")
        else:
            self.pending_moves += 1

    def _leave(self, child: Wanted, member: MemberView) -> None:
        if child.bound:
            self.stranded.setdefault(member.name, []).append(child.id)
            return
        self.leaving.append((child, member.name))

    def _begin_move(self, child: Wanted, source: str, target: str, why: str) -> None:
        self.budget -= 1
        self.moving += 1
        self.load[source] -= 1
        self.load[target] += 1
        # A new epoch at once: the target's entry is the newer word, whoever reads both.
        self._put(target, child.id, self._assignment(child, wait=True))
        self.moves.append(Move(child.id, source, target, why))

    def _continue_move(self, child: Wanted, running: list[OnRecord], target: OnRecord) -> None:
        member = self.members.get(target.member)
        # One that is pinned and runs nowhere was edited in place: it waits for its member as it would have before.
        stays = child.pinned and not running and (not child.nodes or child.nodes[0] == target.member)
        lost = member is not None and (member.phase is Phase.GONE or not self._may_still_go(child, member))
        if member is None or (lost and not stays):
            # Given up: with the source still on record it simply stays there.
            self._put(target.member, child.id, None)
            if running:
                self._settle(child, max(running, key=lambda place: place.entry.epoch))
            else:
                self.new.append(child)
            return
        self.load[member.name] += 1
        if member.phase is Phase.GONE:
            self.unplaced[child.id] = _unavailable(member.name)
            return
        self.moving += 1
        if not child.bound:
            self.unsteady.append((child, member.name))
        for source in running:
            # While the target restarts the source runs on.
            if member.phase is Phase.LIVE or self._lost(source.member):
                self._put(source.member, child.id, None)
        if running:
            return
        blocked = self._blocked(child.id, besides=member.name)
        if blocked is None:
            self._put(member.name, child.id, self._assignment(child))
        elif child.id in self.snapshot.pods:
            self.unplaced[child.id] = blocked  # that may take long, and is the pod's node's affair

    def _lost(self, name: str) -> bool:
        member = self.members.get(name)
        return member is None or member.phase is Phase.GONE

    def _may_still_go(self, child: Wanted, member: MemberView) -> bool:
        return member.wanted and not member.draining and (not child.nodes or child.nodes[0] == member.name)

    def _place_bound(self, child: Wanted, name: str) -> None:
        member = self.members.get(name)
        if member is None or not _takes(member) or not self.snapshot.formed:
            self.unplaced[child.id] = _unavailable(name)
        elif full := self._full(name):
            self.unplaced[child.id] = full
        else:
            self._start(child, name)

    def _start(self, child: Wanted, name: str) -> None:
        self.load[name] += 1
        self._put(name, child.id, self._assignment(child))
        if source := self.lost_from.get(child.id):
            self.moves.append(Move(child.id, source, name, f"{source} was lost", lost=True))

    # joins

    def _move_onto(self, joiners: list[MemberView]) -> set[str]:
        """Begin moves, each child onto the joiner that draws it most; the joiners that have some left for later."""
        begun = {move.id for move in self.moves}
        movable = [(child, source) for child, source in self.movable if child.id not in begun]
        if not movable:
            return set()
        chosen, drawn = self._outranked_by(joiners, movable)
        room = self._room(0)
        unfinished = set()
        for index, joiner in enumerate(joiners):
            wanting = np.flatnonzero(chosen == index)
            # The strongest first, so that a round cut off by the budget or the cap takes what belongs there most.
            order = wanting[np.argsort(-drawn[wanting], kind="stable")]
            take = min(len(order), max(room.get(joiner.name, 0), 0))
            now = min(take, max(self.budget, 0))
            for position in order[:now].tolist():
                child, source = movable[position]
                self._begin_move(child, source, joiner.name, f"{joiner.name} joined")
            self.pending_moves += take - now
            if take > now:
                unfinished.add(joiner.name)
        return unfinished

    def _to_be_seen(self, joiners: list[MemberView]) -> set[str]:
        """The joiners that stay so, because children that they may outrank the member of can't be moved yet.

        Such are those of a member that is away, those on their way and those that are being edited.
        """
        if any(member.phase is Phase.HELD for member in self.snapshot.members):
            return {member.name for member in joiners}
        if not self.unsteady:
            return set()
        chosen, _ = self._outranked_by(joiners, self.unsteady)
        return {joiners[index].name for index in set(chosen.tolist()) if index != NOWHERE}

    def _outranked_by(
        self, joiners: list[MemberView], placed: list[tuple[Wanted, str]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The joiner's index for each ``(child, member)``, NOWHERE where the member outranks them; its score. (n,)."""
        keys = _keys(child for child, _ in placed)
        top = _scores_at([name for _, name in placed], keys, self.members)
        chosen = np.full(len(keys), NOWHERE, dtype=np.int64)
        for index, joiner in enumerate(joiners):
            drawn = scores(keys, joiner.name, joiner.weight)
            better = drawn > top
            chosen[better] = index
            top[better] = drawn[better]
        return chosen, top

    # what has room

    def _candidates(self, more: int) -> list[Candidate]:
        """The members that may take children now, with their room under cap and capacity for ``more`` new ones."""
        if not self.snapshot.formed:
            return []
        room = self._room(more)
        open_members = [member for member in self.snapshot.members if _takes(member)]
        if more and sum(room[member.name] for member in open_members) < more:
            # The cap's members are not all there: only the capacity limits.
            limit = self.snapshot.spec.members.max_children
            room = {member.name: max(0, limit - self.load[member.name]) for member in open_members}
        return [Candidate(member.name, member.weight, room[member.name]) for member in open_members]

    def _no_room(self, candidates: list[Candidate]) -> Unplaced:
        """Why none of the ready members takes a child."""
        if all(candidate.weight <= 0 for candidate in candidates):
            names = ", ".join(candidate.name for candidate in candidates)
            return Unplaced(Reason.NO_MEMBERS, f"each ready member ({names}) has weight 0 (spec.members.weights)")
        limit = self.snapshot.spec.members.max_children
        return Unplaced(
            Reason.CAPACITY_EXCEEDED,
            f"each ready member has its {limit} children (spec.members.maxChildren); add members or raise it",
        )

    def _full(self, name: str) -> Unplaced | None:
        """Why a child that is bound to the member can't have it, None where it can."""
        limit = self.snapshot.spec.members.max_children
        if self.load[name] < limit:
            return None
        return Unplaced(Reason.CAPACITY_EXCEEDED, f"{name} has its {limit} children (spec.members.maxChildren)")

    def _room(self, more: int) -> dict[str, int]:
        open_members = [member for member in self.snapshot.members if _takes(member)]
        total = more + sum(self.load[member.name] for member in open_members)
        caps = load_caps(
            total,
            {member.name: member.weight for member in open_members},
            self.snapshot.spec.distribution.load_cap_percent,
        )
        limit = self.snapshot.spec.members.max_children
        return {name: max(0, min(cap, limit) - self.load[name]) for name, cap in caps.items()}

    # proofs and changes

    def _blocked(self, child_id: str, besides: str = "") -> Unplaced | None:
        """Why ``child_id`` may not start yet: a member may still run it (7)."""
        if not self.settled:
            late = [member.name for member in self.snapshot.members if not member.settled]
            return Unplaced(
                Reason.WAITING, f"waiting until {', '.join(sorted(late))} confirmed what it runs after a leader change"
            )
        for member in self.blocking:
            if member.name != besides and child_id in member.lingering:
                return Unplaced(
                    Reason.ALREADY_STARTED, f"an earlier {child_id!r} has not yet been seen to stop on {member.name}"
                )
        if pod := self.snapshot.pods.get(child_id):
            return Unplaced(
                Reason.ALREADY_STARTED,
                f"an earlier {child_id!r} has not yet been seen to stop: its pod {pod} is still there",
            )
        for on_record in self.snapshot.record.get(child_id, ()):
            holder = self.members.get(on_record.member)
            if on_record.member != besides and holder is not None and holder.phase is not Phase.GONE:
                return Unplaced(Reason.ALREADY_STARTED, f"{child_id!r} is still on record on {on_record.member}")
        return None

    def _assignment(self, child: Wanted, *, epoch: int | None = None, wait: bool = False) -> Assignment:
        if epoch is None:
            epoch = self.next_epoch
            self.next_epoch += 1
        return child.entry(epoch, wait=wait)

    def _put(self, member: str, child_id: str, entry: Assignment | None) -> None:
        self.changes.setdefault(member, {})[child_id] = entry


def _takes(member: MemberView) -> bool:
    return member.phase is Phase.LIVE and not member.draining and member.wanted


def _same_attributes(entry: Assignment, child: Wanted) -> bool:
    return (
        entry.restart_policy == child.restart_policy and entry.tags == child.tags and entry.metadata == child.metadata
    )


def _keys(children: Iterable[Wanted]) -> NDArray[np.uint64]:
    return np.fromiter((child.key for child in children), dtype=np.uint64)


def _scores_at(sources: list[str], keys: NDArray[np.uint64], members: dict[str, MemberView]) -> NDArray[np.float64]:
    """The score of each child at the member it is on; shape (n,)."""
    names = np.array(sources)
    present = np.zeros(len(keys), dtype=np.float64)
    for name in set(sources):
        here = names == name
        present[here] = scores(keys[here], name, members[name].weight)
    return present


def _unavailable(name: str) -> Unplaced:
    return Unplaced(Reason.MEMBER_UNAVAILABLE, f"member {name} is not ready; started when it is")
