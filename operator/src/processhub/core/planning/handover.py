"""A planned move that hands the child's state over (HotSwap): the next step for one child.

The record goes through these steps (docs/protocol.md, rules 20 and 21). ``epoch`` is the epoch of the target's waiting
entry::

    source                       target
    to=<target>:<epoch>          wait                 begun: the source must quiesce and send the state
    gave=<epoch>:<checksum>      got=<checksum>       both report that the whole state has arrived
    to=…                         a newer epoch,       committed: the target starts with that state; the source keeps
                                 state=<checksum>     its copy, quiesced
    removed                      Running, or it was   the target does not need another copy of the state

The controller may never see the target Running, because a member reports its present state and a program may end
quickly. A target has also taken the state over if it was up before (``startedAt``), whatever its state is now. A target
that ended without ever having been up proves nothing. The source then keeps its copy. An edit starts the target again
with it. The source takes the child back if the target is lost or is to be emptied, or if a move to another member is
requested. Only a source that is to be emptied does not wait for that, because the target keeps the state until its
agent ends.

Before the commit, a lost target or a missing state cancels the move: the source gets a newer epoch and runs on with
what it has. After the commit this is possible only once the target is proven to run nothing. If the source is lost, the
target starts with the state, provided that it has received all of it.

A target whose agent restarts loses the received state. It reports that (``kept=<epoch>:lost``) and starts nothing while
a source is on record. It then gets a new waiting entry, for which the source sends its copy again.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from processhub.api.reasons import Role
from processhub.core.model.snapshot import MemberView, OnRecord
from processhub.registry.grammar import Assignment, Given, HandoverOrder, Kept


class Step(Enum):
    """The next step of a move."""

    ORDER = "order"  # order the source to hand over
    WAIT = "wait"
    COMMIT = "commit"  # start the target with the state
    AGAIN = "again"  # the target lost the state: it waits for it under a new epoch
    COLD = "cold"  # continue without a state, because there is none
    DEFER = "defer"  # the child declined, or its state could not be handed over: it stays


class Next(msgspec.Struct, frozen=True):
    """The next step, and with COMMIT the checksum of the state."""

    step: Step
    checksum: str = ""


def order_for(target: OnRecord, *, must: bool) -> str:
    """The order in the source's entry: the target, its epoch, and whether the child must go (its member is emptied)."""
    return HandoverOrder(target.member, target.entry.epoch, must).format()


def goes_to(entry: Assignment) -> str:
    """The member that a source's entry names in its order, or "" if it has no order."""
    return HandoverOrder.parse(entry.to).member if entry.to else ""


def next_step(source: OnRecord, source_member: MemberView | None, target: OnRecord) -> Next:
    """The next step of a move whose target waits on a live member."""
    if source_member is None or source_member.dead:
        return Next(Step.COLD)  # if the source sent the whole state before its end, the target starts with that
    must = source_member.draining
    if source.entry.to != order_for(target, must=must):
        return Next(Step.ORDER)
    kept = Kept.parse(source.kept)
    if kept is not None and kept.epoch == target.entry.epoch:
        return Next(Step.COLD if must or kept.why == "stateless" else Step.DEFER)
    given = Given.parse(source.gave)
    if given is not None and given.epoch == target.entry.epoch and given.checksum and given.checksum == target.got:
        return Next(Step.COMMIT, given.checksum)
    return Next(Step.AGAIN if has_lost(target) else Step.WAIT)


def has_taken_over(target: OnRecord, *, emptied: bool) -> bool:
    """Whether a committed target needs the source's copy no more; ``emptied``: the source's member is to be emptied."""
    if target.entry.to:
        return True  # the target has an order to hand over itself, which only a copy that has taken over gets
    if has_lost(target):
        return False
    return target.up or target.came_up or (emptied and target.failed)


def has_lost(target: OnRecord) -> bool:
    """Whether the target reports that it did not start the child because it has lost the state."""
    kept = Kept.parse(target.kept)
    return kept is not None and (kept.epoch, kept.why) == (target.entry.epoch, "lost")


def handed_over(running: list[OnRecord]) -> tuple[OnRecord, OnRecord] | None:
    """The source and the target of a committed handover, or None if there is none."""
    for source in running:
        for target in running:
            if target.entry.state and goes_to(source.entry) == target.member:
                return source, target
    return None


def kept_asleep(places: list[OnRecord]) -> tuple[OnRecord | None, OnRecord | None]:
    """The source of a suspended child's handover, if still needed, and the place that the child keeps."""
    if handed := handed_over(places):
        source, target = handed
        return (None if has_taken_over(target, emptied=False) else source), target

    def last(place: OnRecord) -> tuple[bool, bool, int]:
        entry = place.entry
        is_target = entry.wait and not entry.asleep
        return is_target, entry.role != Role.ACTIVE, -entry.epoch

    return None, min(places, key=last, default=None)
