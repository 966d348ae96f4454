"""The steps of a modelled hub, by docs/protocol.md. The decisions are real: ``plan()`` and ``judge()``.

The model has the API server (a slice's term never falls), the operator (caches that lag, rounds whose writes are made
one by one, in any order if the executor makes them at once, leaders deposed during a round) and the agents (Lease,
observed slice, what really runs, report). Each member has one slice, and all have one pod uid each.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from .agents import Agents
from .leader import Leader
from .rules import Step, with_member
from .states import (
    ANYWHERE,
    NO_ONE,
    Agent,
    Known,
    Lease,
    Member,
    Operator,
    Spec,
    State,
    Status,
    Want,
    canonical,
    put_at,
)


class ModelHub(Leader, Agents):
    """The transitions of one hub by its rules."""

    canonical = staticmethod(canonical)

    def first(self) -> State:
        """All children desired, none placed; all members up, except a joining one."""
        spec = Spec(1, 1, NO_ONE, self.nothing)
        members, known = [], []
        for index in self.indexes:
            there = not (self.rules.joiner and index == self.rules.members - 1)
            nonce = 1 if there else NO_ONE
            lease = Lease(nonce, there, 1)
            status = Status(1 if there else 0, nonce, tuple(0 for _ in self.ids))
            agent = Agent(nonce, True, 2 if there else 0, spec, self.nothing)
            members.append(Member(spec, status, lease, agent, not there, False))
            nothing = tuple(0 for _ in self.ids)
            known.append(Known(lease, False, not there, nothing, 0, None, nothing))
        wanted = tuple(Want(1, 0 if self.rules.guided else ANYWHERE) for _ in self.ids)
        operator = Operator(1, 1, True, tuple(known), (), ())
        left = tuple(self.rules.trouble[kind] for kind in self.kinds)
        return canonical(State(tuple(members), operator, wanted, tuple(1 for _ in self.ids), left))

    def steps(self, state: State) -> Iterator[Step]:
        """Yield every possible step and the state after it. Raises PromiseBrokenError."""
        yield from self._operator_steps(state)
        for index in self.indexes:
            yield from self._agent_steps(state, index)
        yield from self._troubles(state)

    # faults

    def _troubles(self, state: State) -> Iterator[Step]:
        for at, kind in enumerate(self.kinds):
            if state.left[at] and kind not in ("lose", "unanswered"):
                spent = replace(state, left=put_at(state.left, at, state.left[at] - 1))
                yield from self._trouble(kind, spent)
        for id_ in self.ids:
            want = state.wanted[id_]
            if want is not None and want.suspended:
                resumed = put_at(state.wanted, id_, replace(want, suspended=False))
                yield f"resume {self.rules.ids[id_]}", replace(state, wanted=resumed)
        for index in self.indexes:
            if state.members[index].drain:
                yield f"undrain {index}", with_member(state, index, replace(state.members[index], drain=False))

    def _trouble(self, kind: str, state: State) -> Iterator[Step]:
        if kind in ("depose", "usurp"):
            yield kind, getattr(self, kind)(state)
            return
        for id_ in self.ids:
            want, uid = state.wanted[id_], state.last_uid[id_] + 1
            name = f"{kind} {self.rules.ids[id_]}"
            if kind == "delete" and want is not None:
                yield name, replace(state, wanted=put_at(state.wanted, id_, None))
            if kind == "recreate":
                node = 0 if self.rules.guided else ANYWHERE
                wanted = put_at(state.wanted, id_, Want(uid, node))
                yield name, replace(state, wanted=wanted, last_uid=put_at(state.last_uid, id_, uid))
            if kind == "suspend" and want is not None and not want.suspended:
                yield name, replace(state, wanted=put_at(state.wanted, id_, replace(want, suspended=True)))
            if kind == "redirect" and want is not None:
                yield name, replace(state, wanted=put_at(state.wanted, id_, replace(want, node=1 - want.node)))
        for index in self.indexes:
            member = state.members[index]
            alive, name = member.agent.nonce != NO_ONE, f"{kind} {index}"
            if kind == "cut" and alive and member.agent.connected:
                yield name, with_member(state, index, replace(member, agent=replace(member.agent, connected=False)))
            if kind == "die" and alive:
                yield name, with_member(state, index, _dead(self, member))
            if kind == "stop" and alive and member.agent.stage == 2 and member.agent.connected:
                # An orderly end: its children are reaped, then the Lease is released.
                released = Lease(NO_ONE, False, member.lease.version + 1)
                yield name, with_member(state, index, replace(_dead(self, member), lease=released))
            if kind == "clock" and not member.clock:
                yield name, with_member(state, index, replace(member, clock=True))
            if kind == "drain" and not member.drain:
                yield name, with_member(state, index, replace(member, drain=True))


def _dead(hub: ModelHub, member: Member) -> Member:
    view = Spec(0, 0, NO_ONE, hub.nothing)
    return replace(member, agent=Agent(NO_ONE, True, 0, view, hub.nothing))
