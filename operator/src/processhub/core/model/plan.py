"""The planner's output: changes of entries, and the reasons why children have no place."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.reasons import Reason
from processhub.registry.grammar import Assignment

# Why a child can't leave a member that is to be emptied.
STRANDED_PINNED = "pinned"
STRANDED_GUIDED = "guided to it by its nodes"
STRANDED_ALONE = "no other member is left"


class Unplaced(msgspec.Struct, frozen=True):
    """Why a child has no place now."""

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
    """The changes of one round. ``entries``: member → id → new entry, or None to remove it. It names only changes."""

    entries: Mapping[str, Mapping[str, Assignment | None]]
    unplaced: Mapping[str, Unplaced]
    moves: tuple[Move, ...] = ()  # the moves that this plan begins, both by choice and after a loss
    joining: Mapping[str, bool] = {}  # member → whether it counts as joining, if that changes
    stranded: Mapping[str, tuple[str, ...]] = {}  # member to be emptied → its children that can't leave
    why_stranded: Mapping[str, str] = {}  # each of these children → the reason, such as ``pinned``
    no_member_left: bool = False  # they can't leave because no member is to take children any more, bound or not
    move_results: Mapping[str, str] = {}  # finished requests by id: "" if carried out, else the reason why not
    # Children that stay because they declined a move, or because their state could not be handed over.
    deferred: tuple[str, ...] = ()
    imbalance: tuple[str, str] | None = None  # the most and the least loaded member, if the strategy considers loads
    last_placed: str = ""  # the member on which the newest child was placed
    next_epoch: int
    pending_moves: int = 0  # moves that are due to a join, a drain or a request, but exceed the budget of this round
    pending_why: str = ""  # why one of them has no target
    moving: int = 0  # moves under way, including the new ones
    restarts: int = 0  # restarts in place of paced children
    pending_restarts: int = 0  # restarts that exceed the budget of this round

    @property
    def planned_moves(self) -> int:
        """The number of moves and restarts that were begun by choice. They count against maxMovesPerSecond."""
        return sum(not move.lost for move in self.moves) + self.restarts

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.entries and not self.joining
