"""The objects of a Hub: when they are applied, against an API server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from a_round import a_round
from aiohttp import web

from builders import client_of, make_client, make_hub
from processhub.api.hub import Hub
from processhub.api.meta import PartialObject
from processhub.api.reasons import EventReason
from processhub.cluster.client import Client
from processhub.cluster.decoding import WatchEvent
from processhub.controller.execute.ownedobjects import OwnedMemory, OwnedObjects, Refused, supporting_objects
from processhub.controller.objects.registry import new_lease, new_slice
from processhub.controller.objects.template import pod_template
from processhub.controller.objects.workload import workload
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.informers import Store
from processhub.controller.store.ownedwatch import OWNED_KINDS, OwnedWatch

Json = dict[str, Any]
HUB = make_hub()
SETTINGS = OperatorSettings(pod_name="o", pod_uid="", namespace="ns")
MANIFESTS = [*supporting_objects(HUB, SETTINGS), workload(HUB, pod_template(HUB, SETTINGS), 3)]
PLURALS = {kind.plural: name for name, kind in OWNED_KINDS.items()}
WITH_GENERATION = {"poddisruptionbudgets", "statefulsets"}


class Site:
    """The API server: ``objects`` by plural and name, ``applied`` lists the requests in order."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.applied: list[tuple[str, str]] = []
        self.refused: set[str] = set()  # plurals
        self.version = 10

    def store(self, key: tuple[str, str], item: Json) -> Json:
        self.version += 1
        metadata = {**item["metadata"], "resourceVersion": str(self.version)}
        before = self.objects.get(key)
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{self.version}"
        if key[0] in WITH_GENERATION:
            changed = before is None or before.get("spec") != item.get("spec")
            metadata["generation"] = (before["metadata"]["generation"] if before else 0) + changed
        self.objects[key] = {**item, "metadata": metadata}
        return self.objects[key]

    async def get(self, request: web.Request) -> web.Response:
        key = request.match_info["plural"], request.match_info["name"]
        if key not in self.objects:
            return web.json_response({"kind": "Status", "message": "no"}, status=404)
        return web.json_response(self.objects[key])

    async def apply(self, request: web.Request) -> web.Response:
        key = request.match_info["plural"], request.match_info["name"]
        self.applied.append(key)
        if key[0] in self.refused:
            return web.json_response({"kind": "Status", "message": "exceeded quota"}, status=403)
        body, before = await request.json(), self.objects.get(key)
        version = body["metadata"].pop("resourceVersion", None)
        if before is not None and version != before["metadata"]["resourceVersion"]:
            return web.json_response({"kind": "Status", "message": "modified"}, status=409)
        if before is not None and _same(before, body):
            return web.json_response(before)
        return web.json_response(self.store(key, body))


def _same(before: Json, body: Json) -> bool:
    metadata = {field: before["metadata"].get(field) for field in body["metadata"]}
    return {**before, "metadata": metadata} == body


