"""A user's own strategy among ProcessHub's: it ranks members for a child, the rest is done here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from processhub.api.reasons import Reason
from processhub.core.model.placement import NOWHERE, Scores
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies.base import Indices, PlacementView, Score, Scored, hash_scores, ranked


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A child that is to be ranked for: what its spec says of it."""

    id: str
    """Its id."""
    origin: str = ""
    """The name of the member that asked for it, "" where none did."""
    tags: tuple[str, ...] = ()
    """Its tags."""
    metadata: Mapping[str, str] = {}
    """Its metadata."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member that the hub shall have."""

    name: str
    """Its name: the pod's, or in mode PerNode the Kubernetes node's."""
    weight: int = 1
    """Its weight, by ``spec.members.weights``."""
    ready: bool = True
    """Whether it takes children now."""
    children: int = 0
    """How many children are on record at it."""
    cpu: float = 0.0
    """Cores that its children's processes use, as its agent reported last."""
    memory: int = 0
    """Bytes that they use."""


class Ranks(Protocol):
    """What is asked of a user's strategy; ``processhub.strategies.Distribution`` says it at length."""

    respects_load_cap: bool

    def rank(self, child: Child, members: Sequence[Member]) -> Sequence[str]:
        """The names of the members that may have the child, best first."""


class Own(Scored):
    """By the user's ranks. Where they can't be had, a new child goes by the hash and none is moved.

    ``failure`` says what went wrong last, for the operator to tell; "" where nothing did.
    """

    def __init__(self, name: str, ranks: Ranks) -> None:
        self.name, self._ranks = name, ranks
        self.capped = ranks.respects_load_cap
        self.failure = ""

    def prepare(self, children: Sequence[DesiredChild], scene: PlacementView) -> Score:
        """1 for the first, 1/2 for the second, and so on; 0 where the member is not named."""
        table, _ = self._table(children, scene)
        return lambda rows, index: table[index, rows]

    def place(self, children: Sequence[DesiredChild], scene: PlacementView) -> Indices:
        """By rank, and then by the hash those whose ranks can't be had."""
        table, failed = self._table(children, scene)
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        self.fill(chosen, lambda rows, index: table[index, rows], scene, cap=self.capped)
        if failed.any():
            by_hash = hash_scores(children, scene)
            self.fill(chosen, lambda rows, index: by_hash(rows, index) * failed[rows], scene)
        return chosen

    def ranks(self, children: Sequence[DesiredChild], scene: PlacementView) -> list[list[str]]:
        """By rank, and by the hash where the ranks can't be had."""
        table, failed = self._table(children, scene)
        by_hash = hash_scores(children, scene)
        return ranked(
            lambda rows, index: np.where(failed[rows], by_hash(rows, index), table[index, rows]), len(children), scene
        )

    def why_not(self, child: DesiredChild, scene: PlacementView) -> Unplaced | None:
        """Where no member that is ready and has room is among those that it ranks."""
        ranked = self._ranked(child, _members(scene)) or ()
        if any(seat.open and seat.weight > 0 and seat.space > 0 and seat.name in ranked for seat in scene.seats):
            return None
        named = ", ".join(ranked) or "none"
        return Unplaced(
            Reason.NO_MEMBERS,
            f"the strategy {self.name} has it on no member that is ready and has room; it names {named}",
        )

    def _table(self, children: Sequence[DesiredChild], scene: PlacementView) -> tuple[Scores, NDArray[np.bool_]]:
        """The scores, shape (members, children), and for which children there are none."""
        table = np.zeros((len(scene.seats), len(children)), dtype=np.float64)
        failed = np.zeros(len(children), dtype=np.bool_)
        index_of = {seat.name: index for index, seat in enumerate(scene.seats) if seat.weight > 0}
        members = _members(scene)
        for position, child in enumerate(children):
            names = self._ranked(child, members)
            failed[position] = names is None
            for place, name in enumerate(names or ()):
                index = index_of.get(name)
                if index is not None and not table[index, position]:
                    table[index, position] = 1 / (place + 1)
        return table, failed

    def _ranked(self, child: DesiredChild, members: Sequence[Member]) -> list[str] | None:
        seen = Child(id=child.id, origin=child.origin, tags=child.tags, metadata=dict(child.metadata))
        try:
            return [str(name) for name in self._ranks.rank(seen, members)]
        except Exception as error:  # noqa: BLE001 whatever a user's code does, other children and hubs go on; it is told
            self.failure = f"rank({child.id!r}) raised {type(error).__name__}: {error}"
            return None


def _members(scene: PlacementView) -> tuple[Member, ...]:
    """The members that the hub shall have, as a user's strategy sees them."""
    return tuple(
        Member(
            name=seat.name,
            weight=seat.weight,
            ready=seat.open,
            children=seat.children,
            cpu=seat.usage.cpu / 1000 if seat.usage else 0.0,
            memory=seat.usage.memory * 2**20 if seat.usage else 0,
        )
        for seat in scene.seats
        if seat.wanted
    )
