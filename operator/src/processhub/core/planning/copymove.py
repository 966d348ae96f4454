"""A requested move of a child that has several copies: the next step.

If one copy is active, the copy on the requested member becomes the active one. If all are active, the lowest-ranked
copy moves there. Example, with the active copy on h-0 and a request for h-2:

    ADD     a passive copy is added on h-2
    WAIT    until the copy on h-2 runs
    YIELD   the copy on h-0 is made passive, or leaves if there are enough others
    WAIT    until h-0 is proven to have ended it as active; then the copy on h-2 is made active
    DONE

Each step is one that a plan takes anyway, on its own proof (docs/protocol.md, rules 7 and 8). The request only decides
which copy comes first where there is a choice, so a crash between two steps leaves nothing undone.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from processhub.api.reasons import Role, State
from processhub.core.model.snapshot import OnRecord


class CopyStep(StrEnum):
    """The next step of a requested move."""

    DONE = "Done"
    """The request is carried out."""
    ADD = "Add"
    """The member needs a copy."""
    WAIT = "Wait"
    """Wait until the copy there runs, or until a surplus copy has gone."""
    YIELD = "Yield"
    """The active copy must end as active: it leaves if there are enough others, else it is made passive."""
    GIVE_UP = "GiveUp"
    """The copy there does not run, and will not run without an edit."""


class CopyMove(msgspec.Struct, frozen=True):
    """A valid move request; ``there`` is the copy on the requested member, ``active`` the active copy.

    Each is None if there is no such copy. ``active`` is also None if all copies are active.
    """

    member: str
    step: CopyStep
    there: OnRecord | None = None
    active: OnRecord | None = None


def next_step(member: str, staying: list[OnRecord], wanted: int, *, standby: bool) -> CopyMove:
    """The next step to ``member`` of a child whose copies ``staying`` should be ``wanted`` in number.

    ``standby``: one copy is active. The step depends on the record and the reports alone, so every round may compute it
    again.
    """
    there = next((place for place in staying if place.member == member and not place.entry.wait), None)
    acting = [place for place in staying if standby and place.entry.role == Role.ACTIVE and not place.entry.wait]
    active = max(acting, key=lambda place: place.entry.epoch, default=None)
    as_asked = there is not None and (not standby or there is active)
    if there is None:
        step = CopyStep.ADD
    elif as_asked and len(staying) <= wanted:
        step = CopyStep.DONE
    elif there is not active and there.state in (State.FAILED, State.STOPPED):
        step = CopyStep.GIVE_UP
    elif as_asked or active is None or not there.up:
        step = CopyStep.WAIT
    else:
        step = CopyStep.YIELD
    return CopyMove(member, step, there, active)
