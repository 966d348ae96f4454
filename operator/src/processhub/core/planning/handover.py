"""A planned move that carries the child's state over (HotSwap): what comes next, for one child.

The record goes through these steps (docs/protocol.md, rules 20 and 21). ``epoch`` is that of the target's entry that
waits::

    source                       target
    to=<target>:<epoch>          wait                 begun: the source is to quiesce and to send the state
    gave=<epoch>:<checksum>      got=<checksum>       both say that the state is there, whole
    to=…                         a newer epoch,       committed: the target starts with that state; the source keeps
                                 state=<checksum>     its copy, quiesced
    removed                      Running, or it was   the target needs no copy of the state any more

Running may never be seen: a member reports the present state, and a program may be quick. It took the state too if
it was up before (``startedAt``), whatever it is by now. One that ended and was never up proves nothing: the source
keeps its copy, with which an edit starts it anew, and takes it back where the target is lost or is to be emptied, or
somebody asks for the child elsewhere. Only a source that is to be emptied itself does not wait for that: the target has
the state until its agent ends.

Before the commit a target that is lost, or a state that can't be had, gives the move up: the source gets a newer epoch
and runs on with what it has. After it, that is so only once the target is proven to run nothing. Where it is the source
that is lost, the target starts with what it got, if it got it whole. A target whose agent restarts loses what it got:
it says so (``kept=<epoch>:lost``), starts nothing while a source is on record, and gets a new waiting entry, for which
the source sends its copy once more.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from processhub.core.model.snapshot import MemberView, OnRecord
from processhub.registry.grammar import Given, HandoverOrder, Kept


class Step(Enum):
    """The next step of a move."""

    ORDER = "order"  # have the source hand over
    WAIT = "wait"
    COMMIT = "commit"  # the target starts with the state
    AGAIN = "again"  # the target had the state and lost it: it waits for it under a new epoch
    COLD = "cold"  # go on without a state: there is none to be had
    DEFER = "defer"  # the child does not want to go, or its state did not come over: it stays


class Next(msgspec.Struct, frozen=True):
    """The step, and the state's checksum with COMMIT."""

    step: Step
    checksum: str = ""


def order_for(target: OnRecord, *, must: bool) -> str:
    """The order in the source's entry: the target, its epoch, and whether the child must go (its member is emptied)."""
    return HandoverOrder(target.member, target.entry.epoch, must).format()


def goes_to(place: OnRecord) -> str:
    """The member that a source's entry names, "" where it names none."""
    return HandoverOrder.parse(place.entry.to).member if place.entry.to else ""


def next_step(source: OnRecord, source_member: MemberView | None, target: OnRecord) -> Next:
    """The next step of a move whose target waits on a live member."""
    if source_member is None or source_member.dead:
        return Next(Step.COLD)  # what it sent whole before its end is there: the target starts with that
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
    """Whether the source's copy is needed no more by a committed target; ``emptied``: the source's member is to be."""
    if target.entry.to:
        return True  # it is to hand over itself, which is asked only of one that has taken over
    if has_lost(target):
        return False
    return target.up or target.came_up or (emptied and target.failed)


def has_lost(target: OnRecord) -> bool:
    """Whether the target reports that it has not started the child because the state is not there any more."""
    kept = Kept.parse(target.kept)
    return kept is not None and (kept.epoch, kept.why) == (target.entry.epoch, "lost")
