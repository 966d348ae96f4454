"""How a child changes its member: afresh, with its state, or not now. The built-in strategies and a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

import msgspec

from processhub.core.model.snapshot import DesiredChild
from processhub.core.strategies.custom import Child


class MigrationMode(StrEnum):
    """What becomes of a move."""

    COLD = "ColdSwap"
    """The child is stopped here and starts afresh there."""
    HOT = "HotSwap"
    """Its state goes along."""
    LATER = "Later"
    """It stays for now."""


class PossibleMove(msgspec.Struct, frozen=True, kw_only=True):
    """A move that may begin, between two members."""

    source: str
    """The name of the member that the child is on."""
    target: str
    """The name of the member that it would go to."""
    by_choice: bool
    """Whether nobody asked for the move and its member is not emptied, so that the child may stay."""


class MigrationStrategy(Protocol):
    """A hub's migration strategy, as the planner uses it. The same question gets the same answer."""

    def mode(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """How the child is to be moved; ``LATER`` only where ``move.by_choice``."""


class FixedMigration:
    """The same mode for every move."""

    def __init__(self, mode: MigrationMode) -> None:
        self._mode = mode

    def mode(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """The mode that the strategy was made with."""
        return self._mode


BUILT_IN: Mapping[str, MigrationStrategy] = {
    str(mode): FixedMigration(mode) for mode in (MigrationMode.COLD, MigrationMode.HOT)
}


class UserMigration(Protocol):
    """A user's migration strategy; ``processhub.strategies.Migration`` describes it in full."""

    def way(self, child: Child, move: PossibleMove) -> MigrationMode:
        """How the child is to be moved."""


class CustomMigration:
    """A migration strategy that asks a user's. Where that fails, a child stays if it may, else its state goes along.

    ``failure`` says what went wrong last, for the controller to report; "" where nothing did.
    """

    def __init__(self, name: str, strategy: UserMigration) -> None:
        self.name, self._strategy = name, strategy
        self.failure = ""

    def mode(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """The mode that the user's strategy returns; HOT instead of LATER where the child can't stay."""
        seen = Child(id=child.id, origin=child.origin, tags=child.tags, metadata=dict(child.metadata))
        try:
            mode = MigrationMode(self._strategy.way(seen, move))
        except Exception as error:  # noqa: BLE001 a user's code may raise anything; it is reported as ``failure``
            self.failure = f"way({child.id!r}) raised {type(error).__name__}: {error}"
            mode = MigrationMode.LATER
        return MigrationMode.HOT if mode is MigrationMode.LATER and not move.by_choice else mode


def migration_of(name: str, custom: Mapping[str, CustomMigration] | None = None) -> MigrationStrategy:
    """The migration strategy of this name, built-in or one of ``custom``. Raises KeyError where there is none."""
    return BUILT_IN[name] if name in BUILT_IN else (custom or {})[name]
