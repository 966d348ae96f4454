"""The steps of the members: what they read, start and report (docs/protocol.md, rules 27 to 32)."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from .rules import Checked, serves, with_member
from .states import HUB, NO_ONE, PARTS, Agent, Lease, Run, Seen, Slice, State, Status, Zero, put_at

Step = tuple[str, State]


class Agents(Checked):
    """The agents' steps. Each answers with the state after it, or None where it is not possible."""

    def agent_steps(self, state: State, index: int) -> Iterator[Step]:
        """What this member may do next."""
        for name in ("boot", "take", "listed", "observe", "report", "lapse", "heal"):
            after = getattr(self, name)(state, index)
            if after is not None:
                yield f"{name} {index}", after
        for id_ in self.ids:
            for name in ("act", "activate"):
                after = getattr(self, name)(state, index, id_)
                if after is not None:
                    yield f"{name} {index} {self.rules.ids[id_]}", after

    def boot(self, state: State, index: int) -> State | None:
        """A new container starts, with a new nonce and without the Lease."""
        member = state.members[index]
        if member.agent.nonce != NO_ONE:
            return None
        puts = (*state.operator.pending, *state.operator.flying)
        known = [member.lease.holder, member.status.holder, member.zero.holder]
        known += [put.zero.holder for put in puts if put.zero and put.member == index]
        return with_member(state, index, replace(member, agent=replace(member.agent, nonce=1 + max(known))))

    def take(self, state: State, index: int) -> State | None:
        """The agent takes the Lease: of its own pod's earlier container, or its own that ran out."""
        member = state.members[index]
        agent = member.agent
        if agent.nonce == NO_ONE or agent.stage != 0 or not agent.connected:
            return None
        return with_member(state, index, replace(member, lease=Lease(agent.nonce, True), agent=replace(agent, stage=1)))

    def listed(self, state: State, index: int) -> State | None:
        """With the Lease just taken: read all slices, end what is neither granted nor its own still, then serve."""
        member = state.members[index]
        agent = member.agent
        if agent.stage != 1 or not agent.connected:
            return None
        seen, runs = self._read(state, index), list(agent.runs)
        for id_, run in enumerate(runs):
            granted = _granted(seen, id_)
            own = run is not None and run.view and self._is_own_still(seen, agent, run, id_)
            if run is not None and not own:
                on_record = granted is not None and (run.uid, run.epoch) == (granted.uid, granted.epoch)
                runs[id_] = replace(run, view=0) if on_record else None
        agent = replace(agent, stage=2, seen=seen, runs=tuple(runs))
        return self.checked(with_member(state, index, replace(member, agent=agent)))

    def _is_own_still(self, seen: Seen, agent: Agent, run: Run, id_: int) -> bool:
        """Whether nobody else can have been given what this member started while it had no Lease."""
        if not self.keeps("ended with the Lease"):
            return True
        zero, entry = seen.zero, seen.slice.entries[id_]
        still = zero.open and zero.view == run.view and zero.holder == agent.nonce and not seen.others[id_]
        return still and (entry is None or entry.epoch < run.epoch)

    def _read(self, state: State, index: int) -> Seen:
        member, others = state.members[index], []
        for id_ in self.ids:
            on_record = [at for at, other in enumerate(state.members) if other.slice.entries[id_] is not None]
            others.append(bool(set(on_record) - {index}))
        return Seen(member.zero, member.slice, tuple(others))

    def observe(self, state: State, index: int) -> State | None:
        """The watch delivers all slices, up to now."""
        member = state.members[index]
        agent = member.agent
        if agent.stage != 2 or not agent.connected:
            return None
        return self._with_seen(state, index, self._read(state, index))

    def observe_own(self, state: State, index: int) -> State | None:
        """The answer to a write of its own shows the member its slices, before the watch has come so far."""
        member = state.members[index]
        seen = member.agent.seen
        if member.agent.stage != 2 or not member.agent.connected:
            return None
        return self._with_seen(state, index, Seen(member.zero, member.slice, seen.others, ahead=True))

    def _with_seen(self, state: State, index: int, seen: Seen) -> State | None:
        member = state.members[index]
        agent, before = member.agent, member.agent.seen
        if seen == before:
            return None
        runs = list(agent.runs)
        for id_, run in enumerate(runs):
            if run is None or not run.view:
                continue
            entry = seen.slice.entries[id_]
            if entry is not None and entry.epoch >= run.epoch:
                runs[id_] = replace(run, view=0)  # on record: from here on the record decides
            elif seen.zero.view != run.view:
                runs[id_] = None  # the view is over, and the record does not have it
        used = agent.used if seen.zero.block == before.zero.block else 0
        agent = replace(agent, seen=seen, runs=tuple(runs), used=used)
        return with_member(state, index, replace(member, agent=agent))

    def act(self, state: State, index: int, id_: int) -> State | None:
        """Start or stop by the slice as observed; what runs under another epoch by the order of the entry runs on."""
        member = state.members[index]
        agent, run = member.agent, member.agent.runs[id_]
        if agent.stage != 2:
            return None
        entry, granted = agent.seen.slice.entries[id_], _granted(agent.seen, id_)
        if run is not None and run.view:
            return None  # its own, and not on record yet
        if run is None and granted is not None and serves(member):
            return self.started(state, index, id_, granted)
        if run is None or run == granted:
            return None
        goes_on = granted is not None and (
            (run.uid, run.epoch) == (granted.uid, granted.epoch) or (entry and entry.run == run.epoch)
        )
        if goes_on and granted is not None:
            state = replace(state, last=put_at(state.last, id_, max(granted.epoch, state.last[id_])))
        runs = put_at(agent.runs, id_, granted if goes_on else None)
        return with_member(state, index, replace(member, agent=replace(agent, runs=runs)))

    def activate(self, state: State, index: int, id_: int) -> State | None:
        """A request: start an id that is on no record, by oneself (docs/protocol.md, rule 27)."""
        member = state.members[index]
        agent, seen = member.agent, member.agent.seen
        zero = seen.zero
        if agent.stage == 1 or agent.runs[id_] is not None or not zero.view:
            return None
        allowed = {
            "Lease held": agent.stage == 2 and serves(member),
            "open": zero.open,
            "chosen": self.chosen(zero.members, id_) == index,
            "on no record": seen.slice.entries[id_] is None and not seen.others[id_],
            "registry as new": not seen.ahead,
            "block of its own": zero.holder == agent.nonce,
            "shares": not self.rules.most or self._count(agent) < zero.share,
        }
        if not all(holds or not self.keeps(rule) for rule, holds in allowed.items()) or agent.used >= 2:
            return None
        run = Run(HUB, zero.block * PARTS + agent.used + 1, zero.view)
        member = replace(member, agent=replace(agent, used=agent.used + 1))
        return self.started(with_member(state, index, member), index, id_, run)

    def _count(self, agent: Agent) -> int:
        """How many children on demand the member has: those on record, its own, and those that it still ends."""
        runs = [run if run and (run.view or self.keeps("counts what ends")) else None for run in agent.runs]
        found = zip(runs, agent.seen.slice.entries, strict=True)
        return sum(any(item is not None and item.uid == HUB for item in pair) for pair in found)

    def report(self, state: State, index: int) -> State | None:
        """Write the status: what really runs, by the generations observed."""
        member = state.members[index]
        agent = member.agent
        runs = tuple(run if self.keeps("lists all") or (run and not run.view) else None for run in agent.runs)
        status = Status(agent.seen.zero.gen, agent.seen.slice.gen, agent.nonce, runs)
        if agent.stage != 2 or not agent.connected or status == member.status:
            return None
        return with_member(state, index, replace(member, status=status))

    def lapse(self, state: State, index: int) -> State | None:
        """The Lease of a member that is dead or cut off runs out; with Divergence its children run on."""
        member = state.members[index]
        agent, lease = member.agent, member.lease
        if not lease.valid or (agent.nonce == lease.holder and agent.connected):
            return None
        if agent.nonce == lease.holder:
            agent = replace(agent, stage=0, seen=self.blind if self.keeps("Lease held") else agent.seen)
        return with_member(state, index, replace(member, lease=replace(lease, valid=False), agent=agent))

    def heal(self, state: State, index: int) -> State | None:
        """A member that was cut off is reachable again."""
        member = state.members[index]
        if member.agent.connected:
            return None
        return with_member(state, index, replace(member, agent=replace(member.agent, connected=True)))

    def dead(self, state: State, index: int) -> State:
        """The member's container ends, and all that it runs."""
        member = state.members[index]
        return with_member(state, index, replace(member, agent=Agent(NO_ONE, True, 0, self.blind, self.nothing)))

    @property
    def blind(self) -> Seen:
        """Nothing is read yet."""
        return Seen(Zero(gen=0), Slice(0, self.nothing), tuple(False for _ in self.ids))


def _granted(seen: Seen, id_: int) -> Run | None:
    entry = seen.slice.entries[id_]
    return None if entry is None or entry.wait else Run(entry.uid, entry.epoch)
