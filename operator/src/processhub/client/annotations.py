"""Changes annotations of an object that others write too: each change is made to the object as it was read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.client.errors import HubNotFound, Timeout
from processhub.client.session import Session
from processhub.client.writes import retried, with_retries
from processhub.cluster.errors import ApiError, ConflictError, NotFoundError
from processhub.cluster.kinds import HUBS, Kind

_ATTEMPTS = 20  # each may conflict with another write of the object, including that of its status
_PAUSE_SECONDS = 0.05
Annotated = TypeVar("Annotated", ChildSet, Hub)
Annotations = Mapping[str, str | None]  # None: none of that name


async def change_annotations(
    session: Session, kind: Kind[Annotated], name: str, change: Callable[[Annotated], Annotations]
) -> tuple[Annotated, bool]:
    """Write the annotations that ``change`` makes of the object; returns it as stored, and whether that changed it.

    If another write comes first, the change is made again. An edit that is stored and not answered is found again, so
    it is not made twice, and is no error. Raises HubNotFound, Timeout, ApiError.
    """
    unanswered: list[Annotations] = []  # What was written without an answer: it may be stored.
    for _ in range(_ATTEMPTS):
        try:
            now = await with_retries(lambda: session.client.get(kind, session.namespace, name), reads=True)
        except NotFoundError as error:
            if kind is not HUBS:
                raise
            raise HubNotFound(f"hub {name} in namespace {session.namespace} was deleted") from error
        if any(_has(now, written) for written in unanswered):
            return now, True
        changed = change(now)
        if _has(now, changed):
            return now, bool(unanswered)  # another write came after the one without an answer
        version = {"uid": now.metadata.uid, "resourceVersion": now.metadata.resource_version}
        patch = {"metadata": {**version, "annotations": dict(changed)}}
        write = partial(_write, session, kind, name, patch, partial(unanswered.append, changed))
        try:
            # It may be sent again without an answer: what is stored has another resourceVersion.
            return await retried(write, lambda error: error.outcome_unknown), True
        except ConflictError:
            await asyncio.sleep(_PAUSE_SECONDS)  # the object was written after it was read
    raise Timeout(
        f"{kind.type.__name__.lower()} {name} is edited too often: its annotations could not be changed in "
        f"{_ATTEMPTS} attempts"
    )


async def _write(
    session: Session, kind: Kind[Annotated], name: str, patch: object, unanswered: Callable[[], None]
) -> Annotated:
    try:
        return await session.client.patch(kind, session.namespace, name, patch)
    except ApiError as error:
        if error.outcome_unknown:
            unanswered()
        raise


def _has(item: Hub | ChildSet, annotations: Annotations) -> bool:
    return all(item.metadata.annotations.get(key) == value for key, value in annotations.items())
