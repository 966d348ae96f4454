"""Changes annotations of an object that others write too: each change is made to the object as it was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.client.errors import HubError
from processhub.client.session import Session
from processhub.client.writes import with_retries
from processhub.cluster.errors import ConflictError
from processhub.cluster.kinds import Kind

_ATTEMPTS = 10
Annotated = TypeVar("Annotated", ChildSet, Hub)
Annotations = Mapping[str, str | None]  # None: none of that name


async def change_annotations(
    session: Session, kind: Kind[Annotated], name: str, change: Callable[[Mapping[str, str]], Annotations]
) -> Annotated | None:
    """Write the annotations that ``change`` makes of those that are there; returns the object, None if nothing differs.

    If another write comes first, the change is made again. Raises HubError, ApiError.
    """
    for _ in range(_ATTEMPTS):
        now = await with_retries(lambda: session.client.get(kind, session.namespace, name))
        metadata = now.metadata
        changed = change(metadata.annotations)
        if all(metadata.annotations.get(key) == value for key, value in changed.items()):
            return None
        version = {"uid": metadata.uid, "resourceVersion": metadata.resource_version}
        patch = {"metadata": {**version, "annotations": dict(changed)}}
        try:
            return await session.client.patch(kind, session.namespace, name, patch)
        except ConflictError:
            continue  # it was written after it was read: its status, or another order
    raise HubError(f"{kind.type.__name__.lower()} {name} changes too quickly; try again")
