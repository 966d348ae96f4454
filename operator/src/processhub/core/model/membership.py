"""What a member is to the planner, judged from its Lease, its pod and its node.

Only a proof makes a member gone, and only a restart that is seen has it held (docs/protocol.md, rules 9 to 11, 15 and
16). Pure: how long ago something was seen is an argument, in seconds of the observer's monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

LEASE_GRACE_SECONDS = 1.0  # the operator gives away this long after the Lease ran out


class Phase(StrEnum):
    """LIVE runs and may take children; HELD keeps what it has; GONE is proven to run nothing."""

    LIVE = "Live"
    HELD = "Held"
    GONE = "Gone"


class MemberFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one member. Seconds are on the observer's monotonic clock.

    ``holder`` is the Lease's ("" when released or never held) and ``granted_to`` the holder for which its entries
    were written ("" where any may run them, which is Hold).
    """

    holder: str = ""
    granted_to: str = ""
    unrenewed_seconds: float = 0.0
    lease_seconds: int = 15
    pod_uid: str = ""  # "" where there is no pod
    pod_deleting: bool = False
    pod_disrupted: bool = False  # condition DisruptionTarget: an eviction
    holder_terminated: bool = False  # the kubelet reported the end of the holder's container
    node_ready: bool = True
    node_unschedulable: bool = False
    holds: bool = True  # Hold with holdSeconds above 0
    hold_seconds: int = 30
    restarting_seconds: float = 0.0  # since the restart was first seen; 0 where it is seen now
    hands_over: bool = False  # a pod that is deleted hands its children over, whatever it is deleted for
    ordered_away: bool = False  # scale-down, or a drain that was asked for


class Judgement(msgspec.Struct, frozen=True):
    """A member's phase, whether it is to be emptied, and in how many seconds to look again (None: on an event)."""

    phase: Phase
    draining: bool
    restarting: bool
    recheck_seconds: float | None
    why: str


def judge(facts: MemberFacts) -> Judgement:
    """The member's phase. A missing pod proves nothing; a Lease that ran out, a release or the kubelet's word does."""
    holder_pod = facts.holder.partition("/")[0]
    leaves = facts.hands_over or facts.pod_disrupted or facts.node_unschedulable
    draining = facts.ordered_away or (facts.pod_deleting and leaves)
    limit = facts.lease_seconds + LEASE_GRACE_SECONDS
    expired = facts.unrenewed_seconds >= limit
    replaced = facts.pod_uid != holder_pod

    if facts.holder and not facts.holder_terminated and not expired:
        if facts.granted_to and facts.granted_to != facts.holder:
            return Judgement(Phase.GONE, draining, False, None, "restarted")
        serving = not replaced and not facts.pod_deleting
        recheck = limit - facts.unrenewed_seconds
        return Judgement(Phase.LIVE if serving else Phase.HELD, draining, False, recheck, "its Lease is held")

    # Proven to run nothing; was it a restart that Hold waits for?
    seen_restarting = not facts.holder or facts.holder_terminated or replaced or facts.pod_deleting
    if facts.holds and seen_restarting and facts.node_ready and not draining:
        left = facts.hold_seconds - facts.restarting_seconds
        if left > 0:
            return Judgement(Phase.HELD, draining, True, left, "it restarts")
    if not facts.holder:
        why = "it stopped"
    elif facts.holder_terminated:
        why = "its container ended"
    else:
        why = f"its Lease was not renewed for {limit:g} s"
    return Judgement(Phase.GONE, draining, False, None, why)
