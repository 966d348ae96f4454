"""The planner's result: changes to entries, and why what is not placed is not."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.reasons import Reason
from processhub.registry.grammar import Assignment


class Unplaced(msgspec.Struct, frozen=True):
    """The reason why a child has no place now."""

    reason: Reason
    message: str


class Move(msgspec.Struct, frozen=True):
    """A child that changes its member; ``why`` is a clause such as ``my-hub-3 joined``; ``lost``: not by choice."""

    id: str
    source: str
    target: str
    why: str
    lost: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One round's changes. ``entries``: member → id → its new entry, or None to remove it; only changes are named."""

    entries: Mapping[str, Mapping[str, Assignment | None]]
    unplaced: Mapping[str, Unplaced]
    moves: tuple[Move, ...] = ()  # the moves that this plan begins, by choice and after a loss
    joining: Mapping[str, bool] = {}  # member → whether it counts as joining, where that changes
    stranded: Mapping[str, tuple[str, ...]] = {}  # member to be emptied → the bound children that can't leave it
    move_results: Mapping[str, str] = {}  # requests that are finished, by id: "" carried out, else why not
    deferred: tuple[str, ...] = ()  # children that stay: they would not be moved, or their state did not come over
    imbalance: tuple[str, str] | None = None  # the most and the least loaded member, where the strategy minds
    last_placed: str = ""  # the member that the newest child went to
    next_epoch: int
    pending_moves: int = 0  # due to a join, a drain or a request, but over the budget of this round
    moving: int = 0  # moves under way, these included
    restarts: int = 0  # in place, of paced children
    pending_restarts: int = 0  # over the budget of this round

    @property
    def planned_moves(self) -> int:
        """How many moves and restarts were begun by choice: these count against maxMovesPerSecond."""
        return sum(not move.lost for move in self.moves) + self.restarts

    @property
    def empty(self) -> bool:
        """Whether nothing is to be written."""
        return not self.entries and not self.joining
