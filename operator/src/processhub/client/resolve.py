"""Finds the object of an id: its Child, whatever its name, or the ChildSet that it belongs to without a Child."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.naming import child_object_name
from processhub.client.demand import outlook
from processhub.client.errors import ChildError, ClientReason
from processhub.client.session import Session
from processhub.client.writes import each, with_retries
from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import CHILD_SETS, CHILDREN

_FEW = 100


async def list_children(session: Session) -> list[Child]:
    """All Child objects of the hub. Raises ApiError."""
    items, _ = await session.client.list(CHILDREN, session.namespace, fields=f"spec.hub={session.name}")
    return [item for item in items if not isinstance(item, Undecodable)]


async def find_children(session: Session, ids: Iterable[str]) -> dict[str, Child]:
    """The Child objects of these ids, for those that have one.

    If several objects have one id, it is the one on record, else the oldest. Raises ApiError.

    Clients derive an object's name from the id, so a get finds what they created. A list is needed for objects with
    other names, and is cheaper for many ids.
    """
    wanted = tuple(ids)
    found: dict[str, Child] = {}
    elsewhere: set[str] = set(wanted) if len(wanted) > _FEW else set()

    async def look(child_id: str) -> None:
        try:
            child = await with_retries(
                lambda: session.client.get(CHILDREN, session.namespace, child_object_name(child_id))
            )
        except NotFoundError:
            elsewhere.add(child_id)
            return
        record = session.registry.records.get(child_id)
        mine = child.spec.hub == session.name and child.id == child_id
        if mine and (record is None or record.uid == child.metadata.uid):
            found[child_id] = child
        else:
            elsewhere.add(child_id)

    await each((child_id for child_id in wanted if child_id not in elsewhere), look)
    if elsewhere:
        named: dict[str, list[Child]] = {}
        for child in await list_children(session):
            if child.id in elsewhere:
                named.setdefault(child.id, []).append(child)
        found.update({child_id: _owner(session, child_id, children) for child_id, children in named.items()})
    return found


async def no_child(session: Session, child_id: str) -> str:
    """The message that the hub has no child of this id, and what is known of the id. Raises ApiError."""
    would = outlook(session, child_id)
    known = (await named_like(session, child_id), would.says if would is not None else "")
    said = (f"no child {child_id!r} in hub {session.name} of namespace {session.namespace}", *known)
    return "; ".join(part for part in said if part)


async def named_like(session: Session, child_id: str) -> str:
    """What the Child object is whose name was given for an id, as a clause; "" if there is none. Raises ApiError."""
    if child_object_name(child_id) != child_id:
        return ""
    try:
        return (await session.client.get(CHILDREN, session.namespace, child_id)).known_as(session.name)
    except NotFoundError:
        return ""


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


def _owner(session: Session, child_id: str, children: list[Child]) -> Child:
    record = session.registry.records.get(child_id)
    on_record = record.uid if record else ""
    return min(
        children,
        key=lambda child: (
            child.metadata.uid != on_record,
            child.metadata.creation_timestamp or "",
            child.metadata.uid,
        ),
    )
