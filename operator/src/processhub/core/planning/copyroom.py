"""The room of each open member for more copies of children."""

from __future__ import annotations

from processhub.core.planning.roles import Roles


def room_for(planner: Roles, more: int) -> dict[str, int]:
    """The room of each open member for ``more`` copies; by the capacity alone if the strategy has no load cap."""
    if planner.strategy.capped or planner.strategy.balances:
        return planner.room(more)
    limit = planner.snapshot.spec.members.max_children
    return {member.name: max(0, limit - planner.load[member.name]) for member in planner.open}


def shares(planner: Roles) -> dict[str, int]:
    """How many more copies each open member may have until it has its share by weight."""
    weights = sum(member.weight for member in planner.open)
    total = sum(planner.load[member.name] for member in planner.open)
    limit = planner.snapshot.spec.members.max_children
    return {
        member.name: max(0, min(limit, total * member.weight // weights) - planner.load[member.name])
        for member in planner.open
    }
