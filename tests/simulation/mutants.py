"""Reversals of single rules of the product, each of which the simulator must find: its own proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from processhub.agent.lease.record import LeaseRecord
from processhub.agent.lease.validity import Validity
from processhub.cluster.errors import ApiError
from processhub.controller.execute import executor, slicewriter
from processhub.controller.execute.moverequests import MoveRequests
from processhub.controller.lead.election import Election
from processhub.controller.observe import members
from processhub.core.model.membership import Judgement, MemberFacts, judge


class Mutant(NamedTuple):
    """``breaks``: what no longer holds. ``where`` and ``name``: the function that ``instead`` replaces."""

    breaks: str
    where: Any
    name: str
    instead: Any

    def put_in(self) -> None:
        """Break the product, for the rest of this process."""
        assert hasattr(self.where, self.name)
        setattr(self.where, self.name, self.instead)


def _judge_early(facts: MemberFacts) -> Judgement:
    return judge(msgspec.structs.replace(facts, unrenewed_seconds=facts.unrenewed_seconds * 2))


async def _always(*_: object) -> bool:
    return True


async def _zero(*_: object) -> int:
    return 0


async def _nothing(*_: object) -> None: ...


def _no_one(*_: object) -> list[str]:
    return []


_no: Callable[..., None] = lambda *_: None  # noqa: E731

MUTANTS = {
    "lease-of-another-pod": Mutant(
        "an agent waits for the Lease that another pod of its member holds (docs/protocol.md, rule 9)",
        LeaseRecord, "same_pod", lambda *_: True,
    ),
    "no-deadline": Mutant(
        "the watchdog ends the children of an agent that does not renew (docs/protocol.md, rule 11)",
        Validity, "_feed_deadlines", _no,
    ),
    "judged-early": Mutant(
        "a member is gone only when its Lease has run out (docs/protocol.md, rules 10 and 11)",
        members, "judge", _judge_early,
    ),
    "order-unanswered": Mutant(
        "an order to move a child is answered", MoveRequests, "record_results", _nothing
    ),
}  # fmt: skip

# Those that take more seeds than a test can run, or that no seed has shown yet.
RARE = {
    "gone-unread": Mutant(
        "the Lease of a member is read once more before its children go elsewhere (docs/protocol.md, rule 10)",
        executor, "_is_as_judged", _always,
    ),
    "removal-unproven": Mutant(
        "another owner starts only when the end of the former is acknowledged (docs/protocol.md, rule 7)",
        slicewriter, "_removed", _no_one,
    ),
    "outcome-known": Mutant(
        "a write without an answer may have been stored (docs/protocol.md, rule 5)",
        ApiError, "outcome_unknown", property(lambda _: False),
    ),
    "term-from-nothing": Mutant(
        "a new term is above that of all slices (docs/protocol.md, rule 1)", Election, "_highest_term", _zero
    ),
}  # fmt: skip
