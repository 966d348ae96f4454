"""Migration strategies: whether a child moves afresh, moves with its state, or stays for now.

They are the built-in ones and users' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

import msgspec

from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies.custom import Child


class MigrationMode(StrEnum):
    """How a move is carried out."""

    COLD = "ColdSwap"
    """The child is stopped on the source and starts afresh on the target."""
    HOT = "HotSwap"
    """The child's state is handed over."""
    LATER = "Later"
    """The child stays for now."""


class PossibleMove(msgspec.Struct, frozen=True, kw_only=True):
    """A move that may begin, between two members."""

    source: str
    """The name of the member that the child is on."""
    target: str
    """The name of the member that the child would go to."""
    by_choice: bool
    """Whether the child may stay: the move was not requested, and the child's member is not being emptied."""


class MigrationStrategy(Protocol):
    """A hub's migration strategy, as the planner uses it. It returns the same mode for the same arguments."""

    def mode(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """The mode in which the child is to be moved; ``LATER`` only if ``move.by_choice``."""


class FixedMigration:
    """A migration strategy that has one mode for every move."""

    def __init__(self, mode: MigrationMode) -> None:
        self._mode = mode

    def mode(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """The mode that the strategy was created with."""
        return self._mode


BUILT_IN: Mapping[str, MigrationStrategy] = {
    str(mode): FixedMigration(mode) for mode in (MigrationMode.COLD, MigrationMode.HOT)
}


class UserMigration(Protocol):
    """A user's migration strategy. ``processhub.strategies.Migration`` describes it in full."""

    def way(self, child: Child, move: PossibleMove) -> MigrationMode:
        """The mode in which the child is to be moved."""


class CustomMigration:
    """Calls a user's migration strategy. If that fails, a child stays if it may; otherwise its state is handed over.

    ``failure`` is the last error, for the controller to report; "" if there was none.
    """

    def __init__(self, name: str, strategy: UserMigration) -> None:
        self.name, self._strategy = name, strategy
        self.failure = ""

    def mode(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """The mode that the user's strategy returns; HOT instead of LATER if the child can't stay."""
        seen = Child(id=child.id, origin=child.origin, tags=child.tags, metadata=dict(child.metadata))
        try:
            mode = MigrationMode(self._strategy.way(seen, move))
        except Exception as error:  # noqa: BLE001 a user's code may raise anything; it is reported as ``failure``
            self.failure = f"way({child.id!r}) raised {type(error).__name__}: {error}"
            mode = MigrationMode.LATER
        return MigrationMode.HOT if mode is MigrationMode.LATER and not move.by_choice else mode


def migration_of(name: str, custom: Mapping[str, CustomMigration] | None = None) -> MigrationStrategy:
    """The migration strategy of this name, built-in or one of ``custom``. Raises KeyError if there is none."""
    return BUILT_IN[name] if name in BUILT_IN else (custom or {})[name]
