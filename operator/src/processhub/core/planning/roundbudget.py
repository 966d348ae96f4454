"""The budget of one plan: how many moves and restarts it may begin (spec.distribution.rebalance.maxMovesPerSecond)."""

from __future__ import annotations


class RoundBudget:
    """Counts the moves and the restarts in place that a plan begins, and those that exceed the budget of this round."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.moving = 0  # moves under way, including the new ones
        self.pending_moves = 0
        self.why = ""  # why one of them has no target, of which more budget is no cure
        self.restarts = self.pending_restarts = 0

    @property
    def spent(self) -> bool:
        """Whether nothing more may begin in this round."""
        return self.left <= 0

    def begin_move(self) -> None:
        """Count a move that begins."""
        self.left -= 1
        self.moving += 1

    def put_off(self, moves: int = 1) -> None:
        """Count moves that exceed the budget."""
        self.pending_moves += moves

    def allow(self, moves: int) -> int:
        """How many of so many moves may begin now. The others are put off."""
        now = min(moves, max(self.left, 0))
        self.put_off(moves - now)
        return now

    def restart(self) -> bool:
        """Count a restart in place; returns whether it may begin now."""
        if self.spent:
            self.pending_restarts += 1
            return False
        self.left -= 1
        self.restarts += 1
        return True
