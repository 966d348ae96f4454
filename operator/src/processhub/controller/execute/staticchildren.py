"""Static children: each entry of spec.children becomes a Child that the Hub controls. Without its entry it is deleted.

A Child that has the Hub as an owner only, so that it goes with the Hub, is its user's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Any

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION
from processhub.api.naming import (
    ANNOTATION_CHILD_ID,
    LABEL_CHILD,
    LABEL_HUB,
    LABEL_HUB_UID,
    child_object_names,
    id_hash,
)
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import AlreadyExistsError, ConflictError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.controller.concurrency import gather_all
from processhub.controller.errors import NameConflictError
from processhub.controller.execute.earlierhubs import check_absent, earlier_uid, take_over
from processhub.controller.objects.owned import owner_reference, selector_labels
from processhub.controller.rounds.round import Round
from processhub.controller.store.children import AdmittedSpec, is_carried_out, marks_of

_LOOK_AGAIN_SECONDS = 0.2  # After a Child has changed that was about to be taken over.
log = logging.getLogger(__name__)


async def sync_static_children(round: Round) -> None:
    """Create, change and delete static Children so that they equal the Hub's spec. Each is a step of its own.

    Those of an earlier Hub of this name are taken over first, and are then treated like the Hub's own.
    """
    hub, state, steps = round.hub, round.state, round.steps
    await _take_over(round)
    marked = [state.children[name].child for name in sorted(state.children.marked)]
    owned = [child for child in marked if child.metadata.controlled_by(hub.metadata.uid)]
    name = hub.metadata.name
    desired = {entry.id: msgspec.structs.replace(entry, hub=name) for entry in hub.spec.children if entry.id}
    kept = {child.id: child for child in owned if child.id in desired}
    work = []
    for child_id, spec in desired.items():
        child = kept.get(child_id)
        if child is None:
            what, done = f"static child {child_id!r} can't be made", partial(_create, round, spec)
        elif not is_carried_out(child, spec, state.children.admitted):
            what = f"static child {child_id!r} can't be changed to what spec.children says"
            done = partial(_replace, round, child, spec)
        else:
            continue
        work.append(steps.take(what, done, about=child))
    for child in owned:
        if kept.get(child.id) is not child and child.metadata.deletion_timestamp is None:
            what = f"child {child.id!r}, which spec.children no longer has, can't be deleted"
            work.append(steps.take(what, partial(_delete, round, child), about=child))
    await gather_all(*work)


async def _take_over(round: Round) -> None:
    """Take over the static Children of an earlier Hub of this name, and give the Hub's own their marks back."""
    work, hub, children = [], round.hub, round.state.children
    desired = {entry.id for entry in hub.spec.children}
    for name in sorted(children.marked):
        child, metadata = children[name].child, children[name].metadata
        if metadata.deletion_timestamp is not None:
            continue
        if uid := earlier_uid(hub, metadata):
            work.append(_mark(round, child, uid))
        elif _is_own(hub, child, desired) and not _has_marks(round, child):
            work.append(_mark(round, child, ""))
    await gather_all(*work)


def _is_own(hub: Hub, child: Child, desired: Collection[str]) -> bool:
    """Whether the Hub has made the Child. If it has lost its owner, its labels and its name say so."""
    metadata, uid = child.metadata, hub.metadata.uid
    if metadata.controlled_by(uid):
        return True
    if child.id not in desired or any(owner.controller for owner in metadata.owner_references):
        return False
    by_labels = (metadata.labels.get(LABEL_HUB), metadata.labels.get(LABEL_HUB_UID)) == (hub.metadata.name, uid)
    return by_labels and metadata.name in child_object_names(hub.metadata.name, child.id)


def _has_marks(round: Round, child: Child) -> bool:
    """Whether the Child has the marks of a static Child, or what became of them when they were written."""
    labels, annotations = _marks(round.hub, child.id)
    admitted = round.state.children.admitted_marks.get(child.metadata.name)
    return child.metadata.controlled_by(round.hub.metadata.uid) and marks_of(child) in (labels | annotations, admitted)


