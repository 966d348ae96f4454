"""What is checked, and what all parts of the model share: the rules, the promises, changes of a state."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import MemberView

from .states import Entry, Known, Member, State, put_at

Step = tuple[str, State]


class PromiseBrokenError(AssertionError):
    """A step that must not be possible; the message names the promise that it breaks."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """A hub to check: the ids of its children, its settings, the number of faults, and rules to leave out.

    ``trouble``: kind → how often: die, stop, cut (a member), depose (the leader), usurp (the leader, which works on
    beside the new one), lose (a slice write), unanswered (a slice write that may land now or later), delete, recreate,
    redirect, suspend (a child), drain (a member), clock (a node's is set back). ``without``: rules of the protocol
    that are left out, to show that they are needed.
    """

    ids: tuple[str, ...] = ("a",)
    members: int = 2
    holds: bool = True
    pinned: bool = False
    guided: bool = False
    joiner: bool = False  # the last member joins later
    trouble: Mapping[str, int] = {}
    without: frozenset[str] = frozenset()


class Checked:
    """The hub's rules, and the promises that every state is checked against."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.kinds = tuple(sorted(rules.trouble))
        self.indexes = range(rules.members)
        self.ids = range(len(rules.ids))
        self.nothing = tuple(None for _ in self.ids)

    def active(self, state: State, id_: int) -> list[int]:
        """Return the members that serve the id: they hold a Lease that has not expired."""
        return [
            index for index in self.indexes if serves(state.members[index]) and state.members[index].agent.runs[id_]
        ]

    def _checked(self, state: State) -> State:
        for id_ in self.ids:
            owners = self.active(state, id_)
            if len(owners) > 1:
                raise PromiseBrokenError(f"{self.rules.ids[id_]} has {len(owners)} active owners: {owners}")
        return state

    def _check_proofs(self, state: State, views: tuple[MemberView, ...]) -> None:
        """Check that children which the operator takes for stopped are stopped."""
        if not all(view.settled for view in views):
            return
        for index, view in enumerate(views):
            member = state.members[index]
            for id_, name in enumerate(self.rules.ids):
                believed = (
                    view.phase is Phase.GONE or name in view.possibly_running or member.spec.entries[id_] is not None
                )
                if not believed and serves(member) and member.agent.runs[id_] is not None:
                    raise PromiseBrokenError(f"{name} was taken for stopped on m{index}, where it runs")

    def _check_epoch(self, state: State, id_: int, entry: Entry, before: Entry | None) -> None:
        if before is not None and before.epoch == entry.epoch and before.uid == entry.uid and not before.wait:
            return
        seen = [run.epoch for member in state.members if (run := member.agent.runs[id_])]
        if any(epoch >= entry.epoch for epoch in seen):
            raise PromiseBrokenError(f"{self.rules.ids[id_]} got epoch {entry.epoch} after {max(seen)}")


def serves(member: Member) -> bool:
    agent, lease = member.agent, member.lease
    return agent.stage == 2 and lease.valid and lease.holder == agent.nonce


def with_member(state: State, index: int, member: Member) -> State:
    return replace(state, members=put_at(state.members, index, member))


def with_known(state: State, index: int, known: Known) -> State:
    operator = state.operator
    return replace(state, operator=replace(operator, known=put_at(operator.known, index, known)))
