"""Carry a plan out, in the order that keeps its promises.

1. Members that are gone lose their entries, and those that restart the active role of theirs.
2. Their Leases are read live: one that was taken or renewed meanwhile may have started from what it read before,
   so its children are not given to others until it has acknowledged (PROTOCOL.md 7, 10, 11).
3. All other changes, member by member at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER, lease_name
from processhub.api.reasons import Role
from processhub.api.slice import Assignment
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import LEASES
from processhub.core.membership import Phase
from processhub.core.plan import Plan
from processhub.operator.members import Member
from processhub.operator.observe import Observation
from processhub.operator.slicewriter import SliceWriter
from processhub.operator.store import Store
from processhub.operator.together import together

log = logging.getLogger(__name__)


class Executor:
    """Carries one plan out."""

    def __init__(self, client: Client, store: Store, writer: SliceWriter) -> None:
        self._client, self._store, self._writer = client, store, writer

    async def execute(self, observation: Observation, plan: Plan, workloads: Mapping[str, str]) -> bool:
        """Write what the plan changes; whether all of it could be tried."""
        members = observation.members
        taken = {name: _taken_from(member, plan.entries.get(name, {})) for name, member in members.items()}
        gone = [member for name, member in members.items() if taken[name]]
        joining = {view.name: view.joining for view in observation.snapshot.members} | dict(plan.joining)
        withheld: set[str] = set()
        for member in gone:
            removed = taken[member.name]
            changes = {child_id: plan.entries[member.name][child_id] for child_id in removed}
            await self._writer.write(member, changes, workloads, joining[member.name])
            if not await self.still_gone(member):
                log.warning("member %s came back while its children were to be moved", member.name)
                withheld |= removed
            # A write that failed or was held back by the rate limit left entries standing: they may be run yet.
            withheld |= {
                child_id
                for known in member.slices
                for child_id in known.assignments.keys() & removed
                if known.assignments[child_id].role == Role.ACTIVE
            }
        left = {
            name: {child_id: entry for child_id, entry in entries.items() if child_id not in taken[name]}
            for name, entries in plan.entries.items()
        }
        await together(
            *(
                self._writer.write(member, _without(left.get(name, {}), withheld), workloads, joining[name])
                for name, member in members.items()
                if (left.get(name) or not taken[name]) and (member.wanted or member.slices)
            )
        )
        return not withheld

    async def still_gone(self, member: Member) -> bool:
        """Whether the Lease of a member with slices is, by a consistent read, as it was when it was judged.

        One that no watch tells of may be there without its labels. It gets them back, for the next judgement.
        """
        known = member.lease.lease if member.lease is not None else None
        entries = member.slices[0].present
        hub, namespace, name = entries.spec.hub, entries.metadata.namespace, lease_name(entries.spec.hub, member.name)
        try:
            lease = await self._client.get(LEASES, namespace, name)
            if LABEL_HUB not in lease.metadata.labels:
                labels = {LABEL_HUB: hub, LABEL_HUB_UID: entries.spec.hub_uid}
                marks = {"labels": labels, "annotations": {LABEL_MEMBER: member.name}}
                lease = await self._client.patch(LEASES, namespace, name, {"metadata": marks})
        except NotFoundError:
            return True
        self._store.put("leases", lease)
        return lease.spec == known.spec if known is not None else not lease.spec.holder_identity


def _taken_from(member: Member, changes: Mapping[str, Assignment | None]) -> set[str]:
    """The ids that a member which runs nothing now loses, or may be active for no more when it is back."""
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
