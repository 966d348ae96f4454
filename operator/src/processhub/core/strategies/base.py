"""The interface of distribution strategies: which member gets a child, and which children a joining member draws.

Strategies are pure: no clock, no I/O, no randomness. The same children and slots give the same result in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from processhub.api.hub import HubSpec
from processhub.api.usage import Usage
from processhub.core.model.placement import NOWHERE, Scores, place_scored, scores
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild, keys_of

Indices = NDArray[np.int64]
Placed = Sequence[tuple[DesiredChild, str]]  # children, and the member that each is on
Score = Callable[[Indices, int], Scores]  # (positions of children, index of a member) → their scores on that member


class MemberSlot(msgspec.Struct, frozen=True, kw_only=True):
    """A member as a strategy sees it.

    ``open``: it takes children now. ``children``: the number on it or on their way to it. ``room`` and ``space``: how
    many more it may take, under loadCapPercent and maxChildren, and under maxChildren alone; 0 if it is not open.
    """

    name: str
    weight: int = 1
    open: bool = True
    wanted: bool = True
    children: int = 0
    room: int = 0
    space: int = 0
    usage: Usage | None = None  # None: not reported

    @property
    def takes(self) -> bool:
        """Whether the member takes one more child."""
        return self.open and self.weight > 0 and self.space > 0


class PlacementView(msgspec.Struct, frozen=True, kw_only=True):
    """The hub at one moment. ``slots``: all its members in ordinal order (PerNode: by name), including absent ones.

    ``last`` is the member that the newest child was placed on, "" if there is none.
    """

    spec: HubSpec
    slots: tuple[MemberSlot, ...]
    last: str = ""

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the members that the hub should have, including absent ones."""
        return tuple(slot.name for slot in self.slots if slot.wanted)


class Strategy:
    """How children are spread over members. A strategy is stateless: everything that it needs is in its arguments.

    ``capped``: a joining member draws no more than the load cap allows. ``hash_after_loss``: children whose member was
    lost or is drained are placed by the hash. ``by_turns``: the strategy reads ``PlacementView.last``. ``balances``:
    the strategy depends on how full members are. ``by_usage``: it moves children when the members' use of resources
    differs.
    """

    name: str
    capped = False
    hash_after_loss = False
    by_turns = False
    balances = False
    by_usage = False

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """The index of each child's member, with none above its space; NOWHERE if no member is suitable. Shape (n,)."""
        raise NotImplementedError

    def draw(self, placed: Placed, joiners: Sequence[str], view: PlacementView) -> tuple[Indices, Scores]:
        """Which joining member (its index) draws each child, NOWHERE for none, and how strongly. Shapes (n,).

        If repeated, this ends: a child goes only where it has a higher score, or where the hub is better balanced
        afterwards.
        """
        raise NotImplementedError

    def why_not(self, child: DesiredChild, view: PlacementView) -> Unplaced | None:
        """The reason, specific to this strategy, why the child has no place; None if there is no such reason."""
        return None

    def ranks(self, children: Sequence[DesiredChild], view: PlacementView) -> list[list[str]]:
        """The members that may have a copy of each child, best first, for hubs that keep several copies.

        A strategy that depends on more than the child ranks by the hash. Then copies on record stay, and a joining
        member takes no more than its share.
        """
        return ranked(hash_scores(children, view), len(children), view)

    def queue(self, view: PlacementView) -> list[str] | None:
        """The order of the members for the copies of a new child; None if the child's ranks decide."""
        return None

    def imbalance(self, view: PlacementView) -> tuple[str, str] | None:
        """A member with too much load and one with too little; None unless this strategy moves children for that."""
        return None

    def fingerprint(self, weights: Mapping[str, int], order: Sequence[str]) -> str:
        """A digest of everything that decides where children belong. When it changes, children move.

        ``order``: the wanted members.
        """
        return self.digest(weights)

    def digest(self, weights: Mapping[str, int], *more: str) -> str:
        """A short digest of the strategy, the weights that are not 1, and ``more``."""
        shares = ",".join(f"{name}={weight}" for name, weight in sorted(weights.items()) if weight != 1)
        return xxhash.xxh3_64_hexdigest("\n".join((self.name, shares, *more)).encode())


class Scored(Strategy):
    """A strategy by scores: a child goes to the member with the highest score that has room, never to one with 0."""

    def prepare(self, children: Sequence[DesiredChild], view: PlacementView) -> Score:
        """The scores of these children. A score must not depend on how the children are spread at present."""
        raise NotImplementedError

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """Choose the member with the highest score: under the load cap if possible, else under the capacity alone."""
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        self.fill(chosen, self.prepare(children, view), view)
        return chosen

    def fill(self, chosen: Indices, score: Score, view: PlacementView, *, cap: bool = True) -> None:
        """Choose, in place, for all children without a member; with ``cap``, under the load cap while possible."""
        names = [slot.name for slot in view.slots]
        for capped in (True, False) if cap else (False,):
            waiting = np.flatnonzero(chosen == NOWHERE)
            if not len(waiting):
                return
            taken = np.bincount(chosen[chosen != NOWHERE], minlength=len(names)).tolist()
            room = [
                max(0, (slot.room if capped else slot.space) - taken[index]) if slot.weight > 0 else 0
                for index, slot in enumerate(view.slots)
            ]
            chosen[waiting] = place_scored(waiting, names, room, score)

    def ranks(self, children: Sequence[DesiredChild], view: PlacementView) -> list[list[str]]:
        """The members that may have a copy of each child, the highest score first."""
        return ranked(self.prepare(children, view), len(children), view)

    def draw(self, placed: Placed, joiners: Sequence[str], view: PlacementView) -> tuple[Indices, Scores]:
        """Draw each child that scores higher on a joining member than on its present one, to the highest of these."""
        score = self.prepare([child for child, _ in placed], view)
        index_of = {slot.name: index for index, slot in enumerate(view.slots)}
        here = np.fromiter((index_of[name] for _, name in placed), dtype=np.int64, count=len(placed))
        everyone = np.arange(len(placed))
        top = np.zeros(len(placed), dtype=np.float64)
        for index in np.unique(here).tolist():
            rows = np.flatnonzero(here == index)
            top[rows] = score(rows, index)
        chosen = np.full(len(placed), NOWHERE, dtype=np.int64)
        for position, name in enumerate(joiners):
            drawn = score(everyone, index_of[name])
            better = drawn > top
            chosen[better] = position
            top[better] = drawn[better]
        return chosen, top


def ranked(score: Score, count: int, view: PlacementView) -> list[list[str]]:
    """The names of the members for each of ``count`` children, highest score first, without those with a score of 0."""
    if not count or not view.slots:
        return [[] for _ in range(count)]
    # Ordered by name, so that a tie does not depend on the order of members.
    order = sorted(range(len(view.slots)), key=lambda index: view.slots[index].name)
    rows = np.arange(count)
    table = np.stack([score(rows, index) for index in order])
    names = [view.slots[index].name for index in order]
    best = np.argsort(-table, axis=0, kind="stable").T.tolist()
    taken = (table > 0).T.tolist()
    return [[names[index] for index in row if may[index]] for row, may in zip(best, taken, strict=True)]


def hash_scores(children: Sequence[DesiredChild], view: PlacementView) -> Score:
    """The scores of rendezvous hashing."""
    keys, slots = keys_of(children), view.slots
    return lambda rows, index: scores(keys[rows], slots[index].name, slots[index].weight)
