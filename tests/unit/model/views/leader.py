"""The steps of the operator (docs/protocol.md, rules 26 to 33). What decides on views is real: ``view_step()``."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from processhub.core.model.activation import (
    Standing,
    View,
    ViewPhase,
    ViewStep,
    current_view,
    is_closed,
    shares,
    view_step,
)

from .rules import Checked, block_of, view_of, with_known, with_member
from .states import HUB, PARTS, Entry, Known, Put, Run, State, Zero, put_at

Step = tuple[str, State]


class _Round:
    """One round of the operator: what it saw, and the entries as it wants them."""

    def __init__(self, hub: Leader, state: State) -> None:
        self.hub, self.state = hub, state
        self.next = state.operator.next
        self.entries = [list(member.slice.entries) for member in state.members]
        self.gone = [not member.lease.valid for member in state.members]
        self.standings = {f"m{index}": hub.standing(state, index) for index in hub.indexes}
        self.view = current_view(self.standings)
        self.closed = self.view is None or hub.closed(self.view, self.standings)
        closing = any(
            standing.view == self.view and standing.phase is ViewPhase.CLOSING for standing in self.standings.values()
        )
        self.open = self.view is not None and not self.closed and not closing
        self.grants: set[int] = set()

    def number(self) -> int:
        """The next number of the operator's counter."""
        self.next += 1
        return self.next - 1

    def chosen(self, id_: int) -> int:
        """The member that the view that is not closed has start the id; -1 where there is none."""
        return self.hub.chosen(_members(self.view), id_) if self.view is not None and not self.closed else -1


