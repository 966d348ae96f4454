"""The view of an unfinished plan that a strategy gets."""

from __future__ import annotations

from processhub.core.planning.builder import PlanBuilder
from processhub.core.strategies.base import MemberSlot, PlacementView, Strategy


def placement_view(builder: PlanBuilder, strategy: Strategy, more: int) -> PlacementView:
    """The hub as ``strategy`` sees it now, with room for ``more`` new children."""
    snapshot = builder.snapshot
    room = {candidate.name: candidate.room or 0 for candidate in builder.candidates(more)}
    limit = snapshot.spec.members.max_children
    slots = (
        MemberSlot(
            name=member.name,
            weight=member.weight,
            open=member.name in room,
            wanted=member.wanted,
            children=builder.load[member.name],
            room=room.get(member.name, 0),
            space=max(0, limit - builder.load[member.name]) if member.name in room else 0,
            usage=member.usage,
        )
        for member in snapshot.members
    )
    last = builder.last_placed
    if not last and strategy.by_turns:
        places = (place for places in snapshot.record.values() for place in places)
        newest = max(places, key=lambda place: place.entry.epoch, default=None)
        last = newest.member if newest else ""
    return PlacementView(spec=snapshot.spec, slots=tuple(slots), last=last)
