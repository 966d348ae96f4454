"""What is checked of views: small hubs, the promises, and what may be left out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec
from msgspec.structs import replace

from processhub.core.model.activation import View, chosen_member

from ..rules import PromiseBrokenError
from .states import HUB, PARTS, Known, Member, Run, State, put_at


class ViewRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked: the ids, the members, how much trouble there may be, and what is left out.

    ``later``: the last member is in no view at first. ``most``: onDemand.max, 0 for no limit. ``trouble``: kind → how
    often: die, cut (a member), turn (one leaves or joins the views), depose (the leader), unanswered (a write that may
    land now or later), declare, delete (a Child), idle (a child on record without an object is to end), move (a child
    on record), ahead (a member reads its own slices before those of others). ``without``: rules to leave out, to see
    that they are needed.
    """

    ids: tuple[str, ...] = ("a",)
    members: int = 2
    later: bool = False
    most: int = 0
    trouble: Mapping[str, int] = {}
    without: frozenset[str] = frozenset()


class Checked:
    """The hub's rules, and the promises that every state is held against."""

    def __init__(self, rules: ViewRules) -> None:
        self.rules = rules
        self.kinds = tuple(sorted(rules.trouble))
        self.indexes = range(rules.members)
        self.ids = range(len(rules.ids))
        self.nothing = tuple(None for _ in self.ids)

    def keeps(self, rule: str) -> bool:
        """Whether the rule is not left out."""
        return rule not in self.rules.without

    def chosen(self, members: tuple[int, ...], id_: int) -> int:
        """The member of a view that may start the id; -1 for none."""
        name = chosen_member(view_of(1, members), self.rules.ids[id_])
        return int(name[1:]) if name else -1

    def started(self, state: State, index: int, id_: int, run: Run) -> State:
        """The state with this run begun. Raises PromiseBrokenError."""
        member, last = state.members[index], state.last[id_]
        name = self.rules.ids[id_]
        if run.epoch < last or (run.view and run.epoch <= last):
            raise PromiseBrokenError(f"{name} got epoch {run.epoch} after {last}")
        agent = replace(member.agent, runs=put_at(member.agent.runs, id_, run))
        state = replace(state, last=put_at(state.last, id_, run.epoch))
        return self.checked(with_member(state, index, replace(member, agent=agent)))

    def checked(self, state: State) -> State:
        """The state. Raises PromiseBrokenError where it breaks a promise."""
        serving = [member for member in state.members if serves(member)]
        for id_ in self.ids:
            owners = [index for index, member in enumerate(state.members) if serves(member) and member.agent.runs[id_]]
            if len(owners) > 1:
                raise PromiseBrokenError(f"{self.rules.ids[id_]} has {len(owners)} active owners: {owners}")
        runs = [run for member in serving for run in member.agent.runs if run is not None]
        if len({run.epoch for run in runs}) < len(runs):
            raise PromiseBrokenError("two children have one epoch")
        demanded = sum(run.uid == HUB for run in runs)
        if self.rules.most and demanded > self.rules.most:
            raise PromiseBrokenError(f"{demanded} children run on demand, {self.rules.most} may")
        return state


@cache
def view_of(number: int, members: tuple[int, ...]) -> View:
    """The view of this number with these members."""
    return View(number, "ConsistentHashing", tuple((f"m{index}", 1) for index in members))


def serves(member: Member) -> bool:
    """Whether the member's agent may serve and start: it holds a Lease that has not run out."""
    agent, lease = member.agent, member.lease
    return agent.stage == 2 and lease.valid and lease.holder == agent.nonce


def with_member(state: State, index: int, member: Member) -> State:
    """The state with this member replaced."""
    return replace(state, members=put_at(state.members, index, member))


def with_known(state: State, index: int, known: Known) -> State:
    """The state with what the leader remembers of this member replaced."""
    operator = state.operator
    return replace(state, operator=replace(operator, known=put_at(operator.known, index, known)))


def block_of(epoch: int) -> int:
    """The operator's number of which the epoch is a part."""
    return epoch // PARTS