class Leader(Checked):
    """The leader's steps and those of a deposed one."""

    def operator_steps(self, state: State) -> Iterator[Step]:
        """What the operator may do next."""
        operator = state.operator
        for position, put in enumerate(operator.pending):
            yield f"write {put}", self.write(state, position)
            if "unanswered" in self.kinds and state.left[self.kinds.index("unanswered")]:
                yield f"unanswered {put}", self._not_answered(state, position)
        for put in operator.flying:
            yield f"at last lands {put}", self._land(state, put)
        if operator.pending:
            return
        if not operator.leading:
            yield "take over", self.take_over(state)
            return
        yield "plan", self.plan(state)
        for kind in ("idle", "move"):
            at = self.kinds.index(kind) if kind in self.kinds else -1
            for id_ in self.ids if at >= 0 and state.left[at] else ():
                after = self.plan(state, **{kind: id_})
                if after != self.plan(state):
                    yield (
                        f"{kind} {self.rules.ids[id_]}",
                        replace(after, left=put_at(after.left, at, after.left[at] - 1)),
                    )

    # what is known

    def standing(self, state: State, index: int) -> Standing:
        """What slice 0 of the member says, and what is proven of it."""
        member = state.members[index]
        zero, status = member.zero, member.status
        gone = not member.lease.valid
        phase = ViewPhase.OPEN if zero.open else ViewPhase.CLOSING
        if gone and not self.keeps("closing of the gone"):
            phase = ViewPhase.CLOSING
        return Standing(
            view=view_of(zero.view, zero.members) if zero.view else None,
            phase=phase,
            holder=str(zero.holder or ""),
            present=str(member.lease.holder or "") if member.lease.valid else "",
            answered=not gone and status.holder == member.lease.holder and status.zero >= zero.gen,
            gone=gone,
        )

    def closed(self, view, standings) -> bool:
        """Whether the view is closed."""
        if not self.keeps("closed by each"):
            return all(standing.phase is ViewPhase.CLOSING for standing in standings.values() if standing.view == view)
        return is_closed(view, standings)

    def _unproven(self, state: State, index: int, id_: int) -> bool:
        known, member = state.operator.known[index], state.members[index]
        if not member.lease.valid:
            return False
        run, status = member.status.runs[id_], member.status
        # A leader that came after the removal has only the report.
        reported = run is not None and not run.view and status.holder == member.lease.holder
        entry = member.slice.entries[id_]
        return bool(known.removed[id_]) or (reported and (entry is None or entry.wait))

    def _settled(self, state: State, index: int) -> bool:
        known, member = state.operator.known[index], state.members[index]
        if known.confirm == (0, 0) or not member.lease.valid or not self.keeps("settled"):
            return True
        status = member.status
        observed = status.zero >= known.confirm[0] and status.slice >= known.confirm[1]
        return observed and status.holder == member.lease.holder

    def _activated(self, state: State, index: int, id_: int) -> Run | None:
        """What the member reports to have started by itself, and has no entry for yet."""
        member = state.members[index]
        run = member.status.runs[id_]
        if not member.lease.valid or member.status.holder != member.lease.holder or run is None or not run.view:
            return None
        entry, zero = member.slice.entries[id_], member.zero
        if entry is not None and entry.epoch >= run.epoch:
            return None
        stale = self._unproven(state, index, id_) or not self._settled(state, index)
        before = not zero.open and member.status.zero < zero.gen and self.keeps("reported as it closed")
        return None if before or (stale and self.keeps("reported since")) else run

    def _is_of(self, view: View | None, run: Run) -> bool:
        """Whether the run was started under this view; one of an earlier view has ended since."""
        return not self.keeps("of this view") or (view is not None and view.number == run.view)

    def _note_proofs(self, state: State) -> State:
        for index in self.indexes:
            known, member = state.operator.known[index], state.members[index]
            status = member.status
            removed = list(known.removed)
            for id_ in self.ids:
                observed = status.slice >= removed[id_] and status.holder == member.lease.holder
                run = status.runs[id_]
                if not member.lease.valid or (observed and (run is None or run.view)):
                    removed[id_] = 0
            confirm = (0, 0) if self._settled(state, index) else known.confirm
            gens = (member.zero.gen, member.slice.gen)
            zero, slice_ = (on if gen <= on else 0 for gen, on in zip(gens, known.unsure, strict=True))
            unsure = (zero, slice_)
            state = with_known(state, index, Known(tuple(removed), unsure, confirm))
        return state

    # a round

    def plan(self, state: State, idle: int | None = None, move: int | None = None) -> State:
        """Begin a round: what is decided becomes writes. ``idle``: the id that is to end, ``move``: one to be moved."""
        state = self._note_proofs(state)
        round = _Round(self, state)
        certain = not any(any(known.unsure) for known in state.operator.known)
        for id_ in self.ids if certain else ():
            self._decide(round, id_, ends=id_ == idle)
            if id_ == move:
                self._begin_move(round, id_)
        puts: list[Put] = []
        for index in self.indexes:
            member, known = state.members[index], state.operator.known[index]
            entries = tuple(round.entries[index])
            if entries != member.slice.entries or known.unsure[1]:
                puts.append(Put(index, member.slice.gen, entries=entries))
            if known.unsure[0]:
                puts.append(Put(index, member.zero.gen, zero=replace(member.zero, gen=member.zero.gen + 1)))
        if certain:
            puts += self._views(round, quiet=self._all_stay(round) or not self.keeps("on record before"))
        operator = replace(state.operator, pending=tuple(puts), next=round.next)
        return replace(state, operator=operator)

    def _decide(self, round: _Round, id_: int, *, ends: bool) -> None:
        state, declared = round.state, round.state.declared[id_]
        places = [index for index in self.indexes if round.entries[index][id_] is not None]
        activated = [
            (index, run)
            for index in self.indexes
            if (run := self._activated(state, index, id_)) and self._is_of(round.view, run)
        ]
        for index, run in activated:
            # On record as it runs. Adopted, if it was declared meanwhile.
            uid = declared or HUB
            round.entries[index][id_] = (
                Entry(uid, round.number() * PARTS, run=run.epoch) if declared else Entry(uid, run.epoch)
            )
        if activated or self._is_unconfirmed(round, id_) or self._continue_move(round, id_, ends=ends):
            return
        for index in places:
            entry = round.entries[index][id_]
            assert entry is not None
            if declared and entry.uid == HUB and not entry.wait:
                round.entries[index][id_] = Entry(declared, round.number() * PARTS, run=entry.epoch)
            elif entry.wait or round.gone[index] or (entry.uid != declared if entry.uid else ends):
                self._remove(round, index, id_, entry)
        if declared and not places:
            self._place(round, id_, declared)

    def _is_unconfirmed(self, round: _Round, id_: int) -> bool:
        """Whether a member still reports as its own what is on record: it may not have read the entry."""
        for index in self.indexes if self.keeps("confirmed") else ():
            member, entry = round.state.members[index], round.entries[index][id_]
            run = member.status.runs[id_] if member.status.holder == member.lease.holder else None
            if entry and run and run.view and run.epoch in (entry.epoch, entry.run) and not round.gone[index]:
                return True
        return False

    def _begin_move(self, round: _Round, id_: int) -> None:
        """Put a waiting entry on another member, beside the one by which the child runs."""
        state = round.state
        places = [index for index in self.indexes if round.entries[index][id_] is not None]
        if self._is_unconfirmed(round, id_):
            return
        entry = round.entries[places[0]][id_] if len(places) == 1 else None
        if entry is None or entry.wait or round.gone[places[0]] or state.members[places[0]].slice.entries[id_] != entry:
            return
        if self.rules.most and round.view is not None and not round.closed and self.keeps("no move into a share"):
            return  # the view is to be closed before
        for index in self.indexes:
            if index not in places and not round.gone[index] and not state.members[index].leaves:
                round.entries[index][id_] = Entry(entry.uid, round.number() * PARTS, wait=True, comes=True)
                return

    def _continue_move(self, round: _Round, id_: int, *, ends: bool) -> bool:
        """Take the next step of a move: the source's entry goes, and the target starts once its end is proven."""
        entries, declared = round.entries, round.state.declared[id_]
        target = next((index for index in self.indexes if (it := entries[index][id_]) and it.comes), None)
        if target is None:
            return False
        entry = entries[target][id_]
        assert entry is not None
        others = [index for index in self.indexes if index != target and entries[index][id_] is not None]
        if round.gone[target] or ends or entry.uid != declared:
            if others:
                entries[target][id_] = None
            else:
                self._remove(round, target, id_, entry)
        elif others:
            entries[others[0]][id_] = None
        elif all(self._is_proven(round, index, id_) for index in self.indexes if index != target):
            entries[target][id_] = Entry(entry.uid, round.number() * PARTS)
        return True

    def _is_proven(self, round: _Round, index: int, id_: int) -> bool:
        return round.gone[index] or (not self._unproven(round.state, index, id_) and self._settled(round.state, index))

    def _all_stay(self, round: _Round) -> bool:
        """Whether each id that is on record stays so in this round, and no other comes onto it."""
        for id_ in self.ids:
            before = [member.slice.entries[id_] for member in round.state.members]
            after = [entries[id_] for entries in round.entries]
            stays = any(old is not None and new is not None for old, new in zip(before, after, strict=True))
            if before != after and not stays:
                return False
        return True

    def _place(self, round: _Round, id_: int, uid: int) -> None:
        state = round.state
        unproven = any(self._unproven(state, index, id_) for index in self.indexes)
        if unproven or not all(self._settled(state, index) for index in self.indexes):
            return
        live = [index for index in self.indexes if not round.gone[index] and not state.members[index].leaves]
        if round.closed or not self.keeps("where the view says"):
            targets = live[:1]
        elif round.open:
            targets = [index for index in live if index == round.chosen(id_)]
        else:
            targets = []
        for index in targets:
            round.entries[index][id_] = Entry(uid, round.number() * PARTS)

    def _remove(self, round: _Round, index: int, id_: int, entry: Entry) -> None:
        """Take an entry off the record, in as many rounds as the view that is not closed asks for."""
        chosen = round.chosen(id_)
        if chosen == -1:
            if round.closed:
                round.entries[index][id_] = None
            return
        zero = round.state.members[chosen].zero
        if self.keeps("grant first") and round.open and zero.view and zero.block <= block_of(entry.epoch):
            if zero.open and not round.gone[chosen]:
                round.grants.add(chosen)
            return
        if round.gone[index] and index == chosen:
            return  # the view is to be closed before
        if index != chosen and not entry.wait and self.keeps("waits before it leaves"):
            round.entries[index][id_] = replace(entry, wait=True)
            return
        if self.keeps("proven elsewhere") and not all(
            self._is_proven(round, other, id_) for other in self.indexes if other != chosen
        ):
            return
        round.entries[index][id_] = None

    # views

    def _views(self, round: _Round, *, quiet: bool) -> list[Put]:
        state = round.state
        members = tuple(index for index in self.indexes if not round.gone[index] and not state.members[index].leaves)
        number = 1 if not self.keeps("number rises") else round.next
        wanted = view_of(number, members) if members else None
        ready = quiet and self._ready(state, round.view)
        if self.rules.most and self.keeps("no share for a move"):
            # It would count for the shares of both members.
            ready = ready and all(sum(entries[id_] is not None for entries in round.entries) < 2 for id_ in self.ids)
        if self.keeps("closed by each"):
            step = view_step(wanted, round.standings, ready=ready)
        elif round.closed and quiet and wanted is not None:
            step = ViewStep(wanted, wanted, grant=tuple(name for name, _ in wanted.members))
        else:
            step = view_step(wanted, round.standings, ready=False)
        if step.open is not None and step.open is wanted:
            round.next += 1
        counts = {
            f"m{index}": sum(entry is not None and entry.uid == HUB for entry in entries)
            for index, entries in enumerate(round.entries)
        }
        names = [name for name, _ in step.open.members] if step.open is not None else []
        zeros = {f"m{index}": state.members[index].zero for index in self.indexes}
        own = {name: zeros[name].share for name in names if step.open and zeros[name].view == step.open.number}
        parts = shares(self.rules.most, counts, names, own) if self.rules.most else {}
        puts = []
        for index in self.indexes:
            name, zero = f"m{index}", state.members[index].zero
            if step.open is not None and (name in step.grant or index in round.grants):
                share = own.get(name, parts.get(name, 9))
                holder = state.members[index].lease.holder
                new = Zero(zero.gen + 1, step.open.number, _members(step.open), True, holder, round.number(), share)
                puts.append(Put(index, zero.gen, zero=new))
            elif step.current is not None and name in step.close:
                new = replace(
                    zero, gen=zero.gen + 1, view=step.current.number, members=_members(step.current), open=False
                )
                puts.append(Put(index, zero.gen, zero=new))
        return puts

    def _ready(self, state: State, view: View | None) -> bool:
        for index in self.indexes:
            if not self._settled(state, index):
                return False
            for id_ in self.ids:
                on_record = any(member.slice.entries[id_] is not None for member in state.members)
                if self._unproven(state, index, id_) and not on_record:
                    return False
                run = self._activated(state, index, id_)
                if run is not None and self._is_of(view, run) and self.keeps("on record before"):
                    return False
        return True

    # writes

    def write(self, state: State, position: int) -> State:
        """One of the round's writes is stored and answered, or refused where its generation has passed."""
        operator = state.operator
        put = operator.pending[position]
        rest = operator.pending[:position] + operator.pending[position + 1 :]
        return self._store(replace(state, operator=replace(operator, pending=rest)), put)

    def _store(self, state: State, put: Put) -> State:
        member, known = state.members[put.member], state.operator.known[put.member]
        if put.on != (member.zero.gen if put.zero is not None else member.slice.gen):
            return state
        if put.zero is not None:
            member = replace(member, zero=put.zero)
        else:
            assert put.entries is not None
            gen = member.slice.gen + 1
            removed = list(known.removed)
            for id_, (before, after) in enumerate(zip(member.slice.entries, put.entries, strict=True)):
                if before is not None and not before.wait and (after is None or after.wait):
                    removed[id_] = gen
            state = with_known(state, put.member, replace(known, removed=tuple(removed)))
            member = replace(member, slice=replace(member.slice, gen=gen, entries=put.entries))
        state = with_member(state, put.member, member)
        operator = state.operator
        flying = tuple(
            other
            for other in operator.flying
            if other.member != put.member or (other.zero is None) != (put.zero is None)
        )
        return replace(state, operator=replace(operator, flying=flying))

    def _not_answered(self, state: State, position: int) -> State:
        """A write whose outcome is unknown: it may land now or later, or never; the round goes on."""
        operator, at = state.operator, self.kinds.index("unanswered")
        put = operator.pending[position]
        rest = operator.pending[:position] + operator.pending[position + 1 :]
        state = replace(
            state,
            operator=replace(operator, pending=rest, flying=(*operator.flying, put)),
            left=put_at(state.left, at, state.left[at] - 1),
        )
        if not self.keeps("no unsettled write"):
            return state
        known = state.operator.known[put.member]
        unsure = put_at(known.unsure, 0 if put.zero is not None else 1, put.on)
        return with_known(state, put.member, replace(known, unsure=(unsure[0], unsure[1])))

    def _land(self, state: State, put: Put) -> State:
        operator = state.operator
        flying = tuple(other for other in operator.flying if other is not put)
        return self._store(replace(state, operator=replace(operator, flying=flying)), put)

    # leader changes

    def depose(self, state: State) -> State:
        """The leader loses its Lease. What it has not written it does not write any more: the terms are raised."""
        known = tuple(Known(tuple(0 for _ in self.ids)) for _ in self.indexes)
        return replace(state, operator=replace(state.operator, leading=False, known=known, pending=()))

    def take_over(self, state: State) -> State:
        """A new leader raises the term in every slice, and remembers what is to be acknowledged."""
        for index in self.indexes:
            member = state.members[index]
            zero = replace(member.zero, gen=member.zero.gen + 1)
            slice_ = replace(member.slice, gen=member.slice.gen + 1)
            state = with_member(state, index, replace(member, zero=zero, slice=slice_))
            confirm = (zero.gen, slice_.gen)
            state = with_known(state, index, Known(tuple(0 for _ in self.ids), (0, 0), confirm))
        return replace(state, operator=replace(state.operator, leading=True, flying=()))


def _members(view) -> tuple[int, ...]:
    return tuple(int(name[1:]) for name, _ in view.members)
