"""The states of a modelled hub with views: two slices a member, what really runs, what the operator and agents believe.

An epoch is a number of the operator's counter times ``PARTS``, plus a count within a block. Uid 0 is the Hub's: by it
a child without an object is on record.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from ..states import Value

NO_ONE = 0  # no holder, no process
HUB = 0  # the uid of a child that has no object
PARTS = 10


class Zero(Value):
    """What slice 0 of a member says: the view's number and members, whether it is open, and the block granted."""

    gen: int = 1
    view: int = 0
    members: tuple[int, ...] = ()
    open: bool = False
    holder: int = NO_ONE
    block: int = 0
    share: int = 9


class Entry(Value):
    """An entry of a member's slice 1. ``run``: the epoch of what runs on under it.

    ``wait``: nothing is started by it. ``comes``: it waits because the child is on its way there.
    """

    uid: int
    epoch: int
    wait: bool = False
    run: int = 0
    comes: bool = False


class Slice(Value):
    """A member's slice 1: its entries, by id."""

    gen: int
    entries: tuple[Entry | None, ...]


class Run(Value):
    """A process. ``view``: the number of the view under which its member started it by itself, 0 for an entry's."""

    uid: int
    epoch: int
    view: int = 0


class Status(Value):
    """What a member reports, and the generations of both slices that it has observed."""

    zero: int
    slice: int
    holder: int
    runs: tuple[Run | None, ...]


class Seen(Value):
    """What an agent has read: its own two slices, and which ids the slices of others name.

    ``ahead``: its own slices are newer than what it has read of the others'.
    """

    zero: Zero
    slice: Slice
    others: tuple[bool, ...]
    ahead: bool = False


class Agent(Value):
    """A member's process. ``stage`` 0: without the Lease; 1: has it, has not listed since; 2: serves."""

    nonce: int
    connected: bool
    stage: int
    seen: Seen
    runs: tuple[Run | None, ...]
    used: int = 0  # how much of its block


class Lease(Value):
    """``valid`` until it has not been renewed for leaseSeconds + 1."""

    holder: int
    valid: bool


class Member(Value):
    """One member; ``leaves``: it is to be in no view."""

    zero: Zero
    slice: Slice
    status: Status
    lease: Lease
    agent: Agent
    leaves: bool = False


class Known(Value):
    """What the leader remembers of a member.

    ``removed``: by id, the generation at which an entry was taken off. ``unsure``: of slice 0 and slice 1, the
    generation on which a write was not answered, 0 if there is none. ``confirm``: the generations to be acknowledged
    after a take-over.
    """

    removed: tuple[int, ...]
    unsure: tuple[int, int] = (0, 0)
    confirm: tuple[int, int] = (0, 0)


class Put(Value):
    """A write of a slice of a member, made of the generation ``on``: slice 0 or slice 1."""

    member: int
    on: int
    zero: Zero | None = None
    entries: tuple[Entry | None, ...] | None = None


class Operator(Value):
    """The leader; ``flying`` are writes that it got no answer to."""

    next: int
    leading: bool
    known: tuple[Known, ...]
    pending: tuple[Put, ...]
    flying: tuple[Put, ...] = ()


class State(Value):
    """All of it. ``declared``: by id, the uid of its Child, 0 for none. ``last``: the highest epoch ever started."""

    members: tuple[Member, ...]
    operator: Operator
    declared: tuple[int, ...]
    last: tuple[int, ...]
    left: tuple[int, ...]


T = TypeVar("T")


