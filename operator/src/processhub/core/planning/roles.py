"""The roles of a child's copies: which one is active, and what their entries say.

The active copy is on record, and stays active:

- A copy is made active only when every member that had the active copy is proven not to run it any more
  (docs/protocol.md, rules 7 and 10).
- If a member is gone or restarts, a passive copy is made active at once after that proof. The copy that returns is
  passive, and takes no role by itself (docs/protocol.md, rule 10).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from processhub.api.reasons import Role
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move
from processhub.core.model.snapshot import DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.builder import PlanBuilder
from processhub.core.planning.copymove import CopyMove, CopyStep
from processhub.core.planning.endproofs import pod_there
from processhub.core.strategies.base import Strategy


class Roles(PlanBuilder):
    """The part of the planning that gives each copy on record its role."""

    def __init__(self, snapshot: HubSnapshot, strategy: Strategy) -> None:
        super().__init__(snapshot, strategy)
        redundancy = snapshot.spec.redundancy
        every = self.every = snapshot.spec.distribution.strategy == "ForEach"
        self.standby = snapshot.spec.keeps_standbys
        self.open = [member for member in snapshot.members if is_open(member)]
        factor = snapshot.copies if snapshot.copies is not None else redundancy.replication_factor
        self.copies = len(self.open) if every or not isinstance(factor, int) else min(factor, len(self.open))
        # The copies of a pinned child: a member that is drained or away keeps its copy.
        there = sum(member.wanted and member.weight > 0 for member in snapshot.members)
        self.pinned_copies = there if every or not isinstance(factor, int) else min(factor, there)
        # A rank does not depend on how full members are, so the view at the beginning is good for the whole plan.
        self.view = self.placement_view(0)

    def wanted_copies(self, child: DesiredChild) -> int:
        """How many copies of the child may be on record."""
        return len(child.nodes) or (self.pinned_copies if child.pinned else self.copies)

    def room_for(self, more: int) -> dict[str, int]:
        """The room of each open member for ``more`` copies; by the capacity alone if the strategy has no load cap."""
        if self.strategy.capped or self.strategy.balances:
            return self.room(more)
        limit = self.snapshot.spec.members.max_children
        return {member.name: max(0, limit - self.load[member.name]) for member in self.open}

    def shares(self) -> dict[str, int]:
        """How many more copies each open member may have until it has its share by weight."""
        weights = sum(member.weight for member in self.open)
        total = sum(self.load[member.name] for member in self.open)
        limit = self.snapshot.spec.members.max_children
        return {
            member.name: max(0, min(limit, total * member.weight // weights) - self.load[member.name])
            for member in self.open
        }

    def sleeps(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether the copy waits instead of running: that of a bound child whose member is emptied by force."""
        member = self.members[place.member]
        return place.entry.wait or (child.bound and member.draining and member.forced)

    def ranked(self, child: DesiredChild) -> list[str]:
        """All members in the strategy's order for the child, best first."""
        return self.strategy.ranks([child], self.view)[0]

    def can_follow(self, child: DesiredChild, places: list[OnRecord], active: OnRecord) -> bool:
        """Whether only the active copy itself prevents another one from being active; while it ends, none is."""
        besides = {active.member, *self._heard(child, places)}
        return not self.proofs.blocked(child.id, besides, {active.member, *self.proofs.passive_pods(child.id, places)})

    def give_roles(
        self, child: DesiredChild, kept: list[OnRecord], places: tuple[OnRecord, ...], move: CopyMove | None
    ) -> None:
        """Write each copy's role, workload and attributes to its entry if they differ.

        ``places`` are all copies on record.
        """
        active = self._active_one(child, kept, move) if self.standby else None
        steps_back = self._steps_back(child, kept, active, move)
        if active is not None and active.entry.role != Role.ACTIVE:
            before = next((place.member for place in places if place.entry.role == Role.ACTIVE), "")
            if before:
                self.moves.append(Move(child.id, before, active.member, f"{before} is away", lost=True))
        for place in kept:
            role = Role.ACTIVE if not self.standby or (place is active and not steps_back) else Role.PASSIVE
            if self.standby and active is None:
                role = Role(place.entry.role)  # no copy may be made active now, so all stay as they are
            if place.entry.asleep:
                self._resume(child, place, kept, role)
                continue
            if self.sleeps(child, place):
                self._keep_asleep_or_wake(child, place)
                continue
            if entry := self.refreshed(self.due(child, place.entry), place, role):
                self.put(place.member, child.id, entry)

    def _steps_back(
        self, child: DesiredChild, kept: list[OnRecord], active: OnRecord | None, move: CopyMove | None
    ) -> bool:
        """Whether the active copy is made passive now, so that the requested copy can be active."""
        if move is None or move.step is not CopyStep.YIELD or active is None or active is not move.active:
            return False
        if len(kept) > self.wanted_copies(child) or self.members[active.member].phase is not Phase.LIVE:
            return False
        if not self.can_follow(child, kept, active):
            return False
        if self.budget.spent:
            self.budget.put_off()
            return False
        self.budget.left -= 1  # it counts as moving already
        self.moves.append(Move(child.id, active.member, move.member, "a move was requested"))
        return True

    def _resume(self, child: DesiredChild, place: OnRecord, kept: list[OnRecord], role: Role) -> None:
        """Start a copy of a resumed child in its former place, in this role, once its former end is proven."""
        member = self.members[place.member]
        if member.phase is not Phase.LIVE or not self._is_over(child, place):
            self.keep_asleep(child, place)
            return
        if member.draining:
            if place.entry.role == Role.ACTIVE and any(
                self._can_act(child, other) for other in kept if other is not place
            ):
                # Another copy is made active meanwhile. This one is started as a passive copy when its member is
                # undrained.
                entry = msgspec.structs.replace(place.entry, role=Role.PASSIVE, epoch=self.next_epoch)
                self.next_epoch += 1
                self.put(place.member, child.id, entry)
            else:
                self.keep_asleep(child, place)
            return
        if self.standby and role == Role.ACTIVE and (
            blocked := self.proofs.blocked(child.id, self._heard(child, kept), self.proofs.passive_pods(child.id, kept))
        ):  # fmt: skip
            self.unplaced[child.id] = blocked
            return
        self.put(place.member, child.id, self.assignment(child, role=role))

    def _can_act(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether the copy runs, or can be started, on a live member."""
        member = self.members[place.member]
        held = member.draining if place.entry.asleep else self.sleeps(child, place)
        return self.standby and member.phase is Phase.LIVE and not held

    def _is_over(self, child: DesiredChild, place: OnRecord) -> bool:
        """Whether the copy's former run has ended.

        An agent would take a leftover Pod for the one to be started (docs/protocol.md, rule 23).
        """
        return child.id not in self.members[place.member].possibly_running and not any(
            pod.member == place.member for pod in self.snapshot.pods.get(child.id, ())
        )

    def _keep_asleep_or_wake(self, child: DesiredChild, place: OnRecord) -> None:
        """Keep a copy asleep that must not run now, or start it if it may run.

        A sleeping copy is passive, even if all copies are active. That distinguishes it from the target of a move.
        """
        entry, member, role = place.entry, self.members[place.member], Role.PASSIVE if self.standby else Role.ACTIVE
        if (
            entry.wait
            and self._is_over(child, place)
            and member.phase is Phase.LIVE
            and not (member.draining and member.forced)
        ):
            self.put(place.member, child.id, self.assignment(child, role=role))
        elif not entry.wait or entry.role != Role.PASSIVE:
            # It is made passive: its end must be proven before another copy is made active.
            self.put(place.member, child.id, self.assignment(child, wait=True, role=Role.PASSIVE))

    def _active_one(self, child: DesiredChild, places: list[OnRecord], move: CopyMove | None) -> OnRecord | None:
        """The copy that should be active now, or None if none may be yet."""
        active = [place for place in places if place.entry.role == Role.ACTIVE]
        # A Pod lives on without its member's agent, so only the Pod's own end proves that it is not active any more
        # (docs/protocol.md, rule 23).
        pods = self.snapshot.pods.get(child.id, ())
        acting = [
            place
            for place in active
            if not self.members[place.member].dead or any(pod.member == place.member for pod in pods)
        ]
        if acting:
            chosen = max(acting, key=lambda place: place.entry.epoch)
            if self.members[chosen.member].phase is Phase.GONE:
                self.unplaced[child.id] = pod_there(
                    child.id, next(pod.text for pod in pods if pod.member == chosen.member)
                )
            return chosen
        able = [
            place
            for place in places
            if self.members[place.member].phase is Phase.LIVE and not self.sleeps(child, place)
        ]
        if not able:
            # No copy can take its place, so it waits for the member that had the active copy.
            return max(active, key=lambda place: place.entry.epoch) if active else None
        besides = self._heard(child, places)
        if blocked := self.proofs.blocked(child.id, besides, self.proofs.passive_pods(child.id, places)):
            self.unplaced[child.id] = blocked
            return None
        ranked, asked = self.ranked(child), move.there if move is not None else None
        chosen = min(
            able,
            key=lambda place: (
                not place.up,
                place is not asked,
                _index(child.nodes, place.member),
                _index(ranked, place.member),
            ),
        )
        if asked is not None and chosen is not asked:
            # If it were requested again and again, a copy that comes up and ends would take the role from the others
            # each time.
            self.move_results[child.id] = f"its copy on {asked.member} did not run when there was no active one"
        return chosen

    def _heard(self, child: DesiredChild, places: list[OnRecord]) -> set[str]:
        """The members with a copy on record that does not block a promotion: none may still run it as active."""
        return {
            place.member
            for place in places
            if self.members[place.member].dead or child.id not in self.members[place.member].possibly_running
        }


def is_open(member: MemberView) -> bool:
    """Whether copies may stay on the member: it is wanted, not to be emptied and not gone."""
    return member.wanted and not member.draining and member.phase is not Phase.GONE and member.weight > 0


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
