"""What the leader remembers of a hub to observe and plan it.

A new leader starts without it (docs/protocol.md, rules 3, 11 and 15).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from processhub.api.slice import EPOCHS_PER_TERM
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.observe.setmoverequests import AppliedMoves
from processhub.core.model.plan import Plan
from processhub.core.strategies.cooldown import RebalanceCooldown

DEFERRED_SECONDS = 30.0  # A child whose move failed or was refused is not moved again for this long.


class Epochs:
    """The epochs that a hub may still give out in this term. ``used``: how many, deleted hubs of its name included."""

    def __init__(self, term: int, used: int = 0) -> None:
        self._first = term * EPOCHS_PER_TERM
        self.next = self._first + used

    @property
    def used(self) -> int:
        """How many epochs of this term can't be given out any more."""
        return self.next - self._first


class Formation:
    """Whether a hub has begun to place children, and when (monotonic seconds) its first member was live."""

    def __init__(self) -> None:
        self.formed = False
        self.first_live_at: float | None = None


class DeferredMoves:
    """The children that are not moved for a while, because a move of theirs failed or was refused."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # id → monotonic seconds

    def defer(self, ids: Iterable[str], now: float) -> None:
        """Keep these children where they are for ``DEFERRED_SECONDS``."""
        self._until.update(dict.fromkeys(ids, now + DEFERRED_SECONDS))

    def still_deferred(self, now: float) -> frozenset[str]:
        """The children that may not be moved yet."""
        if self._until:
            self._until = {child_id: until for child_id, until in self._until.items() if until > now}
        return frozenset(self._until)

    def wait(self, now: float) -> float | None:
        """Seconds until one of them may be moved again, None where there is none."""
        return max(0.05, min(self._until.values()) - now) if self._until else None


class MoveBudget:
    """How many moves may begin: at most a second's worth at once."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._refilled_at: float | None = None

    def available(self, per_second: int, now: float) -> int:
        """How many moves may begin now (monotonic seconds)."""
        if self._refilled_at is None:
            self._tokens = float(per_second)
        else:
            refill = (now - self._refilled_at) * per_second
            self._tokens = min(float(per_second), self._tokens + refill)
        self._refilled_at = now
        return int(self._tokens)

    def spend(self, moves: int) -> None:
        """Count moves that were planned."""
        self._tokens -= moves


class ObserveMemory:
    """What is kept of one hub between its observations. All times are monotonic seconds."""

    def __init__(self, term: int, used_epochs: int = 0) -> None:
        self.epochs = Epochs(term, used_epochs)
        self.formation = Formation()
        self.quorum: QuorumWatch | None = None  # from the first round on
        # The generation of each slice, by its uid, in which this leader's term was written.
        self.term_generations: Mapping[str, int] = {}
        self.restarting_since: dict[str, float] = {}  # by member
        self.settled: set[str] = set()  # members that confirmed their slices to this leader
        self.fingerprint = ""  # of the strategy and weights as they are
        self.copies = 1  # as a custom redundancy strategy said last
        self.last_placed = ""  # the member that the newest child went to
        self.moves = MoveBudget()
        self.deferred_moves = DeferredMoves()
        self.applied_moves: dict[str, AppliedMoves] = {}  # by ChildSet's uid
        self.cooldown = RebalanceCooldown()
        self.rebalance_target = ""  # a member that draws children, because loads have differed for long

    def planned(self, plan: Plan, now: float) -> None:
        """Keep what later rounds need of a plan."""
        self.epochs.next = plan.next_epoch
        self.moves.spend(plan.planned_moves)
        self.last_placed = plan.last_placed
        self.deferred_moves.defer(plan.deferred, now)
        self.rebalance_target = self.cooldown.target(plan.imbalance, now)
