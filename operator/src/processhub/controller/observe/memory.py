"""What the leader remembers of a hub between rounds.

A new leader starts without it (docs/protocol.md, rules 3, 11 and 15).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from processhub.api.reasons import Reason
from processhub.api.slice import EPOCHS_PER_TERM
from processhub.cluster.tokenbucket import TokenBucket
from processhub.controller.execute.ownedobjects import OwnedMemory
from processhub.controller.report.hubpace import HubPace
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.strategies.cooldown import RebalanceCooldown

if TYPE_CHECKING:
    from processhub.controller.execute.steps import Failures
    from processhub.controller.observe.quorumwatch import QuorumWatch
    from processhub.controller.observe.setorders import HeldBack

PUT_OFF_SECONDS = 30.0  # for which a child that would not be moved is let be
SLICE_WRITES = (5.0, 20.0)  # rate a second and burst of one slice's spec


class Away(msgspec.Struct, frozen=True):
    """A member that was lost: who held its Lease, and the ids that were placed elsewhere since."""

    holder: str
    ids: set[str]


class CheckedTemplate(msgspec.Struct):
    """The members' pod template that the API server would take last, and the Hub's generation of which it was asked."""

    generation: int = 0
    last_good: dict[str, Any] | None = None


class HubMemory:
    """All times are monotonic seconds. ``used_epochs``: how many of this term hubs that are gone have used."""

    def __init__(self, uid: str, term: int, used_epochs: int = 0) -> None:
        self.uid = uid
        self._first_epoch = term * EPOCHS_PER_TERM
        self.next_epoch = self._first_epoch + used_epochs
        self.formed = False
        self.first_live_at: float | None = None
        self.restarting_since: dict[str, float] = {}
        self.settled: set[str] = set()
        self.doubted_slices: set[str] = set()  # names of those whose creation was not answered once: not to be deleted
        self.takeover: Mapping[str, int] = {}  # slice's uid → the generation in which this leader's term was written
        self.phases: dict[str, str] = {}  # member → phase of the round before
        self.seen_live: set[str] = set()
        self.unplaced: dict[str, Unplaced] = {}
        self.refusals: Mapping[str, Refusal] = {}  # Child object's name → why it was refused in the round before
        self.plan: Plan | None = None
        self.quorum: QuorumWatch | None = None  # from the first round on
        self.away: dict[str, Away] = {}  # members that were lost, by name
        self.slice_buckets: dict[str, TokenBucket] = {}
        self.status_pace = HubPace()
        self.storm = False  # so many entries are under way that what only tells of them gives way
        self.moves_refilled_at: float | None = None
        self.move_tokens = 0.0
        self.first_started: dict[str, str] = {}  # child's uid → when it was seen to run, until its status says so
        self.held_back: dict[str, HeldBack] = {}  # by ChildSet's uid
        self.ended: dict[str, float] = {}  # uid of a child that was deleted because its time was up → when
        self.put_off: dict[str, float] = {}  # id of a child that was not moved as it was to be → till when it is let be
        # by id and member → epoch, not again before, and why
        self.refused_pods: dict[tuple[str, str], tuple[int, float, Reason, str]] = {}
        self.doubtful_pods: dict[str, str] = {}  # name → child's id: made, perhaps; there was no answer
        self.looked_for_pods = False  # those that the slices ask for, when this leader began
        self.failures: Failures = {}
        self.template = CheckedTemplate()
        self.fingerprint = ""  # of the strategy and weights as they are
        self.last_placed = ""  # the member that the newest child went to
        self.copies = 1  # as a redundancy strategy of the user's said last
        self.strategy_failure = ""  # as it was told last
        self.patience = RebalanceCooldown()
        self.taker = ""  # a member that draws children, because loads have differed for long
        self.owned = OwnedMemory()
        self.marks_due = 0.0  # before which no marks of slices and Leases are put back again

    @property
    def used_epochs(self) -> int:
        """How many epochs of this term can't be given any more."""
        return self.next_epoch - self._first_epoch

    def slice_bucket(self, name: str) -> TokenBucket:
        """The bucket of a slice's spec writes."""
        bucket = self.slice_buckets.get(name)
        if bucket is None:
            bucket = self.slice_buckets[name] = TokenBucket(*SLICE_WRITES)
        return bucket

    def put_these_off(self, ids: Iterable[str], now: float) -> None:
        """Let these children be for a while: they would not be moved."""
        self.put_off.update(dict.fromkeys(ids, now + PUT_OFF_SECONDS))

    def still_put_off(self, now: float) -> frozenset[str]:
        """The children that are let be."""
        if self.put_off:
            self.put_off = {child_id: until for child_id, until in self.put_off.items() if until > now}
        return frozenset(self.put_off)

    def put_off_wait(self, now: float) -> float | None:
        """Seconds until one of them may be moved again, None where there is none."""
        return max(0.05, min(self.put_off.values()) - now) if self.put_off else None

    def move_budget(self, per_second: int, now: float) -> int:
        """How many moves may begin now: at most a second's worth at once."""
        if self.moves_refilled_at is None:
            self.move_tokens = float(per_second)
        else:
            refill = (now - self.moves_refilled_at) * per_second
            self.move_tokens = min(float(per_second), self.move_tokens + refill)
        self.moves_refilled_at = now
        return int(self.move_tokens)
