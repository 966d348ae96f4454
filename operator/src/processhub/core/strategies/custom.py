"""Users' own distribution strategies. A user's code ranks the members for a child; this module does the rest."""

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
    """A child as a user's strategy sees it, with fields of its spec."""

    id: str
    """The child's id."""
    origin: str = ""
    """The name of the member that asked for the child, or "" if none did."""
    tags: tuple[str, ...] = ()
    """The child's tags."""
    metadata: Mapping[str, str] = {}
    """The child's metadata."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member that the hub should have."""

    name: str
    """The member's name: that of its Pod, or in mode PerNode that of its Kubernetes node."""
    weight: int = 1
    """The member's weight, by ``spec.members.weights``."""
    ready: bool = True
    """Whether the member takes children now."""
    children: int = 0
    """The number of children that are on record on the member."""
    cpu: float = 0.0
    """Cores that the member's children use, as its agent last reported."""
    memory: int = 0
    """Bytes of memory that the member's children use."""


class UserDistribution(Protocol):
    """A user's distribution strategy. ``processhub.strategies.Distribution`` describes it in full."""

    respects_load_cap: bool

    def rank(self, child: Child, members: Sequence[Member]) -> Sequence[str]:
        """The names of the members that may have the child, best first."""


class CustomDistribution(Scored):
    """Calls a user's distribution strategy. If that fails, new children are placed by the hash, and none is moved.

    ``failure`` is the last error, for the controller to report; "" if there was none.
    """

    def __init__(self, name: str, strategy: UserDistribution) -> None:
        self.name, self._strategy = name, strategy
        self.capped = strategy.respects_load_cap
        self.failure = ""

    def prepare(self, children: Sequence[DesiredChild], view: PlacementView) -> Score:
        """The score 1 for the first member, 1/2 for the second, and so on; 0 for members that are not named."""
        table, _ = self._table(children, view)
        return lambda rows, index: table[index, rows]

    def place(self, children: Sequence[DesiredChild], view: PlacementView) -> Indices:
        """Choose members by rank, then by the hash for children whose ranking failed."""
        table, failed = self._table(children, view)
        chosen = np.full(len(children), NOWHERE, dtype=np.int64)
        self.fill(chosen, lambda rows, index: table[index, rows], view, cap=self.capped)
        if failed.any():
            by_hash = hash_scores(children, view)
            self.fill(chosen, lambda rows, index: by_hash(rows, index) * failed[rows], view)
        return chosen

    def ranks(self, children: Sequence[DesiredChild], view: PlacementView) -> list[list[str]]:
        """The members by rank, or by the hash if the ranking failed."""
        table, failed = self._table(children, view)
        by_hash = hash_scores(children, view)
        return ranked(
            lambda rows, index: np.where(failed[rows], by_hash(rows, index), table[index, rows]), len(children), view
        )

    def why_not(self, child: DesiredChild, view: PlacementView) -> Unplaced | None:
        """The reason for a child for which the strategy names no member that is ready and has room."""
        ranked = self._ranked(child, _members(view)) or ()
        if any(slot.takes and slot.name in ranked for slot in view.slots):
            return None
        named = ", ".join(ranked) or "none"
        return Unplaced(
            Reason.NO_MEMBERS, f"the strategy {self.name} names no member that is ready and has room; it names {named}"
        )

    def _table(self, children: Sequence[DesiredChild], view: PlacementView) -> tuple[Scores, NDArray[np.bool_]]:
        """The scores, shape (members, children), and for which children the ranking failed."""
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
    """The members that the hub should have, as a user's strategy sees them."""
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
