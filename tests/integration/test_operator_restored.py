"""A hub whose objects are restored: from a backup, from an export, or after they were orphaned."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from operatorworld import World, never_two
from settling import settles

from localcluster.layout import ClusterError
from processhub.api.meta import API_VERSION
from processhub.api.naming import LABEL_HUB, LABEL_HUB_UID
from processhub.cluster.kinds import CHILDREN, HUBS, LEASES, PODS, SLICES, Kind
from processhub.controller.store.ownedwatch import OWNED_KINDS

pytest_plugins = ("operatorworld",)
IDS = ["a", "b", "static"]
BACKED_UP = "hub,child,childset,registryslice,lease,statefulset,service,serviceaccount,rolebinding,poddisruptionbudget"
SPEC: dict[str, Any] = {
    "members": {"replicas": 2},
    "children": [{"id": "static", "exec": {"command": ["sleep", "100000"]}}],
}
OWNED: tuple[Kind[Any], ...] = (
    *(
        OWNED_KINDS[kind] for kind in OWNED_KINDS if kind not in ("DaemonSet", "NetworkPolicy", "ConfigMap")
    ),  # other hubs'
    *(SLICES, LEASES, PODS),
)


async def export(world: World, *dropped: str) -> list[dict[str, Any]]:
    """Return the manifests of the hub's objects as a backup has them, without the metadata fields in ``dropped``."""
    found = json.loads(await world.kubectl("get", BACKED_UP, "-o", "json"))
    items = [
        item
        for item in found["items"]
        if LABEL_HUB in item["metadata"].get("labels", {}) or item["kind"] in ("Hub", "Child", "ChildSet")
    ]
    for item in items:
        item.pop("status", None)
        for field in ("resourceVersion", "managedFields", *dropped):
            item["metadata"].pop(field, None)
    return items


async def apply(world: World, items: list[dict[str, Any]]) -> None:
    """Apply the manifests with kubectl, which reports those that the operator has already created and continues."""
    with contextlib.suppress(ClusterError):
        await world.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


async def nothing_left(world: World) -> None:
    """Wait until garbage collection has deleted the hub's objects. It discovers new CRDs every 30 s."""

    async def check() -> None:
        for kind in (*OWNED, CHILDREN):
            items, _ = await world.api.list(kind, world.namespace, labels=LABEL_HUB)
            assert not items, (kind.plural, len(items))

    await settles(check, within=120)


async def garbage_collection_knows_us(world: World) -> None:
    """Wait until garbage collection has found the product's kinds: it looks for new ones every 30 s.

    It may see the deletion of a Hub before the objects that the Hub owns. It would delete these, and not orphan them.
    """
    owner = {"apiVersion": API_VERSION, "kind": "Hub", "name": "never-was", "uid": "never-was"}
    metadata = {"name": "of-nobody", "ownerReferences": [owner]}
    spec = {"hub": owner["name"], "suspend": True, "exec": {"command": ["true"]}}
    body = {"apiVersion": API_VERSION, "kind": "Child", "metadata": metadata, "spec": spec}
    await world.api.create(CHILDREN, world.namespace, body)
    await world.gone("of-nobody")


async def ghosts(world: World) -> None:
    """Assert that all children run."""
    assert world.watch.live("hub").keys() >= set(IDS)


async def is_whole(world: World) -> None:
    """Wait until all children of the hub run, and check that all of its objects have its uid."""
    await world.running(IDS, within=60)
    hub = await world.hub_ready()
    uid = hub.metadata.uid

    async def its_own() -> None:
        for kind in OWNED:
            items, _ = await world.api.list(kind, world.namespace, labels=f"{LABEL_HUB}=hub")
            assert items, kind.plural
            uids = {item.metadata.labels.get(LABEL_HUB_UID) for item in items}
            assert uids == {uid}, (kind.plural, uids)
        child = await world.get_child("static")
        assert child.metadata.owned_by(uid), child.metadata

    await settles(its_own)
    never_two(world.watch)


@pytest.mark.parametrize(
    ("dropped", "hub_last"),
    [
        pytest.param(("uid", "ownerReferences"), True, id="without owners, the Hub last"),
        pytest.param(("uid", "ownerReferences"), False, id="without owners", marks=pytest.mark.nightly),
        pytest.param((), False, id="with earlier owners"),
    ],
)
async def test_a_hub_that_is_restored_from_a_backup_runs_again(
    world: World, dropped: tuple[str, ...], hub_last: bool
) -> None:
    await world.hub(**SPEC)
    await world.children(["a", "b"])
    before = await world.running(IDS)
    backup = await export(world, *dropped)
    await world.api.delete(HUBS, world.namespace, "hub")
    await world.delete_children("a", "b")
    await nothing_left(world)

    first = [item for item in backup if not hub_last or item["kind"] != "Hub"]
    await apply(world, first)
    if hub_last:
        # The members of the restored StatefulSet run the restored slices' children once the restored Leases expire.
        await settles(lambda: ghosts(world))
        await apply(world, backup)

    await is_whole(world)
    after = await world.running(IDS)
    assert min(place.epoch for place in after.values()) > max(place.epoch for place in before.values())


async def test_a_hub_with_orphaned_objects_can_be_created_again(world: World) -> None:
    await garbage_collection_knows_us(world)
    hub = await world.hub(**SPEC)
    await world.children(["a", "b"])
    before = await world.running(IDS)

    await world.kubectl("delete", "hub", "hub", "--cascade=orphan")
    child = await world.get_child("static")
    assert not child.metadata.owner_references
    await world.hub(**SPEC, ready=False)

    await is_whole(world)
    after = await world.running(IDS)
    assert min(place.epoch for place in after.values()) > max(place.epoch for place in before.values())
    assert (await world.get_child("static")).metadata.uid == child.metadata.uid
    assert (await world.get_hub()).metadata.uid != hub.metadata.uid
