"""Quiet rounds: a hub at rest in which children restart. They report that, and plan nothing.

A plan looks at all children of a hub. When one of a hundred thousand restarts, or when a Lease is to be looked at once
more, the plan would be the same as before: nothing is to be done. So a round that has left nothing to do is kept, and
as long as nothing but restarts follows it, its observation is reported again with the children's new states.
"""

from __future__ import annotations

from collections.abc import Mapping

from processhub.controller.memory import HubMemory, LastRound
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.rounds.round import Round
from processhub.core.model.plan import Plan

_LONGEST_SECONDS = 300.0  # A plan is made so often, though nothing is known to have changed.


def still_holds(last: LastRound, members: Mapping[str, Member], now: float) -> bool:
    """Whether the plan of a round still holds, if nothing but restarts has followed.

    ``members``: as they are judged ``now`` (monotonic seconds). A member may have been lost while the round went on,
    so they are compared with those that were planned for. The quorum is judged with them, because it counts since
    when each of them has not been live.
    """
    judged = {name: _judged(member) for name, member in members.items()}
    if judged != {name: _judged(member) for name, member in last.observation.members.items()}:
        return False
    verdict = last.observation.quorum
    if last.quorum is not None and last.quorum.look(last.hub, members, True, now) != verdict:
        return False
    return now < last.due


def next_plan(now: float, after: float | None) -> float:
    """When a hub at rest is planned again. ``after``: the seconds until time alone may change the plan, or None."""
    return now + min(_LONGEST_SECONDS, _LONGEST_SECONDS if after is None else after)


def _judged(member: Member) -> tuple[object, ...]:
    return member.judgement.phase, member.judgement.restarting, member.judgement.draining, member.ready, member.holder


def is_at_rest(round: Round, memory: HubMemory, observation: Observation, plan: Plan) -> bool:
    """Whether a round has left nothing to do, and the planner does not need to see how children do."""
    hub, slices = round.hub, round.state.slices
    planned = plan.moves or plan.move_results or plan.deferred or plan.stranded or plan.unplaced
    under_way = plan.moving or plan.pending_moves or plan.restarts or plan.pending_restarts or plan.imbalance
    unproven = slices.creating or any(known.unproven or known.uncertain for known in slices.values())
    needs_reports = (
        hub.spec.keeps_copies
        or hub.spec.migration.hands_over
        or any(known.leaving or known.claims for known in slices.values())
        or memory.observe.sets.rollouts.under_way
    )
    return not (
        not plan.empty
        or planned
        or under_way
        or unproven
        or needs_reports
        or observation.held
        or observation.quorum.partitioned
        or not memory.observe.formation.formed
        or memory.observe.rebalance_target
        or memory.execute.failures
    )
