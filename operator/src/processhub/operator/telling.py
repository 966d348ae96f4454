"""Which Events a round gives rise to."""

from __future__ import annotations

from processhub.api.hub import Hub
from processhub.api.reasons import EventReason, Reason
from processhub.core.membership import Phase
from processhub.core.plan import Plan
from processhub.operator.events import EventRecorder
from processhub.operator.hubstate import HubState
from processhub.operator.memory import HubMemory
from processhub.operator.observe import Observation

_QUIET = (Reason.SUSPENDED,)


def tell(
    events: EventRecorder, hub: Hub, state: HubState, observation: Observation, plan: Plan, memory: HubMemory
) -> None:
    """Post what a user wants to know of this round; ``memory`` holds the phases of the round before."""
    for name, member in observation.members.items():
        before = memory.phases.get(name)
        if member.phase is Phase.GONE and name in memory.seen_live and member.wanted:
            memory.seen_live.discard(name)
            moved = sum(move.source == name for move in plan.moves)
            message = f"member {name} is lost: {member.judgement.why}; {moved} children placed on others"
            events.about_hub(hub, EventReason.MEMBER_LOST, message, warning=True)
        elif member.phase is Phase.LIVE and name not in memory.seen_live:
            memory.seen_live.add(name)
            if before is not None:  # not what a new leader merely finds
                events.about_hub(hub, EventReason.MEMBER_JOINED, f"member {name} is there")
    moves = {move.id: move for move in plan.moves}
    for member_name, changes in plan.entries.items():
        for child_id, entry in changes.items():
            known = observation.chosen.get(child_id)
            if entry is None or known is None:
                continue
            if move := moves.get(child_id):
                if move.target == member_name:
                    message = f"from {move.source} to {move.target}: {move.why}"
                    events.about_child(hub, known.child, EventReason.MOVED, message)
            elif child_id not in observation.snapshot.record:
                events.about_child(hub, known.child, EventReason.PLACED, f"on {member_name}")
    for name, refusal in observation.refusals.items():
        known = state.children.get(name)
        if known is not None and refusal.reason not in _QUIET:
            message = f"{refusal.reason}: {refusal.message}"
            events.about_child(hub, known.child, EventReason.REJECTED, message, warning=True)
    events.flush(hub)
