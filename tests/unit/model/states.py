"""The states of a modelled hub: the API server's objects, what really runs, and what operator and agents believe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec.structs import replace

NO_ONE = 0  # no holder, no process
ANYWHERE = -1  # a child that is not guided


class Value(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """A part of a state. The search compares and hashes millions: a Struct does that ten times as fast as a tuple."""


class Want(Value):
    """What the user asks for under an id: this uid, on this member if it is guided; or suspended."""

    uid: int
    node: int
    suspended: bool = False


class Entry(Value):
    """An entry of a slice's spec."""

    uid: int
    epoch: int
    wait: bool
    asleep: bool = False


class Spec(Value):
    """A slice's spec; ``granted`` is the holder that may run it, NO_ONE for any. Entries are by id."""

    gen: int
    term: int
    granted: int
    entries: tuple[Entry | None, ...]


class Run(Value):
    """A process: its child, and the entry by which it was started."""

    uid: int
    epoch: int


class Status(Value):
    """A slice's status; ``gen`` is its observedGeneration, ``uids`` are the running children by id (0: none)."""

    gen: int
    holder: int
    uids: tuple[int, ...]


class Lease(Value):
    """``valid`` until it was not renewed for leaseSeconds + 1; ``version`` changes when it is taken or released."""

    holder: int
    valid: bool
    version: int


class Agent(Value):
    """A member's process. ``stage`` 0: without the Lease; 1: has it, has not listed its slice since; 2: serves."""

    nonce: int
    connected: bool
    stage: int
    view: Spec
    runs: tuple[Run | None, ...]


class Member(Value):
    """One member: its slice, its Lease, its process and what the user asks of it.

    ``clock``: its node's clock was set back, so that ends of earlier containers seem later than the Lease.
    """

    spec: Spec
    status: Status
    lease: Lease
    agent: Agent
    joining: bool
    drain: bool
    clock: bool = False


class Known(Value):
    """What the leader's caches have of a member, and what it remembers.

    ``ended``: the kubelet reported the end of the holder's container. ``removed``: the generation at which an id was
    removed from the slice, 0 once its end is proven. ``confirm``: the generation to be acknowledged after a take-over.
    A lagging cache of slice status is an agent that reports late: it needs no state of its own. ``seen``: the slice's
    spec in the cache if it lags, None if it is up to date. ``unsure``: by id the generation on which a write without a
    response changed its entry, 0 if the entry is as in the cache.
    """

    lease: Lease
    ended: bool
    hold_over: bool
    removed: tuple[int, ...]
    confirm: int
    seen: Spec | None
    unsure: tuple[int, ...]


class Put(Value):
    """Replace a slice's spec and whether it marks its member as joining; with ``entries`` None only its term.

    ``fence``: it makes a new generation even without a change.
    """

    member: int
    term: int
    granted: int
    entries: tuple[Entry | None, ...] | None
    joining: bool
    fence: bool = False


class Flying(Value):
    """A write without a response for the leader: it may land as long as the slice has this generation."""

    put: Put
    gen: int


class Confirm(Value):
    """Read a Lease live: if it has changed since its member was judged, these ids are not given to others."""

    member: int
    lease: Lease
    ids: frozenset[int]


Write = Put | Confirm


class Operator(Value):
    """The leader; ``late`` are the writes that a deposed one may still make.

    ``unheard``: the members whose new term was stored without a response. ``former``: the caches of a deposed leader
    that does not know that it is deposed, and continues; empty if it only makes the writes of ``late``.
    """

    term: int
    next_epoch: int
    leading: bool
    known: tuple[Known, ...]
    pending: tuple[Write, ...]
    late: tuple[Write, ...]
    flying: tuple[Flying, ...] = ()
    unheard: tuple[int, ...] = ()
    former: tuple[Known, ...] = ()


class State(Value):
    """The whole state; ``left`` is how often each kind of fault may still happen."""

    members: tuple[Member, ...]
    operator: Operator
    wanted: tuple[Want | None, ...]
    last_uid: tuple[int, ...]
    left: tuple[int, ...]


T = TypeVar("T")


