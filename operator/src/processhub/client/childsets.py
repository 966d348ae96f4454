"""Finds the ChildSet that a child belongs to. Such a child has no Child object."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.childset import ChildSet
from processhub.client.errors import ChildError, ClientReason
from processhub.client.session import Session
from processhub.cluster.decoding import Undecodable
from processhub.cluster.kinds import CHILD_SETS


async def list_sets(session: Session) -> list[ChildSet]:
    """The hub's ChildSets, the oldest first. Raises ApiError."""
    items, _ = await session.client.list(CHILD_SETS, session.namespace, fields=f"spec.hub={session.name}")
    return sorted(
        (item for item in items if not isinstance(item, Undecodable)),
        key=lambda item: (item.metadata.creation_timestamp or "", item.metadata.uid),
    )


def owner_among(sets: Iterable[ChildSet], session: Session, child_id: str) -> ChildSet | None:
    """The ChildSet that the child belongs to, or None.

    An id on record belongs to the object with the uid on record, any other id to the first set that contains it.
    """
    record = session.registry.records.get(child_id)
    if record is not None:
        return next((item for item in sets if item.metadata.uid == record.uid), None)
    return next((item for item in sets if item.has(child_id)), None)


async def find_owner(session: Session, child_id: str) -> ChildSet | None:
    """The ChildSet that the child belongs to, or None. Raises ApiError."""
    return owner_among(await list_sets(session), session, child_id)


def not_stopped(owner: ChildSet) -> ChildError:
    """The error for stopping a single child of a set, with what to do instead."""
    name = owner.metadata.name
    if owner.spec.replicas is None:
        instead = "remove it from its spec.ids"
    else:
        instead = f"scale it down (kubectl scale childset/{name} --replicas=N)"
    return ChildError(ClientReason.CHILD_SET, f"belongs to childset/{name}; {instead}, or delete the ChildSet")
