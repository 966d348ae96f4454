"""The memory of the execute stage: what a leader keeps of a hub between rounds. A new leader starts without it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from processhub.api.reasons import Reason
from processhub.cluster.tokenbucket import Buckets, TokenBucket
from processhub.controller.execute.membertroubles import Looks
from processhub.controller.execute.ownedobjects import OwnedMemory
from processhub.controller.rounds.steps import Failures
from processhub.controller.rounds.unanswered import OpenRequests
from processhub.core.acceptance import Refusal

_CHECKS_AT_ONCE = 16
SLICE_WRITES = (5.0, 20.0)  # The rate a second and the burst of writes of one slice's spec.


class CheckedTemplate(msgspec.Struct):
    """The members' pod template that the API server last accepted, its hash, and the checked generation of the Hub."""

    generation: int = 0
    digest: str = ""
    last_good: dict[str, Any] | None = None

    def digest_for(self, generation: int) -> str:
        """The hash of the template for this generation of the Hub, which no pod has before it is checked."""
        return self.digest if self.generation == generation else f"unchecked {generation}"


class GroupCheck(msgspec.Struct, frozen=True):
    """The latest look at the template of a ChildSet, or of a Hub's children on demand.

    ``digest``: the workload's hash. ``refusal``: why the API server does not accept it. ``due``: when it is checked
    again.
    """

    digest: str
    refusal: Refusal | None
    due: float


class TemplateChecks:
    """The checks of edited templates of pod children.

    - ``due``: a Child's name → when its template, which was rejected, is checked again.
    - ``passed``: a Child's name → the workload's hash of its template, which was accepted and is not on record yet.
    - ``groups``: the uid of a ChildSet, or of the Hub → the latest look at the template of its children.
    - ``tasks``: a workload's hash → the check that is under way.
    """

    def __init__(self) -> None:
        self.due: dict[str, float] = {}
        self.passed: dict[str, str] = {}
        self.groups: dict[str, GroupCheck] = {}
        self.tasks: dict[str, asyncio.Task[Refusal | None]] = {}
        self.limit = asyncio.Semaphore(_CHECKS_AT_ONCE)

    def close(self) -> None:
        """End the checks that are under way."""
        for task in self.tasks.values():
            task.cancel()


class ExecuteMemory:
    """The memory of the execute stage for one hub. All times are monotonic seconds."""

    def __init__(self) -> None:
        self.failures: Failures = {}
        self.unanswered = OpenRequests()
        self.owned = OwnedMemory()
        self.template = CheckedTemplate()
        self.looks: Looks = {}
        self.former_accounts: frozenset[str] = frozenset()  # As they were last read.
        self.unconfirmed_slices: set[str] = set()  # Names. Their creation was not answered; they are not deleted.
        self.deleted_at: dict[str, float] = {}  # Uid of a Child whose lifetime is over → when its deletion was sent.
        # By id and member: the epoch, the time of the next try, and why the Pod was refused.
        self.refused_pods: dict[tuple[str, str], tuple[int, float, Reason, str]] = {}
        self.template_checks = TemplateChecks()
        self.looked_for_pods = False  # Whether this leader has read the Pods that the slices ask for.
        self.tls_required = False  # Whether members refuse requests without TLS.
        self.marks_due = 0.0  # Marks of slices and Leases are not put back again before this.
        self.slice_buckets: Buckets[str, TokenBucket] = Buckets(lambda: TokenBucket(*SLICE_WRITES))  # By name.

    def close(self) -> None:
        """End what is under way beside the rounds."""
        self.unanswered.close()
        self.template_checks.close()