class Work:
    """An operator that maintains the hub's objects, round by round."""

    def __init__(self, client: Client, site: Site) -> None:
        self.client, self.site = client, site
        self.woken: list[tuple[str, str]] = []
        self.emitted: list[str] = []
        self.watch = OwnedWatch(client, (), self.woken.append)
        for informer in self.watch.informers:
            informer.synced.set()
        self.memory = OwnedMemory()
        self.now = 1000.0
        self.retry_in: float | None = None
        self.refused: dict[str, Refused] = {}

    async def round(self) -> list[tuple[str, str]]:
        """Return the objects that one round applies; ``refused`` are those that it can't."""
        before = len(self.site.applied)

        def emit(_hub: Hub, _reason: EventReason, text: str, *, warning: bool) -> None:
            assert warning
            self.emitted.append(text)

        store, events = SimpleNamespace(owned=self.watch), SimpleNamespace(about_hub=emit)
        round = a_round(HUB, client=self.client, store=store, events=events, now=lambda: self.now)
        self.refused = await OwnedObjects(round, self.memory).keep(MANIFESTS)
        self.retry_in = round.requeue.after
        return self.site.applied[before:]

    def see(self, kind: str, plural: str, name: str) -> None:
        """Deliver the object's change to the watch."""
        (informer,) = [informer for informer in self.watch.informers if informer.covers(plural, "ns")]
        item = self.site.objects.get((plural, name))
        if item is None:
            gone = informer.items["ns", name].metadata
            self.site.version += 1
            metadata = msgspec.structs.replace(gone, resource_version=str(self.site.version))
            informer._event(WatchEvent("DELETED", PartialObject(metadata=metadata)))
        else:
            informer._event(WatchEvent(kind, msgspec.convert(item, PartialObject)))

    def edit(self, plural: str, name: str, **fields: Any) -> None:
        """Edit an object, and deliver the change to the watch."""
        self.site.store((plural, name), {**self.site.objects[plural, name], **fields})
        self.see("MODIFIED", plural, name)

    def delete(self, plural: str, name: str) -> None:
        """Delete an object, and deliver the deletion to the watch."""
        del self.site.objects[plural, name]
        self.see("DELETED", plural, name)


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    site, app = Site(), web.Application()
    for root in ("/api/v1", "/apis/{group}/v1"):
        path = root + "/namespaces/ns/{plural}/{name}"
        app.add_routes([web.get(path, site.get), web.patch(path, site.apply)])
    async with client_of(app) as client:
        yield Work(client, site)


async def test_all_objects_are_applied_once_and_that_starts_no_round(work: Work) -> None:
    assert len(await work.round()) == len(MANIFESTS)
    for plural, name in work.site.objects:
        work.see("ADDED", plural, name)

    assert await work.round() == []
    assert (work.woken, work.emitted) == ([], [])


async def test_the_status_of_a_stateful_set_starts_no_round(work: Work) -> None:
    """It is written for each pod that is created or deleted."""
    await work.round()

    for ready in range(50):
        work.edit("statefulsets", "hub", status={"readyReplicas": ready})

    assert work.woken == []
    assert await work.round() == []


@pytest.mark.parametrize(
    ("plural", "name", "fields"),
    [
        ("statefulsets", "hub", {"spec": {"replicas": 0}}),
        ("poddisruptionbudgets", "hub", {"spec": {}}),
        ("services", "hub", {"spec": {"selector": {}}}),
        ("rolebindings", "processhub-hub", {"subjects": []}),
        ("serviceaccounts", "processhub-hub", {"automountServiceAccountToken": False}),
    ],
)
async def test_only_a_changed_object_is_applied_again(work: Work, plural: str, name: str, fields: Json) -> None:
    await work.round()

    work.edit(plural, name, **fields)

    assert work.woken == [("ns", "hub")]
    assert await work.round() == [(plural, name)]
    assert await work.round() == []
    assert work.emitted == [f"{PLURALS[plural]} {name} was changed by somebody; it is put back"]


@pytest.mark.parametrize(("plural", "name"), [("statefulsets", "hub"), ("services", "hub-members")])
async def test_only_a_deleted_object_is_applied_again(work: Work, plural: str, name: str) -> None:
    await work.round()

    work.delete(plural, name)

    assert work.woken == [("ns", "hub")]
    assert await work.round() == [(plural, name)]
    assert await work.round() == []
    assert work.emitted == [f"{PLURALS[plural]} {name} was deleted; it is made again"]


async def test_a_change_that_an_apply_keeps_is_applied_once_without_an_event(work: Work) -> None:
    """For example another writer's label: server-side apply keeps what it does not name."""
    await work.round()
    item = work.site.objects["services", "hub"]
    metadata = {**item["metadata"], "annotations": {"theirs": "a"}}
    work.edit("services", "hub", metadata=metadata)

    assert await work.round() == [("services", "hub")]
    assert await work.round() == []
    assert work.emitted == []


