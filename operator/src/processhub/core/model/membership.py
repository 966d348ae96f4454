"""The phase of a member, judged from its Lease, its Pod and its Node.

Only a proof makes a member gone, and only a restart that was seen makes it held (docs/protocol.md, rules 9 to 11, 15
and 16). The function is pure: the age of an observation is an argument, in seconds of the observer's monotonic clock.

    Lease held, its Pod runs                             Live
    Lease held, its Pod is replaced or being deleted     Held, until the Lease ends
    Lease held by a newer holder than the entries name   Held until that holder has answered; Gone if it runs none
    Lease over, a restart was seen, onRestart is Hold    Held for holdSeconds, then Gone
    Lease over otherwise                                 Gone
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

LEASE_GRACE_SECONDS = 1.0  # seconds after the end of a Lease at which the operator reassigns the children


class Phase(StrEnum):
    """The phase of a member: LIVE may take children, HELD keeps what it has, GONE is proven to run nothing."""

    LIVE = "Live"
    HELD = "Held"
    GONE = "Gone"


class MemberFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about one member. Seconds are of the observer's monotonic clock.

    ``holder`` is the holder of the Lease ("" if it was released or never held). ``granted_to`` is the holder for which
    the member's entries were written ("" if any holder may run them, which is Hold). ``answered``: the holder has
    acknowledged all slices; ``runs``: it reports that it runs some child.
    """

    holder: str = ""
    granted_to: str = ""
    answered: bool = True
    runs: bool = False
    unrenewed_seconds: float = 0.0
    lease_seconds: int = 15
    pod_uid: str = ""  # "" if there is no Pod
    pod_deleting: bool = False
    pod_disrupted: bool = False  # condition DisruptionTarget, which an eviction sets
    holder_terminated: bool = False  # the kubelet has reported the end of the holder's container
    node_ready: bool = True
    node_unschedulable: bool = False
    holds: bool = True  # Hold with holdSeconds above 0
    hold_seconds: int = 30
    restarting_seconds: float = 0.0  # since the restart was first seen; 0 if it is first seen now
    hands_over: bool = False  # if the Pod is deleted, for whatever cause, it hands its children over
    ordered_away: bool = False  # scaled down, or drained on request


class Judgement(msgspec.Struct, frozen=True):
    """A member's phase, whether it is to be emptied, and the seconds until it is judged again (None: at an event).

    ``serving``: the agent of its present Pod holds the Lease, also where it has none of the member's entries yet.
    """

    phase: Phase
    draining: bool
    restarting: bool
    recheck_seconds: float | None
    why: str
    serving: bool = False


def judge(facts: MemberFacts) -> Judgement:
    """Judge a member. A missing Pod proves nothing; an expired or released Lease or the kubelet's report does."""
    holder_pod = facts.holder.partition("/")[0]
    leaves = facts.hands_over or facts.pod_disrupted or facts.node_unschedulable
    draining = facts.ordered_away or (facts.pod_deleting and leaves)
    limit = facts.lease_seconds + LEASE_GRACE_SECONDS
    expired = facts.unrenewed_seconds >= limit
    replaced = facts.pod_uid != holder_pod

    if facts.holder and not facts.holder_terminated and not expired:
        recheck = limit - facts.unrenewed_seconds
        serving = not replaced and not facts.pod_deleting
        if facts.granted_to and facts.granted_to != facts.holder:
            # The grant may have been written after this holder had read its slices, and started their children.
            if not facts.answered:
                return Judgement(Phase.HELD, draining, False, recheck, "its new agent has not answered yet", serving)
            if not facts.runs:
                return Judgement(Phase.GONE, draining, False, None, "restarted", serving)
        return Judgement(Phase.LIVE if serving else Phase.HELD, draining, False, recheck, "its Lease is held", serving)

    # The member is proven to run nothing. The question left is whether it restarts and Hold waits for it.
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
