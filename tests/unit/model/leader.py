"""The steps of the operator: caches that lag, rounds whose writes are made one by one, leader changes.

The decisions are real, ``plan()`` and ``judge()``; the steps follow the protocol (docs/protocol.md, rules 2 to 8).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from msgspec.structs import replace

from processhub.api.hub import HubSpec
from processhub.core.model.membership import MemberFacts, Phase, judge
from processhub.core.model.placement import child_key
from processhub.core.model.plan import Plan
from processhub.core.model.snapshot import DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment

from .rules import Checked, Step, with_known, with_member
from .states import ANYWHERE, NO_ONE, Confirm, Entry, Flying, Known, Put, Spec, State, Status, Want, Write, put_at

_SPEC = HubSpec()


class Leader(Checked):
    """The steps of the leader and of a deposed one."""

    def _operator_steps(self, state: State) -> Iterator[Step]:
        operator = state.operator
        for position in self._at_once(operator.pending):
            yield f"write {operator.pending[position]}", self.write(state, position)
            for kind, lost in (("lose", self._lose), ("unanswered", self._not_answered)):
                may_be_lost = kind in self.kinds and state.left[self.kinds.index(kind)]
                if may_be_lost and isinstance(operator.pending[position], Put):
                    yield f"{kind} {operator.pending[position]}", lost(state, position)
        for flying in operator.flying:
            yield f"at last lands {flying.put}", self._land(state, flying)
        for index in self.indexes:
            if operator.known[index].seen is not None:
                yield f"see the slice of {index}", self.see_slice(state, index)
        if operator.former:
            yield from self._former_steps(state)
        elif operator.late:
            yield f"late write {operator.late[0]}", self._write_late(state)
        if operator.pending:
            return
        if not operator.leading:
            yield "take over", self.take_over(state)
            return
        for index in self.indexes:
            seen = self.see_lease(state, index)
            if seen != state:
                yield f"see the Lease of {index}", seen
            if self.may_end_hold(state, index):
                yield f"the hold of {index} is over", self.end_hold(state, index)
        yield "plan", self.plan(state)

    @staticmethod
    def _at_once(pending: tuple[Write, ...]) -> range:
        """Return the writes that may be next: puts are made at once, a Confirm waits for those before it."""
        if pending and isinstance(pending[0], Confirm):
            return range(1)
        barrier = next((at for at, write in enumerate(pending) if isinstance(write, Confirm)), len(pending))
        return range(barrier)

    def see_lease(self, state: State, index: int) -> State:
        """The watch delivers the Lease and what the kubelet reports of its holder."""
        known, member = state.operator.known[index], state.members[index]
        ended = member.lease.holder != NO_ONE and member.agent.nonce != member.lease.holder
        if "renewals refute" in self.rules.without:
            ended = ended or (known.ended and member.clock)
        known = replace(known, lease=member.lease, ended=ended)
        if self.judge(state, index, known).phase is Phase.LIVE:
            known = replace(known, hold_over=False)
        return with_known(state, index, known)

    def see_slice(self, state: State, index: int) -> State:
        """The watch delivers the slice, or it is read; a write that is based on an older version is rejected."""
        known, spec = state.operator.known[index], state.members[index].spec
        if known.seen is not None:
            removed = list(known.removed)
            for id_, (before, after) in enumerate(zip(known.seen.entries, spec.entries, strict=True)):
                if before is not None and (after is None or after.uid != before.uid or after.wait > before.wait):
                    removed[id_] = spec.gen
            known = replace(known, seen=None, removed=tuple(removed))
            operator = state.operator
            pending = tuple(
                write
                for write in operator.pending
                if isinstance(write, Confirm) or write.member != index or write.entries is None
            )
            state = replace(state, operator=replace(operator, pending=pending))
        unsure = tuple(gen if gen >= spec.gen else 0 for gen in known.unsure)
        return with_known(state, index, replace(known, unsure=unsure))

    @staticmethod
    def cached(state: State, index: int) -> Spec:
        """Return the slice's spec as in the operator's cache."""
        return state.operator.known[index].seen or state.members[index].spec

    def may_end_hold(self, state: State, index: int) -> bool:
        """Return whether the operator waits for this member's restart."""
        known = state.operator.known[index]
        return not known.hold_over and self.judge(state, index, known).restarting

    def end_hold(self, state: State, index: int) -> State:
        """holdSeconds have passed."""
        return with_known(state, index, replace(state.operator.known[index], hold_over=True))

    def judge(self, state: State, index: int, known: Known):
        """Return the real judgement of what is known of the member."""
        granted = self.cached(state, index).granted
        answer = self._answered(state, index, known.lease.holder), any(state.members[index].status.uids)
        return _judge(known.lease.holder, known.lease.valid, known.ended, known.hold_over, granted, answer,
                      self.rules.holds, state.members[index].drain)  # fmt: skip

    def _answered(self, state: State, index: int, holder: int) -> bool:
        """Whether this holder has acknowledged the slice as the operator knows it."""
        status = state.members[index].status
        return status.holder == holder and status.gen >= self.cached(state, index).gen

    def _grant(self, state: State, index: int) -> int:
        """The holder to which a write grants the entries."""
        holder, granted = state.operator.known[index].lease.holder, self.cached(state, index).granted
        if self.rules.holds:
            return NO_ONE
        unanswered = granted not in (NO_ONE, holder) and not self._answered(state, index, holder)
        return granted if unanswered else holder or granted

    def _acknowledged(self, status: Status, known: Known, id_: int) -> bool:
        """Return whether a removal is acknowledged: from then on the reports decide (docs/protocol.md, rule 7)."""
        present = status.holder == known.lease.holder or "the present holder's word" in self.rules.without
        return present and status.gen >= known.removed[id_]

    def _lingers(self, state: State, index: int, id_: int) -> bool:
        known, member = state.operator.known[index], state.members[index]
        if known.removed[id_] or known.unsure[id_]:
            return True
        entry, uid = self.cached(state, index).entries[id_], member.status.uids[id_]
        if not uid or member.status.holder != known.lease.holder or "what is reported" in self.rules.without:
            return False
        if state.operator.term > 1 and "what was reported before it led" in self.rules.without:
            return False
        return entry is None or entry.uid != uid

    def _settled(self, state: State, index: int) -> bool:
        known = state.operator.known[index]
        judged = self.judge(state, index, known)
        if "settling" in self.rules.without or judged.phase is Phase.GONE:
            return True
        if judged.restarting:
            return True  # proven to run nothing now
        status = state.members[index].status
        return not known.confirm or (status.gen >= known.confirm and status.holder == known.lease.holder)

    def views(self, state: State) -> tuple[MemberView, ...]:
        """Return the members as the planner gets them."""
        found = []
        for index in self.indexes:
            member = state.members[index]
            judged = self.judge(state, index, state.operator.known[index])
            found.append(
                MemberView(
                    name=f"m{index}",
                    phase=judged.phase,
                    draining=judged.draining,
                    joining=member.joining,
                    settled=self._settled(state, index),
                    possibly_running=frozenset(
                        self.rules.ids[id_] for id_ in self.ids if self._lingers(state, index, id_)
                    ),
                )
            )
        return tuple(found)

    def decide(self, state: State, views: tuple[MemberView, ...]) -> Plan:
        """Return the real plan for what the operator knows."""
        specs = [self.cached(state, index) for index in self.indexes]
        record = tuple(tuple(spec.entries[id_] for spec in specs) for id_ in self.ids)
        operator = state.operator
        uncertain = frozenset(
            name for id_, name in enumerate(self.rules.ids) if any(known.unsure[id_] for known in operator.known)
        )
        return _plan(
            *(self.rules.ids, views, state.wanted, record, operator.next_epoch),
            *(self.rules.pinned, uncertain),
        )

    def plan(self, state: State) -> State:
        """Start a round: the plan becomes writes."""
        if "live read" not in self.rules.without:
            for index in self.indexes:
                known = state.operator.known[index]
                # A child that is not recorded may still have been removed without a proof of its end.
                doubtful = any(self.cached(state, index).entries)
                if "live read of the emptied" not in self.rules.without:
                    reported = any(state.members[index].status.uids)
                    doubtful = doubtful or any(known.removed) or any(known.unsure) or reported
                if doubtful and self.judge(state, index, known).phase is Phase.GONE:
                    state = self.see_lease(state, index)
        state = self._note_proofs(state)
        views = self.views(state)
        self._check_proofs(state, views)
        planned = self.decide(state, views)
        first: list[Write] = []
        then: list[Write] = []
        for index, view in enumerate(views):
            changes = planned.entries.get(view.name, {})
            member, known, spec = state.members[index], state.operator.known[index], self.cached(state, index)
            entries = list(spec.entries)
            for id_, name in enumerate(self.rules.ids):
                if name in changes:
                    change = changes[name]
                    entries[id_] = Entry(int(change.uid), change.epoch, change.wait, change.asleep) if change else None
            granted = self._grant(state, index)
            joining = planned.joining.get(view.name, member.joining)
            put = Put(index, state.operator.term, granted, tuple(entries), joining, any(known.unsure))
            gone = view.phase is Phase.GONE and None in changes.values()
            if put.fence or (put.entries, granted, joining) != (spec.entries, spec.granted, member.joining):
                (first if gone else then).append(put)
            if gone and "live read" not in self.rules.without:
                lost = frozenset(
                    id_ for id_, name in enumerate(self.rules.ids) if name in changes and not changes[name]
                )
                first.append(Confirm(index, known.lease, lost))
        writes = (*then, *first) if "removals first" in self.rules.without else (*first, *then)
        operator = replace(state.operator, pending=writes, next_epoch=planned.next_epoch)
        return replace(state, operator=operator)

    def _note_proofs(self, state: State) -> State:
        for index in self.indexes:
            known, status = state.operator.known[index], state.members[index].status
            if any(known.removed):
                removed = tuple(0 if self._acknowledged(status, known, id_) else known.removed[id_] for id_ in self.ids)
                state = with_known(state, index, replace(known, removed=removed))
            if known.confirm and status.gen >= known.confirm and status.holder == known.lease.holder:
                state = with_known(state, index, replace(state.operator.known[index], confirm=0))
        return state

    def write(self, state: State, position: int = 0) -> State:
        """One of the round's writes reaches the API server."""
        operator = state.operator
        write = operator.pending[position]
        rest = operator.pending[:position] + operator.pending[position + 1 :]
        if isinstance(write, Confirm):
            return self._confirm(state, write, rest)
        if write.entries is not None and operator.known[write.member].seen is not None:
            # Based on an old generation: rejected, and the slice is read.
            return self.see_slice(replace(state, operator=replace(operator, pending=rest)), write.member)
        before = state.members
        state = _accept(state, write)
        if write.entries is not None:
            state = self._note_removals(state, write, before[write.member].spec)
            state = self.see_slice(state, write.member)
        return replace(state, operator=replace(state.operator, pending=rest))

    def _lose(self, state: State, position: int, kind: str = "lose") -> State:
        """A write fails by a conflict or the network; the round continues."""
        operator, at = state.operator, self.kinds.index(kind)
        rest = operator.pending[:position] + operator.pending[position + 1 :]
        left = put_at(state.left, at, state.left[at] - 1)
        return replace(state, operator=replace(operator, pending=rest), left=left)

    def _not_answered(self, state: State, position: int) -> State:
        """A write has an unknown outcome: it may land now, later or never; the round continues."""
        operator, write = state.operator, state.operator.pending[position]
        assert isinstance(write, Put)
        state = self._lose(state, state.operator.pending.index(write), kind="unanswered")
        if write.entries is None:
            # A term: it was stored, which the next list shows.
            state = _accept(state, write)
            unheard = tuple(sorted({*operator.unheard, write.member}))
            return replace(state, operator=replace(state.operator, unheard=unheard))
        known, spec = operator.known[write.member], self.cached(state, write.member)
        flying = (*state.operator.flying, Flying(replace(write, fence=True), spec.gen))
        state = replace(state, operator=replace(state.operator, flying=flying))
        if "uncertain until read" in self.rules.without:
            return _pruned(state)
        unsure = tuple(
            spec.gen if before != after else gen
            for gen, before, after in zip(known.unsure, spec.entries, write.entries, strict=True)
        )
        if "written again" in self.rules.without:
            unsure = known.unsure  # it was read, and the slice did not have it
        return _pruned(with_known(state, write.member, replace(known, unsure=unsure)))

    def _land(self, state: State, flying: Flying) -> State:
        """A write without a response is stored; the operator's cache does not know it."""
        index = flying.put.member
        known, before = state.operator.known[index], state.members[index].spec
        if flying.put.term >= before.term or "term fence" in self.rules.without:
            state = _accept(state, flying.put)
            if state.operator.leading:
                state = with_known(state, index, replace(known, seen=known.seen or before))
        left = tuple(other for other in state.operator.flying if other is not flying)
        return replace(state, operator=replace(state.operator, flying=left))

    def _confirm(self, state: State, write: Confirm, rest: tuple[Write, ...]) -> State:
        member = state.members[write.member]
        kept_its_entries = any(self.cached(state, write.member).entries[id_] for id_ in write.ids)
        if member.lease != write.lease or (kept_its_entries and "removals written" not in self.rules.without):
            # It returned, or has no order: the children that it was to lose are not given to others yet.
            kept = []
            for later in rest:
                if isinstance(later, Put) and later.entries is not None:
                    present = self.cached(state, later.member).entries
                    entries = tuple(
                        present[id_] if id_ in write.ids and entry is not None else entry
                        for id_, entry in enumerate(later.entries)
                    )
                    later = replace(later, entries=entries)
                kept.append(later)
            rest = tuple(kept)
        state = self.see_lease(state, write.member)
        return replace(state, operator=replace(state.operator, pending=rest))

    def _note_removals(self, state: State, write: Put, old: Spec) -> State:
        assert write.entries is not None
        known = state.operator.known[write.member]
        gen = state.members[write.member].spec.gen
        removed = list(known.removed)
        for id_, (before, after) in enumerate(zip(old.entries, write.entries, strict=True)):
            if before is not None and (after is None or after.uid != before.uid or after.wait > before.wait):
                removed[id_] = gen
            if after is not None and after != before and not after.wait:
                self._check_epoch(state, id_, after, before)
        return with_known(state, write.member, replace(known, removed=tuple(removed)))

    def _write_late(self, state: State) -> State:
        """A deposed leader continues to write: the API server rejects a term below the slice's."""
        operator = state.operator
        write, rest = operator.late[0], operator.late[1:]
        if isinstance(write, Confirm):
            if state.members[write.member].lease != write.lease:
                rest = ()
        elif isinstance(write, Put):
            if self._fenced(state, write):
                rest = ()
            else:
                state = _accept(state, write)
        return replace(state, operator=replace(state.operator, late=rest))

    def _fenced(self, state: State, write: Put) -> bool:
        return write.term < state.members[write.member].spec.term and "term fence" not in self.rules.without

    def depose(self, state: State) -> State:
        """A new leader: it has the caches of a standby, no memory, and first raises the term everywhere."""
        operator = state.operator
        nothing = tuple(0 for _ in self.ids)
        known = tuple(
            # Leases and holdSeconds are timed from the start.
            Known(
                replace(belief.lease, valid=belief.lease.holder != NO_ONE),
                *(belief.ended, False, nothing, 0, None, nothing),
            )
            for belief in operator.known
        )
        term = operator.term + 1
        raised = tuple(Put(index, term, NO_ONE, None, False) for index in self.indexes)
        # A former leader that was taking over has only terms to write, which are below the new one's.
        late = operator.pending if operator.leading else operator.late
        return replace(
            state,
            operator=replace(operator, term=term, leading=False, known=known, pending=raised, late=late, unheard=()),
        )

    def usurp(self, state: State) -> State:
        """A new leader beside one that runs: a standby judged it ended, and it continues until it notices."""
        former = state.operator.known if state.operator.leading else ()
        state = self.depose(state)
        return replace(state, operator=replace(state.operator, former=former))

    def _former_steps(self, state: State) -> Iterator[Step]:
        """The former leader goes on as long as a slice has its term: it writes, and plans again by its own caches."""
        former = _other_leader(state)
        pending = former.operator.pending
        for position in self._at_once(pending):
            write = pending[position]
            if isinstance(write, Put) and self._fenced(state, write):
                rest = pending[:position] + pending[position + 1 :]
                refused = replace(former, operator=replace(former.operator, pending=rest))
                yield f"the former leader is refused {write}", _other_leader(refused)
            else:
                yield f"the former leader writes {write}", _other_leader(self.write(former, position))
        if pending:
            return
        yield "the former leader plans", _other_leader(self.plan(former))
        for index in self.indexes:
            seen = self.see_lease(former, index)
            if seen != former:
                yield f"the former leader sees the Lease of {index}", _other_leader(seen)

    def take_over(self, state: State) -> State:
        """All terms are raised: list again, then lead."""
        if (
            state.operator.former and "term fence" not in self.rules.without
        ):  # each of its writes is refused from now on
            state = replace(state, operator=replace(state.operator, former=(), late=()))
        for index in self.indexes:
            if "leases listed" not in self.rules.without:
                state = self.see_lease(state, index)
            confirm = state.members[index].spec.gen
            if index in state.operator.unheard and "terms as listed" in self.rules.without:
                confirm = 0
            state = with_known(state, index, replace(state.operator.known[index], confirm=confirm))
        return replace(state, operator=replace(state.operator, leading=True, unheard=()))


