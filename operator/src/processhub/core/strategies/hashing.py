"""ConsistentHashing, and the strategies that name a member and hash otherwise: Modulo, Local, NotLocal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from processhub.api.reasons import Reason
from processhub.core.model.placement import NOWHERE, Scores
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies.base import Indices, Placed, PlacementView, Score, Scored, hash_scores

_BELOW_ALL = 2.0**-80  # a factor that puts a hash score below all others, which lie between 2**-6 and 2**63


class ConsistentHashing(Scored):
    """Rendezvous hashing with weights under the load cap. A join moves only the joining member's share."""

    capped = True

    def __init__(self, name: str = "ConsistentHashing") -> None:
        self.name = name

    def prepare(self, children: Sequence[DesiredChild], view: PlacementView) -> Score:
        """The scores of rendezvous hashing."""
        return hash_scores(children, view)


class Homed(Scored):
    """Each child has a member of its own, its home, whatever the load cap says.

    While the home is away or full, the child is placed by the hash. It returns when the home joins.
    """

    def homes(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """The index of each child's home among the slots, or NOWHERE for a child without one. Shape (n,)."""
        raise NotImplementedError

    def prepare(self, children: Sequence[DesiredChild], view: PlacementView) -> Score:
        """The scores of rendezvous hashing, with the home above all of them."""
        by_hash, homes = hash_scores(children, view), self.homes(children, view)
        slots = view.slots

        def score(rows: Indices, index: int) -> Scores:
            found = by_hash(rows, index)
            if slots[index].weight > 0:
                found[homes[rows] == index] = np.inf
            return found

        return score

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """Choose the children's homes first, then the members with the highest scores."""
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        homes = self.homes(children, view)
        for index, slot in enumerate(view.slots):
            if slot.weight > 0:
                chosen[np.flatnonzero(homes == index)[: slot.space]] = index
        self.fill(chosen, self.prepare(children, view), view)
        return chosen

    def draw(self, placed: Placed, joiners: Sequence[str], view: PlacementView) -> tuple[Indices, Scores]:
        """Draw children to joining members. A child with a home is drawn only by it, to avoid a second move later."""
        chosen, drawn = super().draw(placed, joiners, view)
        at_home = drawn == np.inf
        has_home = self.homes([child for child, _ in placed], view) != NOWHERE
        chosen[has_home & ~at_home] = NOWHERE
        return chosen, drawn


class Modulo(Homed):
    """A decimal id goes to member ``int(id) mod n``, any other to its xxh3 ``mod n``; n is the number of members."""

    name = "Modulo"

    def homes(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """The member of each child's number, which depends on the id alone."""
        wanted = [index for index, slot in enumerate(view.slots) if slot.wanted]
        if not wanted:
            return np.full(len(children), NOWHERE, dtype=np.int64)
        numbers = (_number(child) % len(wanted) for child in children)
        return np.fromiter((wanted[number] for number in numbers), dtype=np.int64, count=len(children))

    def fingerprint(self, weights: Mapping[str, int], order: Sequence[str]) -> str:
        """A digest that includes the members' number and order. If these change, most children get another home."""
        return self.digest(weights, *order)


def _number(child: DesiredChild) -> int:
    return int(child.id) if child.id.isascii() and child.id.isdigit() else child.key


class Local(Homed):
    """Each child goes to the member that asked for it. A child that no member asked for is placed by the hash."""

    name = "Local"

    def homes(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """The origin of each child, if it is a member that the hub should have."""
        index_of = {slot.name: index for index, slot in enumerate(view.slots) if slot.wanted}
        return np.fromiter(
            (index_of.get(child.origin, NOWHERE) for child in children), dtype=np.int64, count=len(children)
        )


class NotLocal(Scored):
    """Each child is placed by the hash on any member except its origin, and there only as ``notLocalFallback`` says."""

    name = "NotLocal"

    def prepare(self, children: Sequence[DesiredChild], view: PlacementView) -> Score:
        """The scores of rendezvous hashing; at the origin 0, or below all others."""
        by_hash, slots = hash_scores(children, view), view.slots
        origins = np.array([child.origin for child in children], dtype=object)
        at_origin = _BELOW_ALL if view.spec.distribution.not_local_fallback == "Local" else 0.0

        def score(rows: Indices, index: int) -> Scores:
            found = by_hash(rows, index)
            found[origins[rows] == slots[index].name] *= at_origin
            return found

        return score

    def why_not(self, child: DesiredChild, view: PlacementView) -> Unplaced | None:
        """The reason for a child that only its origin could take."""
        taking = [slot for slot in view.slots if slot.takes]
        if any(slot.name != child.origin for slot in taking) or not taking:
            return None
        return Unplaced(
            Reason.NO_MEMBERS,
            f"only {child.origin}, its origin, is ready and has room, and the strategy is NotLocal; placed when "
            "another member is, or write spec.distribution.notLocalFallback: Local in the hub",
        )
