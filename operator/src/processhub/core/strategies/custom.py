"""A user's own distribution strategy: it ranks the members for a child, and the rest is done here."""

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


class UserDistribution(Protocol):
    """A user's distribution strategy; ``processhub.strategies.Distribution`` describes it in full."""

    respects_load_cap: bool

    def rank(self, child: Child, members: Sequence[Member]) -> Sequence[str]:
        """The names of the members that may have the child, best first."""


class CustomDistribution(Scored):
    """A distribution strategy that asks a user's. Where that fails, a new child goes by the hash and none is moved.

    ``failure`` says what went wrong last, for the controller to report; "" where nothing did.
    """

    def __init__(self, name: str, strategy: UserDistribution) -> None:
        self.name, self._strategy = name, strategy
        self.capped = strategy.respects_load_cap
        self.failure = ""

    def prepare(self, children: Sequence[DesiredChild], view: PlacementView) -> Score:
        """A score of 1 for the first member, 1/2 for the second, and so on; 0 for one that is not named."""
        table, _ = self._table(children, view)
        return lambda rows, index: table[index, rows]

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """The members by rank; then, by the hash, those of children whose ranks can't be had."""
        table, failed = self._table(children, view)
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        self.fill(chosen, lambda rows, index: table[index, rows], view, cap=self.capped)
        if failed.any():
            by_hash = hash_scores(children, view)
            self.fill(chosen, lambda rows, index: by_hash(rows, index) * failed[rows], view)
        return chosen

    def ranks(self, children: Sequence[DesiredChild], view: PlacementView) -> list[list[str]]:
        """The members by rank, or by the hash where the ranks can't be had."""
        table, failed = self._table(children, view)
        by_hash = hash_scores(children, view)
        return ranked(
            lambda rows, index: np.where(failed[rows], by_hash(rows, index), table[index, rows]), len(children), view
        )

    def why_not(self, child: DesiredChild, view: PlacementView) -> Unplaced | None:
        """A reason where the strategy names no member that is ready and has room."""
        ranked = self._ranked(child, _members(view)) or ()
        if any(slot.open and slot.weight > 0 and slot.space > 0 and slot.name in ranked for slot in view.slots):
            return None
        named = ", ".join(ranked) or "none"
        return Unplaced(
            Reason.NO_MEMBERS,
            f"the strategy {self.name} has it on no member that is ready and has room; it names {named}",
        )

    def _table(self, children: Sequence[DesiredChild], view: PlacementView) -> tuple[Scores, NDArray[np.bool_]]:
        """The scores, shape (members, children), and for which children there are none."""
        table = np.zeros((len(view.slots), len(children)), dtype=np.float64)
        failed = np.zeros(len(children), dtype=np.bool_)
        index_of = {slot.name: index for index, slot in enumerate(view.slots) if slot.weight > 0}
        members = _members(view)
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
            return [str(name) for name in self._strategy.rank(seen, members)]
        except Exception as error:  # noqa: BLE001 a user's code may raise anything; it is reported as ``failure``
            self.failure = f"rank({child.id!r}) raised {type(error).__name__}: {error}"
            return None


def _members(view: PlacementView) -> tuple[Member, ...]:
    """The members that the hub shall have, as a user's strategy sees them."""
    return tuple(
        Member(
            name=slot.name,
            weight=slot.weight,
            ready=slot.open,
            children=slot.children,
            cpu=slot.usage.cpu / 1000 if slot.usage else 0.0,
            memory=slot.usage.memory * 2**20 if slot.usage else 0,
        )
        for slot in view.slots
        if slot.wanted
    )
