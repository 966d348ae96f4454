"""The steps of a modelled hub with views."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from .agents import Agents, Step
from .leader import Leader
from .rules import with_member
from .states import NO_ONE, Agent, Known, Lease, Member, Operator, Seen, Slice, State, Status, Zero, canonical, put_at

_HERE = ("idle", "move", "unanswered", "ahead")  # trouble that is part of other steps


class ViewHub(Leader, Agents):
    """The transitions of one hub by its rules."""

    canonical = staticmethod(canonical)

    def first(self) -> State:
        """No view yet, nothing on record, all members up."""
        slice_, members = Slice(1, self.nothing), []
        for index in self.indexes:
            agent = Agent(1, True, 2, Seen(Zero(), slice_, self.blind.others), self.nothing)
            leaves = self.rules.later and index == self.rules.members - 1
            status = Status(1, 1, 1, self.nothing)
            members.append(Member(Zero(), slice_, status, Lease(1, True), agent, leaves))
        none = tuple(0 for _ in self.ids)
        operator = Operator(1, True, tuple(Known(none) for _ in members), ())
        left = tuple(self.rules.trouble[kind] for kind in self.kinds)
        return State(tuple(members), operator, none, none, left)

    def steps(self, state: State) -> Iterator[Step]:
        """All that may happen next."""
        for index in self.indexes:
            yield from self.agent_steps(state, index)
        yield from self.operator_steps(state)
        for at, kind in enumerate(self.kinds):
            if state.left[at]:
                yield from self._trouble(kind, replace(state, left=put_at(state.left, at, state.left[at] - 1)))

    def _trouble(self, kind: str, state: State) -> Iterator[Step]:
        if kind == "depose" and state.operator.leading:
            yield kind, self.depose(state)
        for id_ in self.ids:
            name, uid = f"{kind} {self.rules.ids[id_]}", state.declared[id_]
            if kind == "declare" and not uid:
                yield name, replace(state, declared=put_at(state.declared, id_, 1))
            if kind == "delete" and uid:
                yield name, replace(state, declared=put_at(state.declared, id_, 0))
        for index in self.indexes:
            member, name = state.members[index], f"{kind} {index}"
            alive = member.agent.nonce != NO_ONE
            if kind == "die" and alive:
                yield name, self.dead(state, index)
            if kind == "cut" and alive and member.agent.connected:
                yield name, with_member(state, index, replace(member, agent=replace(member.agent, connected=False)))
            if kind == "turn":
                yield name, with_member(state, index, replace(member, leaves=not member.leaves))
            if kind == "ahead" and (after := self.observe_own(state, index)) is not None:
                yield name, after
