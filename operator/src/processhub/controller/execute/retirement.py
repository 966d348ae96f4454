"""Deletion of slices and Leases of members that are gone for good, and of empty slices."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import SLICES
from processhub.controller.execute.memberleases import delete_lease
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.activation import ViewPhase
from processhub.core.model.membership import Phase

log = logging.getLogger(__name__)


async def retire(round: Round, memory: ExecuteMemory, members: Mapping[str, Member]) -> None:
    """Delete the slices and Leases of members that are gone for good, and slices that have become empty."""
    for member in members.values():
        for known in member.slices:
            present, name = known.present, known.present.metadata.name
            empty = not present.spec.entries and not known.unproven and not known.uncertain
            acknowledged = known.acknowledged_by(member.holder) and not present.status.reports
            retired = not member.wanted and member.phase is Phase.GONE and member.pod is None
            # An agent starts by slice 0. A creation without an answer may still be stored while its name is free.
            kept = (known.index == 0 and len(member.slices) > 1) or name in memory.unconfirmed_slices
            # A member that comes back may start children by it until it has read that the view closes.
            order = present.spec.order
            kept = kept or (order is not None and order.phase == ViewPhase.OPEN)
            if not kept and ((retired and not present.spec.entries) or (known.index > 0 and empty and acknowledged)):
                await round.steps.take(f"slice {name} can't be deleted", partial(_delete_slice, round, known))
        # Its slices and its Pod may have been deleted while it runs. Without a Lease it would count as gone.
        gone = not member.wanted and member.phase is Phase.GONE and member.pod is None and not member.slices
        lease = round.state.leases.of_member(member.name)
        if gone and lease is not None:
            what = f"lease {lease.lease.metadata.name} can't be deleted"
            await round.steps.take(what, partial(delete_lease, round, lease.lease))


async def _delete_slice(round: Round, known: KnownSlice) -> None:
    """Delete an empty slice, unless it has changed."""
    metadata = known.present.metadata
    try:
        await round.client.delete(
            SLICES, metadata.namespace, metadata.name, uid=metadata.uid, resource_version=metadata.resource_version
        )
    except (NotFoundError, ConflictError) as error:
        log.debug("slice %s not deleted, looking again: %s", metadata.name, error.message)