def _other_leader(state: State) -> State:
    """The same state, with the former leader as the one whose steps are taken; done twice, it is as it was."""
    operator = state.operator
    step = 1 if operator.leading else -1
    swapped = replace(
        operator,
        term=operator.term + step,
        leading=not operator.leading,
        known=operator.former,
        pending=operator.late,
        late=operator.pending,
        former=operator.known,
    )
    return replace(state, operator=swapped)


def _accept(state: State, write: Put) -> State:
    member = state.members[write.member]
    spec = member.spec
    if write.entries is None:
        raised = replace(spec, gen=spec.gen + 1, term=write.term)
        return _pruned(with_member(state, write.member, replace(member, spec=raised)))
    new = Spec(spec.gen, write.term, write.granted, write.entries)
    if new != spec or write.fence:
        new = replace(new, gen=spec.gen + 1)
    return _pruned(with_member(state, write.member, replace(member, spec=new, joining=write.joining)))


def _pruned(state: State) -> State:
    """Return it without the writes that can't land any more because the slice has another generation."""
    operator = state.operator
    flying = tuple(flying for flying in operator.flying if flying.gen == state.members[flying.put.member].spec.gen)
    return state if flying == operator.flying else replace(state, operator=replace(operator, flying=flying))


@cache
def _judge(holder: int, valid: bool, ended: bool, hold_over: bool, granted: int,
           answer: tuple[bool, bool], holds: bool, drain: bool):  # fmt: skip
    facts = MemberFacts(
        holder=f"p/{holder}" if holder else "",
        granted_to=f"p/{granted}" if granted else "",
        answered=answer[0],
        runs=answer[1],
        unrenewed_seconds=0.0 if valid else 100.0,
        pod_uid="p",
        holder_terminated=ended,
        holds=holds,
        restarting_seconds=100.0 if hold_over else 0.0,
        ordered_away=drain,
    )
    return judge(facts)


@cache
def _plan(
    ids: tuple[str, ...],
    views: tuple[MemberView, ...],
    children: tuple[Want | None, ...],
    record: tuple[tuple[Entry | None, ...], ...],
    next_epoch: int,
    pinned: bool,
    uncertain: frozenset[str],
) -> Plan:
    wanted = {
        name: DesiredChild(
            id=name,
            uid=str(want.uid),
            key=child_key(name),
            workload="w",
            pinned=pinned,
            nodes=() if want.node == ANYWHERE else (f"m{want.node}",),
            suspended=want.suspended,
        )
        for name, want in zip(ids, children, strict=True)
        if want is not None
    }
    places = {
        name: tuple(
            OnRecord(
                views[index].name,
                Assignment(uid=str(entry.uid), epoch=entry.epoch, workload="w", wait=entry.wait, asleep=entry.asleep),
            )
            for index, entry in enumerate(entries)
            if entry is not None
        )
        for name, entries in zip(ids, record, strict=True)
    }
    return plan(
        HubSnapshot(
            spec=_SPEC,
            members=views,
            children=wanted,
            record={name: found for name, found in places.items() if found},
            next_epoch=next_epoch,
            move_budget=100,
            uncertain=uncertain,
        )
    )
