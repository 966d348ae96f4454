"""The memory of the observe stage: what a leader keeps of a hub between rounds, to observe it and to plan.

A new leader starts without it (docs/protocol.md, rules 3, 11 and 15).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from processhub.api.slice import EPOCHS_PER_TERM
from processhub.controller.observe.ondemand import OnDemandWatch
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.observe.rollouts import RolloutWatch
from processhub.controller.observe.setmoverequests import AppliedMoves
from processhub.core.model.plan import Plan
from processhub.core.strategies.cooldown import RebalanceCooldown

DEFERRED_SECONDS = 30.0  # A child whose move failed or was refused is not moved again for this long.


_EPOCHS_OF_A_ROUND = 10_000_000  # More than any round uses.


class Epochs:
    """The epochs of one hub in this term. ``used``: how many are used already, by deleted hubs of its name too."""

    def __init__(self, term: int, used: int = 0) -> None:
        self._first = term * EPOCHS_PER_TERM
        self.next = self._first + used

    @property
    def used(self) -> int:
        """The number of epochs of this term that are used."""
        return self.next - self._first

    @property
    def used_up(self) -> bool:
        """Whether the term may have too few epochs for another round: the next term's must not be used."""
        return self.used > EPOCHS_PER_TERM - _EPOCHS_OF_A_ROUND


class Formation:
    """The formation of a hub: whether placing has begun, and when (monotonic seconds) its first member was live."""

    def __init__(self) -> None:
        self.formed = False
        self.first_live_at: float | None = None


class DeferredMoves:
    """The children that are not to be moved for a while, because a move failed or was refused."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # id → monotonic seconds

    def defer(self, ids: Iterable[str], now: float) -> None:
        """Defer moves of these children for ``DEFERRED_SECONDS``."""
        self._until.update(dict.fromkeys(ids, now + DEFERRED_SECONDS))

    def still_deferred(self, now: float) -> frozenset[str]:
        """The children that may not be moved yet."""
        if self._until:
            self._until = {child_id: until for child_id, until in self._until.items() if until > now}
        return frozenset(self._until)

    def wait(self, now: float) -> float | None:
        """Seconds until the first of them may be moved again, or None."""
        return max(0.05, min(self._until.values()) - now) if self._until else None


class MoveBudget:
    """The number of moves that may begin. At most the moves of one second may begin at once."""

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


class Settling:
    """What members may still run for an earlier leader, or have proven (docs/protocol.md, rule 4).

    - ``term_generations``: slice's uid → the generation in which this leader's term was written.
    - ``confirmed``: the members that confirmed their slices to this leader.
    - ``ended``: the members that run nothing, by a read of their Lease since.
    - ``bare``: the members that had no slice 0 when this leader began, though they may run.
    """

    def __init__(self) -> None:
        self.term_generations: Mapping[str, int] = {}
        self.confirmed: set[str] = set()
        self.ended: set[str] = set()
        self.bare: set[str] = set()

    def awaits(self, member: str) -> bool:
        """Whether the member may run something for an earlier leader, of which no slice says anything."""
        return member not in self.confirmed and member not in self.ended


class SetsMemory:
    """The memory of ChildSets and of the hub's children on demand."""

    def __init__(self) -> None:
        self.applied_moves: dict[str, AppliedMoves] = {}  # by the uid of the ChildSet or the Hub
        self.rollouts = RolloutWatch()
        self.demand = OnDemandWatch()


class ObserveMemory:
    """The memory of the observe stage for one hub. All times are monotonic seconds."""

    def __init__(self, term: int, used_epochs: int = 0) -> None:
        self.epochs = Epochs(term, used_epochs)
        self.formation = Formation()
        self.quorum: QuorumWatch | None = None  # None before the first round.
        self.settling = Settling()
        self.restarting_since: dict[str, float] = {}  # by member
        self.fingerprint = ""  # The fingerprint of the present strategy and weights.
        self.copies = 1  # By the latest result of a custom redundancy strategy.
        self.last_placed = ""  # The member to which the newest child went.
        self.moves = MoveBudget()
        self.deferred_moves = DeferredMoves()
        self.sets = SetsMemory()
        self.cooldown = RebalanceCooldown()
        self.rebalance_target = ""  # The member that is to get children, because loads have differed for long.

    def remember(self, plan: Plan, now: float) -> None:
        """Keep what later rounds need of a plan."""
        self.epochs.next = plan.next_epoch
        self.moves.spend(plan.planned_moves)
        self.last_placed = plan.last_placed
        self.deferred_moves.defer(plan.deferred, now)
        self.rebalance_target = self.cooldown.target(plan.imbalance, now)
