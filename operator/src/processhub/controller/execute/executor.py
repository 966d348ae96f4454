"""Carries a plan out, in the order that keeps each child from running twice.

0. Slices that a deposed leader created late are emptied. A member with one that can't be emptied is not written to.
1. Members that are gone lose their entries. Members that restart lose their active roles.
2. The Leases of these members are read live. If a Lease was taken or renewed meanwhile, its holder may have started
   children from what it read before. Its children move to others only after it has acknowledged the removal
   (docs/protocol.md, rules 7, 10 and 11).
3. All other changes are written, for all members at once.
4. Children are ordered to hand over to the entries that have begun to wait for them, where these are on record now
   (docs/protocol.md, rule 20).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from functools import partial

import msgspec

from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER, lease_name
from processhub.api.reasons import Reason, Role
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import LEASES
from processhub.controller.concurrency import gather_all
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.rounds.round import Round
from processhub.controller.store.leases import UNKNOWN_HOLDER
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.planning.handover import goes_to
from processhub.registry.grammar import Assignment

_SLICES_SECONDS = 2.0  # Between two tries at most. Writes of slices also stop children.
log = logging.getLogger(__name__)


class Executed(msgspec.Struct, frozen=True):
    """The outcome of a plan. ``unplaced``: children that could not be placed.

    ``plan``: the part that is on record, but for the orders to hand over, which begin no move and end none.
    """

    plan: Plan
    unplaced: Mapping[str, Unplaced]


class Executor:
    """Carries one plan out. The writes for each member are one step, and so is the read of each Lease."""

    def __init__(self, round: Round, writer: SliceWriter) -> None:
        self._round, self._steps, self._writer = round, round.steps, writer

    async def execute(self, observation: Observation, plan: Plan, workloads: Mapping[str, str]) -> Executed:
        """Write the changes of the plan. A write that fails withholds only the changes that depend on it."""
        for known in self._writer.with_stale_term():
            what = f"slice {known.present.metadata.name}, which an earlier leader made late, can't be emptied"
            await self._steps.take(what, partial(self._writer.clear_stale_term, known), longest=_SLICES_SECONDS)
        members = observation.members
        plan, orders = _without_orders(plan)
        taken = {name: _taken_from(member, plan.entries.get(name, {})) for name, member in members.items()}
        gone = [member for name, member in members.items() if taken[name]]
        joining = {view.name: view.joining for view in observation.snapshot.members} | dict(plan.joining)
        removals = [
            self._take_from(member, plan.entries[member.name], taken[member.name], workloads, joining[member.name])
            for member in gone
        ]
        withheld = set[str]().union(*await gather_all(*removals))
        left = {
            name: {child_id: entry for child_id, entry in entries.items() if child_id not in taken[name]}
            for name, entries in plan.entries.items()
        }
        await gather_all(
            *(
                self._write(member, _without(left.get(name, {}), withheld), workloads, joining[name])
                for name, member in members.items()
                if (left.get(name) or not taken[name]) and (member.slices or self._writer.required(member))
            )
        )
        missing = {name: self._missing(name, entries) for name, entries in plan.entries.items()}
        possible = {name: _possible(given, missing) for name, given in orders.items()}
        await gather_all(
            *(self._write(members[name], given, workloads, joining[name]) for name, given in possible.items() if given)
        )
        if _go_on(plan, set[str]().union(*missing.values(), *possible.values())):
            self._round.again_in(0.0)
        unplaced = {
            child_id: Unplaced(Reason.WAITING, f"waiting to be placed on {name}: {failure.sentence}")
            for name, ids in missing.items()
            if (failure := self._steps.failure(_cant_write(name))) is not None
            for child_id in ids
            if child_id not in observation.snapshot.record
        }
        return Executed(only_written(plan, missing), unplaced)

    async def _take_from(
        self,
        member: Member,
        changes: Mapping[str, Assignment | None],
        removed: set[str],
        workloads: Mapping[str, str],
        joining: bool,
    ) -> set[str]:
        """Take these children, or their active role, off a member that runs nothing.

        Returns the ids that may not move to others yet. If the member came back, another round is asked for at once.
        """
        await self._write(member, {child_id: changes[child_id] for child_id in removed}, workloads, joining)
        gone = await confirm_gone(self._round, member)
        if not gone:
            log.warning("member %s may be back while its children were to be moved", member.name)
            if gone is False:
                self._round.again_in(0.0)
            return removed
        # Entries that a failed or delayed write left may still be run.
        return {
            child_id
            for known in member.slices
            for child_id in known.assignments.keys() & removed
            if known.assignments[child_id].role == Role.ACTIVE
        }

    async def _write(
        self, member: Member, changes: Mapping[str, Assignment | None], workloads: Mapping[str, str], joining: bool
    ) -> None:
        if any(known.is_stale(self._round.term) for known in member.slices):
            return  # With this leader's term its agent would start the entries of a deposed leader.
        await self._steps.take(
            _cant_write(member.name),
            lambda: self._writer.write(member, changes, workloads, joining),
            longest=_SLICES_SECONDS,
        )

    def _missing(self, member: str, changes: Mapping[str, Assignment | None]) -> set[str]:
        """The ids whose change is not on record: withheld, delayed by the rate limit, or not written."""
        present: dict[str, Assignment] = {}
        for known in self._round.state.slices.by_member().get(member, ()):
            present.update((child_id, known.assignments[child_id]) for child_id in known.assignments.keys() & changes)
        return {child_id for child_id, entry in changes.items() if not _same(entry, present.get(child_id))}


async def confirm_gone(round: Round, member: Member) -> bool | None:
    """Whether the Lease of a member is unchanged since the member was judged, by a consistent read.

    Returns None if it can't be read, from which nothing follows. A Lease that no watch shows may exist without its
    labels. They are put back, for the next judgement.
    """
    name = lease_name(round.state.key[1], member.name)
    # Until it is read the children of a lost member are not placed elsewhere, so it is retried often.
    return await round.steps.attempt(
        f"lease {name} can't be read", lambda: _is_as_judged(round, member, name), None, longest=_SLICES_SECONDS
    )


async def _is_as_judged(round: Round, member: Member, name: str) -> bool:
    known = member.lease.lease if member.lease is not None else None
    hub, namespace = round.hub.metadata.name, round.hub.metadata.namespace
    try:
        lease = await round.client.get(LEASES, namespace, name)
    except NotFoundError:
        return _is_missed_as_judged(round, member, name)
    if lease.metadata.labels.get(LABEL_HUB) != hub:
        labels = {LABEL_HUB: hub, LABEL_HUB_UID: round.hub.metadata.uid}
        patch = {"metadata": {"labels": labels, "annotations": {LABEL_MEMBER: member.name}}}
        lease = await round.steps.attempt(
            f"lease {name} can't get its labels back", lambda: round.client.patch(LEASES, namespace, name, patch), lease
        )
    # The next judgement must use what was read, also if the label could not be put back.
    round.state.put_lease(lease, round.now())
    if lease.metadata.labels.get(LABEL_HUB) == hub:
        round.store.put("leases", lease)
    return lease.spec == known.spec if known is not None else not lease.spec.holder_identity


def _is_missed_as_judged(round: Round, member: Member, name: str) -> bool:
    """Whether the member was judged by the end of a Lease that is not there."""
    leases, known = round.state.leases, member.lease
    if leases.get(name) is not known:
        return False
    if known is None or name in leases.unwatched:
        return True
    # The watch has not shown the deletion yet. So it may have missed renewals too, and a new holder.
    spec = known.lease.spec
    seconds = spec.lease_duration_seconds or round.hub.spec.timeouts.lease_seconds
    leases.add_missing(member.name, spec.holder_identity or UNKNOWN_HOLDER, seconds, round.hub.metadata, round.now())
    return False


def _without_orders(plan: Plan) -> tuple[Plan, Mapping[str, Mapping[str, Assignment]]]:
    """The plan without the orders to hand over to entries that begin to wait with it, and these orders by member.

    A child that is ordered to hand over ends. Where no entry waits for its state, it would start again where it was.
    """
    orders: dict[str, dict[str, Assignment]] = {}
    for member, changes in plan.entries.items():
        for child_id, entry in changes.items():
            target = plan.entries.get(goes_to(entry), {}).get(child_id) if entry is not None else None
            if entry is not None and target is not None and target.wait:
                orders.setdefault(member, {})[child_id] = entry
    if not orders:
        return plan, orders
    entries = {
        member: {child_id: entry for child_id, entry in changes.items() if child_id not in orders.get(member, ())}
        for member, changes in plan.entries.items()
    }
    return msgspec.structs.replace(plan, entries=entries), orders


def _go_on(plan: Plan, ids: Set[str]) -> bool:
    """Whether another child than ``ids`` begins to wait with this plan, so that a round takes the next step for it."""
    return any(
        entry is not None and entry.wait and child_id not in ids
        for changes in plan.entries.values()
        for child_id, entry in changes.items()
    )


def _possible(orders: Mapping[str, Assignment], missing: Mapping[str, set[str]]) -> dict[str, Assignment]:
    """The orders whose target waits on record. ``missing``: the changes that are not, by member."""
    return {child_id: entry for child_id, entry in orders.items() if child_id not in missing[goes_to(entry)]}


def only_written(plan: Plan, missing: Mapping[str, set[str]]) -> Plan:
    """The plan without the changes in ``missing`` (by member), so that these have no Events and no move results."""
    ids = set[str]().union(*missing.values())
    if not ids:
        return plan
    entries = {
        member: {child_id: entry for child_id, entry in changes.items() if child_id not in missing.get(member, ())}
        for member, changes in plan.entries.items()
    }
    return msgspec.structs.replace(
        plan,
        entries={member: changes for member, changes in entries.items() if changes},
        moves=tuple(move for move in plan.moves if move.id not in ids),
        move_results={child_id: why for child_id, why in plan.move_results.items() if why or child_id not in ids},
    )


def _same(one: Assignment | None, other: Assignment | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(getattr(one, field) == getattr(other, field) for field in ("uid", "epoch", "role", "wait", "to"))


def _cant_write(member: str) -> str:
    return f"the slices of member {member} can't be written"


def _taken_from(member: Member, changes: Mapping[str, Assignment | None]) -> set[str]:
    """The ids that a member which runs nothing now loses, or for which it loses the active role."""
    if member.phase is Phase.GONE:
        taken = {child_id for child_id, entry in changes.items() if entry is None}
    elif member.judgement.restarting:
        taken = set()
    else:
        return set()
    for known in member.slices:
        for child_id in known.assignments.keys() & changes.keys():
            entry = changes[child_id]
            if entry is not None and entry.role == Role.PASSIVE and known.assignments[child_id].role == Role.ACTIVE:
                taken.add(child_id)
    return taken


def _without(changes: Mapping[str, Assignment | None], withheld: set[str]) -> Mapping[str, Assignment | None]:
    if not withheld:
        return changes
    return {child_id: entry for child_id, entry in changes.items() if entry is None or child_id not in withheld}


def workload_texts(observation: Observation) -> dict[str, str]:
    """The JSON of every workload that an entry may name, by hash."""
    texts = {known.wanted.workload: known.workload for known in observation.chosen.values()}
    texts.update((seen.known.digest, seen.known.workload) for seen in observation.sets.values())
    texts.update(observation.workloads)
    for member in observation.members.values():
        for known_slice in member.slices:
            texts.update(known_slice.present.spec.workloads)
    return texts
