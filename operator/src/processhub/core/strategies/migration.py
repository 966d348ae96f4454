"""How a child changes its member: afresh, with its state, or not now. ProcessHub's ways and a user's own."""

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
    """What the planner asks of a hub's migration strategy. The same answer for the same question."""

    def way(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """How the child is to be moved; ``LATER`` only by choice."""


class BuiltIn:
    """One way for all."""

    def __init__(self, way: MigrationMode) -> None:
        self._way = way

    def way(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """Always the same."""
        return self._way


BUILT_IN: Mapping[str, MigrationStrategy] = {str(way): BuiltIn(way) for way in (MigrationMode.COLD, MigrationMode.HOT)}


class CustomMigration(Protocol):
    """What is asked of a user's strategy; ``processhub.strategies.Migration`` says it at length."""

    def way(self, child: Child, move: PossibleMove) -> MigrationMode:
        """How the child is to be moved."""


class OwnMigration:
    """By a user's strategy. Where it fails, a child stays if it may, else its state goes along.

    ``failure`` says what went wrong last, for the operator to tell; "" where nothing did.
    """

    def __init__(self, name: str, ways: CustomMigration) -> None:
        self.name, self._ways = name, ways
        self.failure = ""

    def way(self, child: DesiredChild, move: PossibleMove) -> MigrationMode:
        """What the user's strategy says; where the child can't stay, with its state."""
        seen = Child(id=child.id, origin=child.origin, tags=child.tags, metadata=dict(child.metadata))
        try:
            way = MigrationMode(self._ways.way(seen, move))
        except Exception as error:  # noqa: BLE001 whatever a user's code does, other children and hubs go on; it is told
            self.failure = f"way({child.id!r}) raised {type(error).__name__}: {error}"
            way = MigrationMode.LATER
        return MigrationMode.HOT if way is MigrationMode.LATER and not move.by_choice else way


def migration_of(name: str, own: Mapping[str, OwnMigration] | None = None) -> MigrationStrategy:
    """The strategy of this name. Raises KeyError where there is none."""
    return BUILT_IN[name] if name in BUILT_IN else (own or {})[name]
