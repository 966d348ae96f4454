"""A move that somebody asked for, of a child with several copies: which step is next.

Of copies of which one is active, the one on the wanted member becomes that; else the one that is placed worst goes
there. Both take steps that a plan takes anyway, each on its own proof: a copy is added, runs, another is made
passive or leaves, and only when that one is proven to have ended is the next made active (docs/protocol.md,
rules 7 and 8).
The request only says which copy comes first where there is a choice, so that a crash in between leaves nothing undone.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from processhub.api.reasons import Role, State
from processhub.core.model.snapshot import OnRecord


class CopyStep(StrEnum):
    """The next step of a move."""

    DONE = "Done"
    """The request is carried out."""
    ADD = "Add"
    """The member is to have a copy."""
    WAIT = "Wait"
    """Until the copy there runs, or what is too many has gone."""
    YIELD = "Yield"
    """The active one has to end as such: it leaves where there are others enough, else it steps back."""
    GIVE_UP = "GiveUp"
    """The copy there does not run, and by itself never will."""


class CopyMove(msgspec.Struct, frozen=True):
    """A move request that can be applied: ``there`` is the copy on the requested member, ``active`` the active one.

    Both None where there is none. ``active`` is None too where all copies are active.
    """

    member: str
    step: CopyStep
    there: OnRecord | None = None
    active: OnRecord | None = None


def next_step(member: str, staying: list[OnRecord], wanted: int, *, standby: bool) -> CopyMove:
    """The next step to ``member``, of a child whose copies ``staying`` shall be ``wanted`` in number.

    ``standby``: one of them is active. It depends on the record and the reports alone: every round may ask anew.
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
