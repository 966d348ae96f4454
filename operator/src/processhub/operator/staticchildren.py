"""Static children: each entry of spec.children becomes a Child object owned by the Hub; a removed entry stops it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_CHILD, LABEL_HUB, LABEL_NAME, child_object_name, id_hash
from processhub.cluster.client import Client
from processhub.cluster.errors import AlreadyExistsError, ConflictError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.operator.hubstate import HubState
from processhub.operator.objects.owned import owner_reference
from processhub.operator.store import Store
from processhub.operator.together import together

log = logging.getLogger(__name__)


async def sync_static_children(client: Client, store: Store, hub: Hub, state: HubState) -> None:
    """Create, change and delete the Hub's static Children so that they equal its spec."""
    owned = {
        known.child.metadata.name: known.child
        for known in state.children.values()
        if known.child.metadata.owned_by(hub.metadata.uid)
    }
    desired = {child_object_name(entry.id): _spec(hub, entry) for entry in hub.spec.children if entry.id}
    work = []
    for name, spec in desired.items():
        if name not in owned:
            if name not in state.children:
                work.append(_create(client, store, hub, name, spec))
        elif owned[name].spec != spec:
            work.append(_replace(client, store, owned[name], spec))
    work += [_delete(client, child) for name, child in owned.items() if name not in desired]
    await together(*work)


def _spec(hub: Hub, entry: ChildSpec) -> ChildSpec:
    return msgspec.structs.replace(entry, hub=hub.metadata.name)


async def _create(client: Client, store: Store, hub: Hub, name: str, spec: ChildSpec) -> None:
    manifest: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Child",
        "metadata": {
            "name": name,
            "labels": {LABEL_NAME: "processhub", LABEL_HUB: hub.metadata.name, LABEL_CHILD: id_hash(spec.id)},
            "annotations": {ANNOTATION_CHILD_ID: spec.id},
            "ownerReferences": [owner_reference(hub)],
        },
        "spec": spec,
    }
    try:
        store.put("children", await client.create(CHILDREN, hub.metadata.namespace, manifest))
    except AlreadyExistsError:
        log.warning("static child %r of hub %s: child/%s is there and not the hub's", spec.id, hub.metadata.name, name)


async def _replace(client: Client, store: Store, child: Any, spec: ChildSpec) -> None:
    metadata = child.metadata
    try:
        stored = await client.patch(
            CHILDREN,
            metadata.namespace,
            metadata.name,
            [
                {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
                {"op": "replace", "path": "/spec", "value": spec},
            ],
            content_type="application/json-patch+json",
        )
        store.put("children", stored)
    except (NotFoundError, ConflictError) as error:
        log.info("static child %s not changed, looking again: %s", metadata.name, error.message)


async def _delete(client: Client, child: Any) -> None:
    metadata = child.metadata
    try:
        await client.delete(CHILDREN, metadata.namespace, metadata.name, uid=metadata.uid)
    except (NotFoundError, ConflictError) as error:
        log.info("static child %s is gone already: %s", metadata.name, error.message)
