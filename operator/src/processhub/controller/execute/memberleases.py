"""The members' Leases: created before the members need them, deleted when the members are gone for good."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

import msgspec

from processhub.api.kubernetes import Lease
from processhub.api.naming import lease_name
from processhub.cluster.errors import AlreadyExistsError, ConflictError, NotFoundError
from processhub.cluster.kinds import LEASES
from processhub.controller.objects.registry import new_lease
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round

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


async def delete_lease(round: Round, lease: Lease) -> None:
    """Delete the Lease of a member that is gone for good, unless it has changed. Forget one that was never read."""
    metadata = lease.metadata
    if not metadata.uid:
        round.state.leases.forget(metadata.name)
        return
    try:
        await round.client.delete(
            LEASES, metadata.namespace, metadata.name, uid=metadata.uid, resource_version=metadata.resource_version
        )
    except NotFoundError:
        log.debug("lease %s is gone already", metadata.name)
    except ConflictError:
        return  # Somebody writes it.
    round.state.leases.forget(metadata.name)
