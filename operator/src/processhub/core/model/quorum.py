"""Whether a hub has enough live members to run its children: StaticQuorum, DynamicQuorum, MajorityQuorum.

Pure. What is lost is lost by proof (a Lease that ran out); what is back is back by proof too: while a hub is
partitioned only members count that were seen to renew their Lease since the observer began to count, because a Lease
that is merely held may be a dead member's that has not run out yet.
"""

from __future__ import annotations

import msgspec

from processhub.api.hub import PartitionTolerance
from processhub.api.reasons import GroupReason, Reason


class QuorumFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a hub's members.

    ``live`` hold their Lease, ``renewing`` of them were seen to renew it. ``recent``: members that were live within
    the last thresholdSeconds, the live ones included; while the hub is partitioned those that were when it lost its
    quorum, so that waiting alone brings no quorum back. ``at_least`` is what a leader that took over a partitioned hub
    finds on record as required. ``formed``: the first members were waited for.
    """

    live: int
    renewing: int
    recent: int = 0
    largest_seen: int = 0
    at_least: int = 0
    partitioned: bool = False
    formed: bool = True


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition strategy of the user's goes by: members, counted."""

    wanted: int
    """Those that the hub shall have."""
    recent: int
    """Those that were live within ``spec.partitionTolerance.thresholdSeconds``."""
    largest_seen: int
    """The most that were ever live at once, since the last ``kubectl hub quorum reset``."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``quorate``: as the condition says. ``partitioned``: children are stopped, ``why`` says it in a sentence.

    A hub whose first members are still coming is neither: nothing runs yet that could be stopped.
    """

    required: int
    live: int
    largest_seen: int
    quorate: bool
    partitioned: bool
    reason: str
    why: str


def quorum(spec: PartitionTolerance, facts: QuorumFacts, own: int | None = None) -> Verdict:
    """The verdict for a hub with this spec; ``own``: how many a strategy of the user's requires."""
    largest = max(facts.largest_seen, facts.live if not facts.partitioned else facts.renewing)
    if spec.strategy == "Divergence":
        return Verdict(
            required=0,
            live=facts.live,
            largest_seen=max(facts.largest_seen, facts.live),
            quorate=True,
            partitioned=False,
            reason=GroupReason.NOT_REQUIRED,
            why="Divergence asks for no quorum",
        )
    required, needs = _required(spec, facts, largest)
    if own is not None:
        required = max(1, own, facts.at_least)
        needs = f"{spec.strategy} needs {required}"
    live = facts.renewing if facts.partitioned else facts.live
    quorate = live >= required
    counted = f"{live} {'member is' if live == 1 else 'members are'} live, {needs}"
    forming = not quorate and not facts.formed and not facts.partitioned
    if quorate:
        reason, why = str(GroupReason.QUORATE), counted
    elif forming:
        reason, why = str(GroupReason.FORMING), f"{counted}; the hub's first members are coming"
    else:
        reason, why = str(Reason.PARTITIONED), f"{counted}; all children are stopped until so many are live again"
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
    """How many members must be live, and the clause that says so."""
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
