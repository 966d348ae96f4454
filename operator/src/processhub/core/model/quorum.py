"""Whether a hub has enough live members to run its children: StaticQuorum, DynamicQuorum, MajorityQuorum.

Both the loss and the return of a member need a proof. A member is lost when its Lease has expired. While a hub is
partitioned, a member counts as live only if it was seen renewing its Lease since the observer began to count: a Lease
that is merely held may belong to a dead member and not have expired yet. The functions are pure.
"""

from __future__ import annotations

import msgspec

from processhub.api.hub import PartitionTolerance
from processhub.api.reasons import GroupReason, Reason
from processhub.core.listing import counted


class QuorumFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a hub's members.

    ``live`` members hold their Lease, and ``renewing`` of them were seen to renew it. ``recent`` members were live
    within the last thresholdSeconds, the live ones included. While the hub is partitioned, ``recent`` stays at the
    number of when it lost its quorum, so that waiting alone brings no quorum back. ``at_least`` is the number that a
    leader finds on record as required when it takes over a partitioned hub. ``formed`` is true once the hub's first
    members have arrived, or are not waited for any more.
    """

    live: int
    renewing: int
    recent: int = 0
    largest_seen: int = 0
    at_least: int = 0
    partitioned: bool = False
    formed: bool = True


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of members that a user's partition strategy decides by."""

    wanted: int
    """The members that the hub should have."""
    recent: int
    """The members that were live within ``spec.partitionTolerance.thresholdSeconds``."""
    largest_seen: int
    """The most members that were live at once since the last ``kubectl hub quorum reset``."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a hub's quorum. ``partitioned``: all children are stopped, and ``why`` gives the reason.

    ``quorate`` is the status of the condition Quorate. A hub whose first members are still arriving is neither quorate
    nor partitioned: no child runs yet that could be stopped.
    """

    required: int
    live: int
    largest_seen: int
    quorate: bool
    partitioned: bool
    reason: str
    why: str


def quorum(spec: PartitionTolerance, facts: QuorumFacts, own: int | None = None) -> Verdict:
    """Judge the quorum of a hub with this spec; ``own``: the number that a user's strategy requires."""
    largest = max(facts.largest_seen, facts.live if not facts.partitioned else facts.renewing)
    if spec.strategy == "Divergence":
        return Verdict(
            required=0,
            live=facts.live,
            largest_seen=max(facts.largest_seen, facts.live),
            quorate=True,
            partitioned=False,
            reason=GroupReason.NOT_REQUIRED,
            why="Divergence needs no quorum",
        )
    required, needs = _required(spec, facts, largest)
    if own is not None:
        required = max(1, own, facts.at_least)
        needs = f"{spec.strategy} needs {required}"
    live = facts.renewing if facts.partitioned else facts.live
    quorate = live >= required
    said = f"{counted(live, 'member is', 'members are')} live, {needs}"
    forming = not quorate and not facts.formed and not facts.partitioned
    if quorate:
        reason, why = str(GroupReason.QUORATE), said
    elif forming:
        reason, why = str(GroupReason.FORMING), f"{said}; the hub's first members are coming"
    else:
        reason, why = str(Reason.PARTITIONED), f"{said}; all children are stopped until so many are live again"
    return Verdict(
        required=required,
        live=live,
        largest_seen=largest,
        quorate=quorate,
        partitioned=not quorate and not forming,
        reason=reason,
        why=why,
    )


def _required(spec: PartitionTolerance, facts: QuorumFacts, largest: int) -> tuple[int, str]:
    """The number of members that must be live, and the clause that explains it."""
    if spec.strategy == "StaticQuorum":
        required = spec.quorum_size or 1
        return required, f"StaticQuorum needs {required} (quorumSize)"
    if spec.strategy == "MajorityQuorum":
        required = largest // 2 + 1
        return required, f"MajorityQuorum needs {required}, more than half of the {largest} that were live at most"
    required = max(1, -(-facts.recent * spec.quorum_percent // 100), facts.at_least)
    return required, (
        f"DynamicQuorum needs {required}, {spec.quorum_percent} % of those that were live within "
        f"{spec.threshold_seconds} s"
    )
