"""What the leader remembers of a hub between rounds; a new leader starts without it (PROTOCOL.md 3, 11, 15)."""

from __future__ import annotations

from collections.abc import Mapping

from processhub.api.reasons import Reason
from processhub.api.slice import EPOCHS_PER_TERM
from processhub.cluster.tokenbucket import TokenBucket
from processhub.core.acceptance import Refusal
from processhub.core.plan import Plan, Unplaced

HUB_STATUS_RATE = 2.0
SLICE_WRITES = (5.0, 20.0)  # rate a second and burst of one slice's spec


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
        self.takeover: Mapping[str, int] = {}  # slice's uid → the generation in which this leader's term was written
        self.phases: dict[str, str] = {}  # member → phase of the round before
        self.seen_live: set[str] = set()
        self.unplaced: dict[str, Unplaced] = {}
        self.refusals: Mapping[str, Refusal] = {}  # Child object's name → why it was refused in the round before
        self.plan: Plan | None = None
        self.slice_buckets: dict[str, TokenBucket] = {}
        self.status_bucket = TokenBucket(rate=HUB_STATUS_RATE, burst=4)
        self.status_written_at = float("-inf")
        self.storm = False  # so many entries are under way that what only tells of them gives way
        self.moves_refilled_at: float | None = None
        self.move_tokens = 0.0
        self.refused_pods: dict[str, tuple[int, float, Reason, str]] = {}  # id → epoch, not again before, and why
        self.doubtful_pods: set[str] = set()  # made, perhaps: there was no answer
        self.applied: str = ""  # fingerprint of the owned objects as last applied
        self.applied_at = 0.0

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

    def move_budget(self, per_second: int, now: float) -> int:
        """How many moves may begin now: at most a second's worth at once."""
        if self.moves_refilled_at is None:
            self.move_tokens = float(per_second)
        else:
            refill = (now - self.moves_refilled_at) * per_second
            self.move_tokens = min(float(per_second), self.move_tokens + refill)
        self.moves_refilled_at = now
        return int(self.move_tokens)
