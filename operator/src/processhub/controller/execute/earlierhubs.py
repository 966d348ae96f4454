"""What an earlier Hub of the same name has left: it is removed or taken over (docs/protocol.md, rule 14).

Garbage collection deletes the objects of a deleted Hub by their owner references. It leaves those that have lost their
owner: objects that were restored from a backup, or orphaned when the Hub was deleted. They name the uid of a Hub that
the API server does not have, and that can't come back.

Children of the earlier Hub may still run, so the order is this:

1. Its StatefulSet or DaemonSet is deleted, and the Pods of its members.
2. When no such Pod is left, its member Leases are awaited: each must be released, or expire.
3. Its slices and Leases are deleted. Only then is anything made for the present Hub.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from processhub.api.hub import Hub
from processhub.api.meta import GROUP, ObjectMeta, OwnerReference
from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import HUBS, LEASES, PODS, SLICES, Kind
from processhub.controller.errors import DeposedError, NameConflictError
from processhub.controller.objects.owned import owner_reference
from processhub.controller.rounds.round import Round
from processhub.controller.store.leases import hub_of_lease, over_in
from processhub.controller.store.ownedwatch import OWNED_KINDS

WORKLOADS = {name: OWNED_KINDS[name] for name in ("StatefulSet", "DaemonSet")}
_LOOK_AGAIN_SECONDS = 1.0
T = TypeVar("T")
Marks = Mapping[str, str]
_NONE: Marks = MappingProxyType({})
log = logging.getLogger(__name__)


def earlier_uid(hub: Hub, metadata: ObjectMeta) -> str:
    """The uid of the earlier Hub of this name that the object belonged to, or "" if it did not belong to one.

    The owner reference decides. Without one the labels do, unless another object controls this one.
    """
    if metadata.owned_by(hub.metadata.uid):
        return ""
    for owner in metadata.owner_references:
        if _is_hub(owner, hub):
            return owner.uid
    if any(owner.controller for owner in metadata.owner_references):
        return ""
    uid = metadata.labels.get(LABEL_HUB_UID, "") if metadata.labels.get(LABEL_HUB) == hub.metadata.name else ""
    return uid if uid != hub.metadata.uid else ""


async def check_absent(round: Round, uid: str) -> None:
    """Check by a consistent read that this Hub exists, and none with that ``uid``. Raises ApiError, NameConflictError.

    No uid is given twice, so an object that named ``uid`` before this read belongs to no Hub any more. A leader that
    was deposed, and knows a deleted Hub only, changes nothing of its successor's.
    """
    metadata = round.hub.metadata
    found, _ = await round.client.list(HUBS, metadata.namespace)
    uids = {item.metadata.uid for item in found}
    if metadata.uid not in uids:
        raise NameConflictError(f"hub {metadata.name} was deleted meanwhile")
    if uid in uids:
        raise NameConflictError(f"an object with the name of one of this hub's is of another hub, with uid {uid}")


async def take_over(
    round: Round, kind: Kind[T], metadata: ObjectMeta, labels: Marks = _NONE, annotations: Marks = _NONE
) -> T:
    """Make the object one of this Hub's, with these marks; returns it. The caller has checked that no other Hub has it.

    Raises ApiError; ConflictError if the object has changed since it was read.
    """
    patch = {
        "uid": metadata.uid,
        "resourceVersion": metadata.resource_version,
        "labels": {**labels, LABEL_HUB: round.hub.metadata.name, LABEL_HUB_UID: round.hub.metadata.uid},
        "annotations": dict(annotations),
        "ownerReferences": [
            *(owner for owner in metadata.owner_references if not _is_hub(owner, round.hub)),
            owner_reference(round.hub),
        ],
    }
    namespace, name = metadata.key
    stored = await round.client.patch(kind, namespace, name, {"metadata": patch})
    for informer in round.store.informer_of(kind.plural, namespace):
        informer.put(stored)
    log.info("%s %s/%s is marked as this hub's", kind.plural, namespace, name)
    return stored


async def delete(round: Round, kind: Kind[Any], metadata: ObjectMeta) -> bool:
    """Delete an object of an earlier Hub, unless it has changed; returns whether there is none any more.

    The caller has checked that this Hub is absent.
    """
    if metadata.deletion_timestamp is not None:
        return False
    namespace, name = metadata.key
    # The kubelet writes a Pod's status all the time.
    version = None if kind is PODS else metadata.resource_version
    try:
        await round.client.delete(kind, namespace, name, uid=metadata.uid, resource_version=version)
    except (NotFoundError, ConflictError) as error:
        log.debug("%s %s/%s is gone or has changed: %s", kind.plural, namespace, name, error.message)
        return isinstance(error, NotFoundError)
    log.info("%s %s/%s of an earlier hub of this name is deleted", kind.plural, namespace, name)
    return False


async def remove_leftovers(round: Round) -> None:
    """Remove what an earlier Hub of this name has left, as far as the order allows now.

    Raises DeposedError if a slice of it has a higher term than this leader: epochs must rise, so another leader has to
    begin, with a term above that one.
    """
    state = round.state
    pods, leases, slices = state.leftover_pods(), state.leases.older, state.slices.older
    if not (pods or leases or slices):
        return
    term = max((item.spec.term for item in slices.values()), default=0)
    if term > round.term:
        raise DeposedError(f"slices of an earlier hub {round.hub.metadata.name} have the higher term {term}")
    await round.steps.take("what an earlier hub of this name has left can't be removed", lambda: _remove(round))
    round.again_in(_LOOK_AGAIN_SECONDS)


async def _remove(round: Round) -> None:
    state, now = round.state, round.now()
    absent: set[str] = set()

    async def remove(kind: Kind[Any], metadata: ObjectMeta, uid: str) -> bool:
        if uid not in absent:
            await check_absent(round, uid)
            absent.add(uid)
        return await delete(round, kind, metadata)

    pods = state.leftover_pods()
    for kind in WORKLOADS.values():
        try:
            item = await round.client.get(kind, *round.hub.metadata.key)
        except NotFoundError:
            continue
        if uid := earlier_uid(round.hub, item.metadata):
            await remove(kind, item.metadata, uid)
    for pod in pods:
        await remove(PODS, pod.metadata, pod.metadata.labels[LABEL_HUB_UID])
    leases, slices = list(state.leases.older.values()), list(state.slices.older.values())
    observed = round.store.leases_observed(round.hub.metadata.namespace, now)
    seconds = round.hub.spec.timeouts.lease_seconds
    if pods or any(over_in(known, now, seconds, observed=observed) > 0 for known in leases):
        return
    for older in slices:
        await remove(SLICES, older.metadata, older.spec.hub_uid)
    for known in leases:
        metadata = known.lease.metadata
        # One that was deleted before its Hub was is still known, and no watch will report its end.
        if (uid := hub_of_lease(known.lease, round.hub.metadata.name)) and await remove(LEASES, metadata, uid):
            state.leases.older.pop(metadata.name, None)
            round.again_in(0.0)


def _is_hub(owner: OwnerReference, hub: Hub) -> bool:
    named = (owner.kind, owner.name) == (hub.kind, hub.metadata.name)
    return named and owner.api_version.startswith(f"{GROUP}/")