def put_at(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """``items`` with the one at ``index`` replaced."""
    return (*items[:index], item, *items[index + 1 :])


def canonical(state: State) -> State:
    """The same situation with generations, nonces and the operator's numbers renumbered without gaps."""
    operator = state.operator
    numbers = {0, operator.next, *(epoch // PARTS for epoch in state.last)}
    puts = (*operator.pending, *operator.flying)
    gens: list[tuple[set[int], set[int], set[int]]] = []
    for index, (member, known) in enumerate(zip(state.members, operator.known, strict=True)):
        agent, status = member.agent, member.status
        own = [put for put in puts if put.member == index]
        zeros = [member.zero, agent.seen.zero, *(put.zero for put in own if put.zero)]
        for zero in zeros:
            numbers |= {zero.view, zero.block}
        lists = [member.slice.entries, agent.seen.slice.entries, *(put.entries for put in own if put.entries)]
        for entry in (entry for entries in lists for entry in entries if entry):
            numbers |= {entry.epoch // PARTS, entry.run // PARTS}
        for run in (run for runs in (agent.runs, status.runs) for run in runs if run):
            numbers |= {run.epoch // PARTS, run.view}
        gens.append(
            (
                {0, status.zero, known.confirm[0], known.unsure[0], *(zero.gen for zero in zeros)}
                | {put.on for put in own if put.zero},
                {0, member.slice.gen, agent.seen.slice.gen, status.slice, *known.removed, known.unsure[1]}
                | {known.confirm[1], *(put.on for put in own if put.entries)},
                {NO_ONE, member.lease.holder, agent.nonce, status.holder, *(zero.holder for zero in zeros)},
            )
        )
    if max(numbers) == len(numbers) - 1 and all(max(part) == len(part) - 1 for found in gens for part in found):
        return state
    return _Renumbering(numbers, gens).state(state)


def _ranks(numbers: set[int]) -> dict[int, int]:
    return {number: rank for rank, number in enumerate(sorted(numbers))}


class _Renumbering:
    def __init__(self, numbers: set[int], found: list[tuple[set[int], set[int], set[int]]]) -> None:
        self._number = _ranks(numbers)
        self._zero = [_ranks(part[0]) for part in found]
        self._slice = [_ranks(part[1]) for part in found]
        self._nonce = [_ranks(part[2]) for part in found]

    def state(self, state: State) -> State:
        operator = state.operator
        known = tuple(
            Known(
                tuple(self._slice[index][gen] for gen in known.removed),
                (self._zero[index][known.unsure[0]], self._slice[index][known.unsure[1]]),
                (self._zero[index][known.confirm[0]], self._slice[index][known.confirm[1]]),
            )
            for index, known in enumerate(operator.known)
        )
        return State(
            tuple(self._member(index, member) for index, member in enumerate(state.members)),
            Operator(
                self._number[operator.next],
                operator.leading,
                known,
                tuple(map(self._put, operator.pending)),
                tuple(map(self._put, operator.flying)),
            ),
            state.declared,
            tuple(map(self._epoch, state.last)),
            state.left,
        )

    def _epoch(self, epoch: int) -> int:
        return self._number[epoch // PARTS] * PARTS + epoch % PARTS

    def _zero_of(self, index: int, zero: Zero) -> Zero:
        return replace(
            zero,
            gen=self._zero[index].get(zero.gen, 0),
            view=self._number[zero.view],
            holder=self._nonce[index][zero.holder],
            block=self._number[zero.block],
        )

    def _entries(self, entries: tuple[Entry | None, ...]) -> tuple[Entry | None, ...]:
        return tuple(
            entry and replace(entry, epoch=self._epoch(entry.epoch), run=self._epoch(entry.run)) for entry in entries
        )

    def _runs(self, runs: tuple[Run | None, ...]) -> tuple[Run | None, ...]:
        return tuple(run and Run(run.uid, self._epoch(run.epoch), self._number[run.view]) for run in runs)

    def _slice_of(self, index: int, item: Slice) -> Slice:
        return Slice(self._slice[index][item.gen], self._entries(item.entries))

    def _put(self, put: Put) -> Put:
        ranks = self._zero if put.zero else self._slice
        return Put(
            put.member,
            ranks[put.member][put.on],
            put.zero and self._zero_of(put.member, put.zero),
            put.entries and self._entries(put.entries),
        )

    def _member(self, index: int, member: Member) -> Member:
        agent, status, seen = member.agent, member.status, member.agent.seen
        return Member(
            self._zero_of(index, member.zero),
            self._slice_of(index, member.slice),
            Status(
                self._zero[index][status.zero],
                self._slice[index][status.slice],
                self._nonce[index][status.holder],
                self._runs(status.runs),
            ),
            Lease(self._nonce[index][member.lease.holder], member.lease.valid),
            Agent(
                self._nonce[index][agent.nonce],
                agent.connected,
                agent.stage,
                Seen(self._zero_of(index, seen.zero), self._slice_of(index, seen.slice), seen.others, seen.ahead),
                self._runs(agent.runs),
                agent.used,
            ),
            member.leaves,
        )
