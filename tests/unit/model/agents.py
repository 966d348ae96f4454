"""The steps of the members: their Lease, what they read, run and report (docs/protocol.md, rules 6, 7, 9 and 11)."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from .rules import Checked, Step, with_member
from .states import NO_ONE, Agent, Lease, Put, Run, Spec, State, Status, put_at


class Agents(Checked):
    """The agents' steps. Each returns the state after it, or None if it is not possible."""

    def _agent_steps(self, state: State, index: int) -> Iterator[Step]:
        for name in ("boot", "take", "listed", "observe", "report", "lapse", "heal"):
            after = getattr(self, name)(state, index)
            if after is not None:
                yield f"{name} {index}", after
        for id_ in self.ids:
            after = self.act(state, index, id_)
            if after is not None:
                yield f"act {index} {self.rules.ids[id_]}", after

    def boot(self, state: State, index: int) -> State | None:
        """A new container starts, with a new nonce and without the Lease."""
        member = state.members[index]
        if member.agent.nonce != NO_ONE:
            return None
        operator = state.operator
        pending = (*operator.pending, *operator.late, *(flying.put for flying in operator.flying))
        known = [
            state.operator.known[index].lease.holder,
            member.lease.holder,
            member.status.holder,
            member.spec.granted,
        ]
        known += [write.granted if isinstance(write, Put) else write.lease.holder for write in pending]
        return with_member(state, index, replace(member, agent=replace(member.agent, nonce=1 + max(known))))

    def take(self, state: State, index: int) -> State | None:
        """The agent takes the Lease: a released one, one of its own pod's earlier container, or its own expired one."""
        member = state.members[index]
        agent = member.agent
        if agent.nonce == NO_ONE or agent.stage != 0 or not agent.connected:
            return None
        lease = Lease(agent.nonce, True, member.lease.version + 1)
        stage = 2 if "list after the Lease" in self.rules.without and agent.view.gen else 1
        return self._checked(with_member(state, index, replace(member, lease=lease, agent=replace(agent, stage=stage))))

    def listed(self, state: State, index: int) -> State | None:
        """With the Lease just taken: read the slice, end what it does not grant, then serve."""
        member = state.members[index]
        agent = member.agent
        if agent.stage != 1 or not agent.connected:
            return None
        runs = tuple(
            run if run is not None and run == _granted(member.spec, agent.nonce, id_) else None
            for id_, run in enumerate(agent.runs)
        )
        agent = replace(agent, stage=2, view=replace(member.spec, term=0), runs=runs)
        return self._checked(with_member(state, index, replace(member, agent=agent)))

    def observe(self, state: State, index: int) -> State | None:
        """The watch delivers the slice."""
        member = state.members[index]
        if member.agent.stage != 2 or not member.agent.connected or member.agent.view.gen == member.spec.gen:
            return None
        return with_member(
            state, index, replace(member, agent=replace(member.agent, view=replace(member.spec, term=0)))
        )

    def act(self, state: State, index: int, id_: int) -> State | None:
        """Stop what is not granted, or start what is, by the observed slice."""
        member = state.members[index]
        agent = member.agent
        if agent.stage != 2:
            return None
        run, granted = agent.runs[id_], _granted(agent.view, agent.nonce, id_)
        if run == granted:
            return None
        runs = put_at(agent.runs, id_, granted if run is None else None)
        return self._checked(with_member(state, index, replace(member, agent=replace(agent, runs=runs))))

    def report(self, state: State, index: int) -> State | None:
        """Write the status: what really runs, and the observed generation."""
        member = state.members[index]
        agent = member.agent
        status = Status(agent.view.gen, agent.nonce, tuple(run.uid if run else 0 for run in agent.runs))
        if agent.stage != 2 or not agent.connected or status == member.status:
            return None
        return with_member(state, index, replace(member, status=status))

    def lapse(self, state: State, index: int) -> State | None:
        """The Lease of a member that is dead or cut off expires; with Divergence its children keep running."""
        member = state.members[index]
        agent, lease = member.agent, member.lease
        renewed = agent.nonce == lease.holder and agent.connected
        if not lease.valid or renewed:
            return None
        if agent.nonce == lease.holder:
            agent = replace(agent, stage=0, view=self._no_view(agent))
        return with_member(state, index, replace(member, lease=replace(lease, valid=False), agent=agent))

    def _no_view(self, agent: Agent) -> Spec:
        return agent.view if "list after the Lease" in self.rules.without else Spec(0, 0, NO_ONE, self.nothing)

    def heal(self, state: State, index: int) -> State | None:
        """A member that was cut off is reachable again."""
        member = state.members[index]
        if member.agent.connected:
            return None
        return with_member(state, index, replace(member, agent=replace(member.agent, connected=True)))


def _granted(spec: Spec, nonce: int, id_: int) -> Run | None:
    entry = spec.entries[id_]
    if entry is None or entry.wait or spec.granted not in (NO_ONE, nonce):
        return None
    return Run(entry.uid, entry.epoch)