async def _mark(round: Round, child: Child, uid: str) -> None:
    async def mark() -> None:
        if uid:
            await check_absent(round, uid)
        labels, annotations = _marks(round.hub, child.id)
        try:
            stored = await take_over(round, CHILDREN, child.metadata, labels, annotations)
            round.state.children.admitted_marks[stored.metadata.name] = marks_of(stored)
        except (NotFoundError, ConflictError) as error:
            log.info("static child %s has changed, looking again: %s", child.metadata.name, error.message)
            round.again_in(_LOOK_AGAIN_SECONDS)

    await round.steps.take(f"static child {child.id!r} can't be marked as this hub's", mark, about=child)


def _taken(child: Child) -> NameConflictError:
    """Why no static child can be made beside this Child."""
    title = f"child/{child.metadata.name}"
    if child.metadata.deletion_timestamp:
        return NameConflictError(f"{title} is still being deleted; made when it is gone")
    return NameConflictError(
        f"{title} has this id and was not made by the hub; delete it, or give the entry another id"
    )


async def _create(round: Round, spec: ChildSpec) -> None:
    """Create the static child, under its second name if another child has the first. Raises NameConflictError."""
    namespace, names = round.hub.metadata.namespace, child_object_names(round.hub.metadata.name, spec.id)
    for name in names:
        try:
            child = await round.client.create(CHILDREN, namespace, _manifest(round.hub, name, spec))
        except AlreadyExistsError:
            child = await round.client.get(CHILDREN, namespace, name)
            if (child.spec.hub, child.id) != (spec.hub, spec.id):
                continue
            if not child.metadata.controlled_by(round.hub.metadata.uid):
                raise _taken(child) from None
            round.store.put("children", child)
            return
        _take_stored(round, child, spec)
        return
    taken = " and ".join(f"child/{name}" for name in names)
    raise NameConflictError(f"{taken} exist and have another id or hub; delete or rename one")


def _marks(hub: Hub, child_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """The labels and annotations of a static Child."""
    labels = {**selector_labels(hub), LABEL_HUB_UID: hub.metadata.uid, LABEL_CHILD: id_hash(child_id)}
    return labels, {ANNOTATION_CHILD_ID: child_id}


def _manifest(hub: Hub, name: str, spec: ChildSpec) -> dict[str, Any]:
    labels, annotations = _marks(hub, spec.id)
    return {
        "apiVersion": API_VERSION,
        "kind": "Child",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner_reference(hub)],
        },
        "spec": spec,
    }


async def _replace(round: Round, child: Child, spec: ChildSpec) -> None:
    metadata = child.metadata
    try:
        stored = await round.client.patch(
            CHILDREN,
            metadata.namespace,
            metadata.name,
            [
                {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
                {"op": "replace", "path": "/spec", "value": spec},
            ],
            content_type=JSON_PATCH,
        )
        _take_stored(round, stored, spec)
    except (NotFoundError, ConflictError) as error:
        log.info("static child %s not changed, looking again: %s", metadata.name, error.message)


def _take_stored(round: Round, stored: Child, spec: ChildSpec) -> None:
    """Take what was stored for a spec. A mutating webhook may have changed it, and would do so with each write."""
    round.store.put("children", stored)
    round.state.children.admitted[stored.metadata.name] = AdmittedSpec(spec, stored.spec)
    round.state.children.admitted_marks[stored.metadata.name] = marks_of(stored)


async def _delete(round: Round, child: Child) -> None:
    metadata = child.metadata
    try:
        await round.client.delete(CHILDREN, metadata.namespace, metadata.name, uid=metadata.uid)
    except (NotFoundError, ConflictError) as error:
        log.info("static child %s is gone already: %s", metadata.name, error.message)
