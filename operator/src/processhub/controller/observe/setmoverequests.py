"""The move requests for children of ChildSets."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.grouporders import GroupOrderError, parse_move_orders
from processhub.api.naming import ANNOTATION_MOVE_TO
from processhub.controller.store.childsets import SeenSet


class AppliedMoves(msgspec.Struct):
    """The requests on one ChildSet: when some were last removed, and the applied ones still on it (id → member)."""

    since: float
    applied: dict[str, str] = {}


def move_requests_of_sets(sets: Mapping[str, SeenSet], applied_moves: Mapping[str, AppliedMoves]) -> dict[str, str]:
    """The move requests (id → member) for ids that the sets have. Applied requests are left out, and not repeated."""
    found: dict[str, str] = {}
    for uid, seen in sets.items():
        held = applied_moves.get(uid)
        text = seen.known.metadata.annotations.get(ANNOTATION_MOVE_TO, "")
        try:
            orders = parse_move_orders(text)
        except GroupOrderError:
            continue  # The annotation is removed, and reported.
        if held is not None:
            orders = {child_id: member for child_id, member in orders.items() if held.applied.get(child_id) != member}
        found.update({child_id: member for child_id, member in orders.items() if not refusal_of_id(seen, child_id)})
    return found


def refusal_of_id(seen: SeenSet, child_id: str) -> str:
    """Why the set can't have this id moved, or ""."""
    if child_id in seen.taken:
        return f"the id belongs to {seen.taken[child_id]}"
    return "" if child_id in seen.known.wanted else f"{seen.known.title} has no such child"
