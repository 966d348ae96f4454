"""Rounds that are due without any event, because time alone changes what is planned."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.hub import Hub
from processhub.controller.observe.members import Member
from processhub.controller.observe.memory import Formation, ObserveMemory
from processhub.controller.rounds.round import Round
from processhub.core.model.plan import Plan

_MOVING_SECONDS = 0.5  # Moves under way are looked at again after this, whatever the watches show.
_PENDING_SECONDS = 0.2  # Moves and restarts that were held back are planned again after this.
_REBALANCE_SECONDS = 0.05  # Children that a member draws are planned to move to it after this.
_SHORTEST_SECONDS = 0.05  # No wait for a moment that was computed is shorter than this.


def look_again(round: Round, memory: ObserveMemory, plan: Plan) -> None:
    """Ask for the rounds that are due without any event, except for those that judge the members again."""
    now = round.now()
    waits = [
        _REBALANCE_SECONDS if memory.rebalance_target else None,
        _MOVING_SECONDS if plan.moving else None,
        _PENDING_SECONDS if plan.pending_moves or plan.pending_restarts else None,
        _formation_wait(round.hub, memory.formation, now),
        memory.deferred_moves.wait(now),
    ]
    for wait in waits:
        if wait is not None:
            round.again_in(wait)


def judge_again(round: Round, members: Iterable[Member]) -> None:
    """Ask for the round that judges the members again, because time alone changes a judgement."""
    for member in members:
        if member.judgement.recheck_seconds is not None:
            round.again_in(member.judgement.recheck_seconds)


def _formation_wait(hub: Hub, formation: Formation, now: float) -> float | None:
    """Seconds until an incomplete hub begins to place children, or None where it does not wait for that."""
    if formation.formed or formation.first_live_at is None:
        return None
    return max(_SHORTEST_SECONDS, hub.spec.timeouts.start_seconds - (now - formation.first_live_at))