async def test_repeated_changes_are_undone_now_and_then_and_announced_once(work: Work) -> None:
    await work.round()
    applied = []
    for _ in range(600):  # 60 s
        work.edit("poddisruptionbudgets", "hub", spec={"maxUnavailable": 2})
        applied += await work.round()
        work.now += 0.1

    assert 10 <= len(applied) <= 13
    assert len([text for text in work.emitted if "again and again" in text]) == 1
    assert work.retry_in is not None
    assert work.retry_in <= 30
    work.now += work.retry_in
    assert await work.round() == [("poddisruptionbudgets", "hub")], "though no event follows"


async def test_a_rejected_object_blocks_no_other_and_is_retried_later(work: Work) -> None:
    work.site.refused = {"serviceaccounts"}

    assert len(await work.round()) == len(MANIFESTS)
    assert {title: str(error) for title, error in work.refused.items()} == {
        "ServiceAccount processhub-hub": "exceeded quota"
    }
    assert await work.round() == []
    assert "ServiceAccount processhub-hub" in work.refused, "it is reported as long as it is so"
    assert work.retry_in is not None
    work.site.refused = set()
    work.now += work.retry_in
    assert await work.round() == [("serviceaccounts", "processhub-hub")]


async def test_nothing_is_created_for_a_hub_that_needs_the_name_of_a_foreign_object(work: Work) -> None:
    work.site.store(("serviceaccounts", "processhub-hub"), {"metadata": {"name": "processhub-hub", "namespace": "ns"}})

    for _ in range(2):
        assert await work.round() == []
        (conflict,) = work.refused.values()
        assert "ServiceAccount processhub-hub exists and is not this hub's" in str(conflict)

    del work.site.objects["serviceaccounts", "processhub-hub"]
    work.now += 1.0
    assert len(await work.round()) == len(MANIFESTS)


async def test_an_object_in_deletion_is_waited_for_and_delays_no_other(work: Work) -> None:
    await work.round()
    binding = work.site.objects["rolebindings", "processhub-hub"]
    work.edit("rolebindings", "processhub-hub", metadata={**binding["metadata"], "deletionTimestamp": "now"})
    work.edit("statefulsets", "hub", spec={})

    assert await work.round() == [("statefulsets", "hub")]
    assert "is still being deleted" in str(work.refused["RoleBinding processhub-hub"])

    work.delete("rolebindings", "processhub-hub")
    assert await work.round() == [("rolebindings", "processhub-hub")]


async def test_an_object_whose_owner_reference_was_removed_is_still_the_hubs(work: Work) -> None:
    await work.round()
    item = work.site.objects["statefulsets", "hub"]
    work.edit("statefulsets", "hub", metadata={**item["metadata"], "ownerReferences": []})

    assert await work.round() == [("statefulsets", "hub")]
    assert work.site.objects["statefulsets", "hub"]["metadata"]["ownerReferences"]


async def test_without_a_watch_of_a_kind_it_is_applied_again_from_time_to_time(work: Work) -> None:
    for informer in work.watch.informers:
        informer.synced.clear()
    await work.round()
    assert await work.round() == []

    work.now += work.retry_in or 0

    assert len(await work.round()) == len(MANIFESTS)


async def test_planning_waits_for_no_watch_of_owned_objects() -> None:
    """An operator that is newer than its ClusterRole may not be allowed to list them."""
    client = make_client()
    store = Store(client, (), lambda key: None)
    for informer in store.informers:
        informer.synced.set()

    async with asyncio.timeout(10):
        await store.synced()

    assert store.owned.informers
    assert not any(informer.synced.is_set() for informer in store.owned.informers)


def test_slices_and_leases_have_the_labels_of_all_that_a_hub_owns() -> None:
    first = new_slice(HUB, "hub-0", 0, 1, {}, holder="", partitioned=False)
    made = [first.metadata, new_lease(HUB, "hub-0").metadata]
    expected = MANIFESTS[0]["metadata"]["labels"] | {"processhub.dev/member": "hub-0"}

    assert [each.labels for each in made] == [expected, expected]
    assert (
        expected.items()
        >= {
            "app.kubernetes.io/name": "processhub",
            "app.kubernetes.io/component": "agent",
            "processhub.dev/hub": "hub",
        }.items()
    )
