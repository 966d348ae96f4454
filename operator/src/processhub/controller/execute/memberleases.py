"""The members' Leases and slices: Leases are created before members need them, and both deleted when members are gone.

Slices are created where entries are written (slicewriter.py), and are deleted too when they have become empty.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

import msgspec

from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease
from processhub.api.naming import lease_name, member_ordinal
from processhub.cluster.errors import AlreadyExistsError, ConflictError, NotFoundError
from processhub.cluster.kinds import LEASES, SLICES
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.objects.registry import new_lease
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.activation import ViewPhase
from processhub.core.model.membership import Phase

log = logging.getLogger(__name__)


async def make_leases(round: Round, members: Mapping[str, Member]) -> None:
    """Create a Lease for each member that is wanted, before its pod may need it.

    A deleted Lease is created as it was, because its holder keeps running and renews it. A Lease without its labels
    gets them back.
    """
    for member in members.values():
        name = lease_name(round.hub.metadata.name, member.name)
        known = round.state.leases.get(name)
        if not member.wanted or (known is not None and name not in round.state.leases.unwatched):
            continue
        lease = new_lease(round.hub, member.name)
        if known is not None:
            lease = msgspec.structs.replace(lease, spec=known.lease.spec)
        await round.steps.take(f"lease {name} can't be made", partial(_make_lease, round, lease))


async def _make_lease(round: Round, lease: Lease) -> None:
    namespace, metadata = round.hub.metadata.namespace, lease.metadata
    try:
        stored: Lease = await round.client.create(LEASES, namespace, lease)
    except AlreadyExistsError:
        marks = {"labels": metadata.labels, "annotations": metadata.annotations}
        stored = await round.client.patch(LEASES, namespace, metadata.name, {"metadata": marks})
    round.store.put("leases", stored)


async def retire(round: Round, memory: ExecuteMemory, members: Mapping[str, Member], replicas: int) -> None:
    """Delete the slices and Leases of members that are gone for good, and slices that have become empty.

    ``replicas``: the size of the StatefulSet. It makes a pod below that again, whether its member is wanted or not.
    """
    for member in members.values():
        gone = not member.wanted and member.phase is Phase.GONE and member.pod is None
        gone = gone and not _comes_back(round.hub, member.name, replicas)
        for known in member.slices:
            present, name = known.present, known.present.metadata.name
            empty = not present.spec.entries and not known.unproven and not known.uncertain
            acknowledged = known.acknowledged_by(member.holder) and not present.status.reports
            # An agent starts by slice 0. A creation without an answer may still be stored while its name is free.
            kept = (known.index == 0 and len(member.slices) > 1) or name in memory.unconfirmed_slices
            # A member that comes back may start children by it until it has read that the view closes.
            order = present.spec.order
            kept = kept or (order is not None and order.phase == ViewPhase.OPEN)
            if not kept and ((gone and not present.spec.entries) or (known.index > 0 and empty and acknowledged)):
                await round.steps.take(f"slice {name} can't be deleted", partial(_delete_slice, round, known))
        # Its slices and its Pod may have been deleted while it runs. Without a Lease it would count as gone.
        lease = round.state.leases.of_member(member.name)
        if gone and not member.slices and lease is not None:
            what = f"lease {lease.lease.metadata.name} can't be deleted"
            await round.steps.take(what, partial(_delete_lease, round, lease.lease))


def _comes_back(hub: Hub, name: str, replicas: int) -> bool:
    ordinal = member_ordinal(hub.metadata.name, name) if hub.spec.members.mode == "Replicas" else None
    return ordinal is not None and ordinal < replicas


async def _delete_slice(round: Round, known: KnownSlice) -> None:
    """Delete an empty slice, unless it has changed."""
    metadata = known.present.metadata
    try:
        await round.client.delete(SLICES, *metadata.key, uid=metadata.uid, resource_version=metadata.resource_version)
    except (NotFoundError, ConflictError) as error:
        log.debug("slice %s not deleted, looking again: %s", metadata.name, error.message)


async def _delete_lease(round: Round, lease: Lease) -> None:
    """Delete the Lease of a member that is gone for good, unless it has changed. Forget one that was never read."""
    metadata = lease.metadata
    if not metadata.uid:
        round.state.leases.forget(metadata.name)
        return
    try:
        await round.client.delete(LEASES, *metadata.key, uid=metadata.uid, resource_version=metadata.resource_version)
    except NotFoundError:
        log.debug("lease %s is gone already", metadata.name)
    except ConflictError:
        return  # Somebody writes it.
    round.state.leases.forget(metadata.name)
