"""What the leader remembers of a hub between the rounds to carry plans out; a new leader starts without it."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub.api.reasons import Reason
from processhub.cluster.tokenbucket import TokenBucket
from processhub.controller.execute.ownedobjects import OwnedMemory
from processhub.controller.rounds.steps import Failures

SLICE_WRITES = (5.0, 20.0)  # rate a second and burst of one slice's spec


class CheckedTemplate(msgspec.Struct):
    """The members' pod template that the API server accepted last, and the Hub's generation that was checked."""

    generation: int = 0
    last_good: dict[str, Any] | None = None


class ExecuteMemory:
    """What is kept of one hub between the rounds' writes. All times are monotonic seconds."""

    def __init__(self) -> None:
        self.failures: Failures = {}
        self.owned = OwnedMemory()
        self.template = CheckedTemplate()
        self.unconfirmed_slices: set[str] = set()  # names of slices whose creation was not answered: not to be deleted
        self.deleted_at: dict[str, float] = {}  # uid of a child whose lifetime is over → when its deletion was sent
        # By id and member: the epoch, not again before, and why.
        self.refused_pods: dict[tuple[str, str], tuple[int, float, Reason, str]] = {}
        self.looked_for_pods = False  # whether the Pods that the slices ask for were read when this leader began
        self.marks_due = 0.0  # Marks of slices and Leases are not put back again before this.
        self._slice_buckets: dict[str, TokenBucket] = {}

    def slice_bucket(self, name: str) -> TokenBucket:
        """The bucket of a slice's spec writes."""
        bucket = self._slice_buckets.get(name)
        if bucket is None:
            bucket = self._slice_buckets[name] = TokenBucket(*SLICE_WRITES)
        return bucket