def put_at(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """Return ``items`` with the one at ``index`` replaced."""
    return (*items[:index], item, *items[index + 1 :])


def canonical(state: State) -> State:
    """Return the same situation with generations, epochs, nonces and Lease versions renumbered without gaps.

    Only their order matters, so that histories of different length meet in one state.
    """
    operator = state.operator
    writes = (*operator.pending, *operator.late, *[flying.put for flying in operator.flying])
    epochs = {0, operator.next_epoch}
    numbers: list[tuple[set[int], set[int], set[int]]] = []
    gapless = True
    for member in state.members:
        view, lease = member.agent.view, member.lease
        for runs in (member.spec.entries, view.entries, member.agent.runs):
            epochs.update([run.epoch for run in runs if run])
        gens = {0, member.spec.gen, member.status.gen, view.gen}
        nonces = {0, lease.holder, member.status.holder, member.agent.nonce, member.spec.granted, view.granted}
        numbers.append((gens, {0, lease.version}, nonces))
    for beliefs in (operator.known, operator.former):
        for belief, (gens, versions, nonces) in zip(beliefs, numbers, strict=False):
            gens.update((belief.confirm, *belief.removed, *belief.unsure))
            versions.add(belief.lease.version)
            nonces.add(belief.lease.holder)
            if (cached := belief.seen) is not None:
                epochs.update([entry.epoch for entry in cached.entries if entry])
                gens.add(cached.gen)
                nonces.add(cached.granted)
    for write in writes:
        _, versions, nonces = numbers[write.member]
        if isinstance(write, Confirm):
            versions.add(write.lease.version)
            nonces.add(write.lease.holder)
        else:
            nonces.add(write.granted)
            epochs.update([entry.epoch for entry in write.entries or () if entry])
    for flying in operator.flying:
        numbers[flying.put.member][0].add(flying.gen)
    for found in numbers:
        gapless = gapless and all(max(part) == len(part) - 1 for part in found)
    if gapless and max(epochs) == len(epochs) - 1:
        return state
    return _renumbered(state, _ranks(epochs), [tuple(map(_ranks, found)) for found in numbers])


def _renumbered(state: State, epochs: dict[int, int], ranks: list[tuple[dict[int, int], ...]]) -> State:
    operator = state.operator
    members = []
    for member, (gens, versions, nonce) in zip(state.members, ranks, strict=True):
        spec, status, lease, agent, view = member.spec, member.status, member.lease, member.agent, member.agent.view
        members.append(
            Member(
                Spec(gens[spec.gen], spec.term, nonce[spec.granted], _entries(spec.entries, epochs)),
                Status(gens[status.gen], nonce[status.holder], status.uids),
                Lease(nonce[lease.holder], lease.valid, versions[lease.version]),
                Agent(
                    nonce[agent.nonce],
                    agent.connected,
                    agent.stage,
                    Spec(gens[view.gen], view.term, nonce[view.granted], _entries(view.entries, epochs)),
                    tuple([run and Run(run.uid, epochs[run.epoch]) for run in agent.runs]),
                ),
                member.joining,
                member.drain,
                member.clock,
            )
        )
    renumbered = Operator(
        operator.term,
        epochs[operator.next_epoch],
        operator.leading,
        tuple([_known(known, epochs, found) for known, found in zip(operator.known, ranks, strict=True)]),
        tuple([_write(write, epochs, ranks[write.member]) for write in operator.pending]),
        tuple([_write(write, epochs, ranks[write.member]) for write in operator.late]),
        tuple([_flying(flying, epochs, ranks[flying.put.member]) for flying in operator.flying]),
        operator.unheard,
        tuple([_known(known, epochs, found) for known, found in zip(operator.former, ranks, strict=False)]),
    )
    return State(tuple(members), renumbered, state.wanted, state.last_uid, state.left)


def _ranks(numbers: Iterable[int]) -> dict[int, int]:
    return {number: rank for rank, number in enumerate(sorted(numbers))}


def _entries(entries: tuple[Entry | None, ...], epochs: dict[int, int]) -> tuple[Entry | None, ...]:
    return tuple([entry and replace(entry, epoch=epochs[entry.epoch]) for entry in entries])


def _known(known: Known, epochs: dict[int, int], ranks: tuple[dict[int, int], ...]) -> Known:
    (gens, versions, nonce), seen, cached = ranks, known.lease, known.seen
    return Known(
        Lease(nonce[seen.holder], seen.valid, versions[seen.version]),
        known.ended,
        known.hold_over,
        tuple([gens[gen] for gen in known.removed]),
        gens[known.confirm],
        cached and Spec(gens[cached.gen], cached.term, nonce[cached.granted], _entries(cached.entries, epochs)),
        tuple([gens[gen] for gen in known.unsure]),
    )


def _write(write: Write, epochs: dict[int, int], ranks: tuple[dict[int, int], ...]) -> Write:
    _, versions, nonces = ranks
    if isinstance(write, Confirm):
        lease = Lease(nonces[write.lease.holder], write.lease.valid, versions[write.lease.version])
        return Confirm(write.member, lease, write.ids)
    entries = None if write.entries is None else _entries(write.entries, epochs)
    return Put(write.member, write.term, nonces[write.granted], entries, write.joining, write.fence)


def _flying(flying: Flying, epochs: dict[int, int], ranks: tuple[dict[int, int], ...]) -> Flying:
    put = _write(flying.put, epochs, ranks)
    assert isinstance(put, Put)
    return Flying(put, ranks[0][flying.gen])
