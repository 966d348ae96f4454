"""A Hub with a rejected edit: rounds of the whole reconciler, on an API server that stores everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from argohealth import health
from builders import client_of, make_slice
from processhub.api.hub import Hub
from processhub.api.kubernetes import KubernetesNode, Pod, PodSpec
from processhub.api.meta import ObjectMeta, find_condition
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_HUB, LABEL_HUB_UID, child_pod_name
from processhub.cluster.client import Client
from processhub.cluster.decoding import Undecodable, WatchEvent
from processhub.controller.execute.callrights import wanted_accounts
from processhub.controller.hooks.receivers import HookReceivers
from processhub.controller.reconcile import Reconciler
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

Json = dict[str, Any]
KEY = ("ns", "hub")
GOOD: Json = {"members": {"replicas": 2}}
BAD: Json = {"members": {"replicas": 3}, "distribution": {"strategy": "Nearest"}}


class ApiServer:
    """Objects by path, with uids, resourceVersions and generations. Lists are empty."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.made: list[str] = []
        self.deleted: list[str] = []
        self._version = 100

    def version(self) -> str:
        self._version += 1
        return str(self._version)

    async def answer(self, request: web.Request) -> web.Response:
        path, body = request.path, await request.json() if request.can_read_body else {}
        found = self.objects.get(path)
        if request.method == "POST":
            path += "/" + body["metadata"].get("name", "unnamed")
            self.made.append(path)
        elif request.method == "GET":
            return web.json_response(found or {"kind": "Status", "reason": "NotFound"}, status=200 if found else 404)
        elif request.method == "DELETE":
            self.deleted.append(path)
        elif request.query.get("dryRun"):
            return web.json_response(body)
        return web.json_response(self.store(path, body))

    def store(self, path: str, body: Json) -> Json:
        path = path.removesuffix("/status")
        item = self.objects.setdefault(path, {"metadata": {"uid": f"uid-{len(self.objects)}", "generation": 1}})
        item.update({key: value for key, value in body.items() if key != "metadata"})
        item["metadata"].update(body.get("metadata", {}))
        item["metadata"].setdefault("namespace", "ns")
        item["metadata"]["resourceVersion"] = self.version()
        return item


class Leader:
    """A reconciler, and the Hub as users edit it."""

    def __init__(self, client: Client, server: ApiServer) -> None:
        settings = OperatorSettings(pod_name="operator", pod_uid="", namespace="ops")
        self.woken: list[HubKey] = []
        self.server, self.store = server, Store(client, (), self.woken.append)
        self.reconciler = Reconciler(client, self.store, settings, 1, lambda key: None, HookReceivers())

    async def edit(self, spec: Json, generation: int, uid: str = "h", **metadata: Any) -> None:
        """Apply the Hub, and run a round."""
        known = self.store.hubs.get(KEY)
        status = msgspec.to_builtins(known.status) if known and known.metadata.uid == uid else {}
        body = {
            "metadata": {
                "name": "hub", "namespace": "ns", "uid": uid, "generation": generation,
                "resourceVersion": self.server.version(), **metadata,
            },
            "spec": spec, "status": status,
        }  # fmt: skip
        self.server.objects["/apis/processhub.dev/v1alpha1/namespaces/ns/hubs/hub"] = body
        self.store.put("hubs", msgspec.convert(body, Hub))
        await self.round()

    async def round(self) -> None:
        self.server.made.clear()
        await self.reconciler.reconcile(KEY)
        for task in list(self.reconciler.reporter._hubs._tasks.values()):
            await task

    def can_t_be_read(self, generation: int, **metadata: Any) -> None:
        """Make an edit that only a newer version of the API allows."""
        changed = msgspec.structs.replace(
            self.store.hubs[KEY].metadata,
            generation=generation,
            resource_version=self.server.version(),
            **{"annotations": {}} | metadata,
        )
        for informer in self.store.informer_of("hubs", "ns"):
            informer._take(Undecodable(changed, "Expected `int`, got `str`"))

    def delete(self) -> None:
        for informer in self.store.informer_of("hubs", "ns"):
            hub = informer.items[KEY]
            version = msgspec.structs.replace(hub.metadata, resource_version=self.server.version())
            informer._event(WatchEvent("DELETED", msgspec.structs.replace(hub, metadata=version)))

    def condition(self, kind: str) -> tuple[str, str, int]:
        found = find_condition(self.store.hubs[KEY].status.conditions, kind)
        return (found.status, found.reason, found.observed_generation) if found else ("", "", 0)

    def events(self) -> list[tuple[str, str]]:
        """Return reason and message of the Events since the last call."""
        queue = self.reconciler.events._queue
        items = [queue.get_nowait()[1] for _ in range(queue.qsize())]
        return [(item["reason"], item["message"]) for item in items]

    @property
    def made(self) -> list[str]:
        """Return the paths of the slices and Leases that the last round created."""
        return [path for path in self.server.made if "/registryslices/" in path or "/leases/" in path]

    def replicas(self) -> int:
        return int(self.server.objects["/apis/apps/v1/namespaces/ns/statefulsets/hub"]["spec"]["replicas"])


@asynccontextmanager
async def leading() -> AsyncIterator[Leader]:
    api = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    async with client_of(app) as client:
        leader = Leader(client, api)
        try:
            yield leader
        finally:
            await leader.reconciler.close()


CONDITIONS = ("Ready", "Quorate", "Balanced")


async def test_conditions_are_about_the_spec_that_was_accepted_last() -> None:
    """Otherwise a client that waits for a condition of the edit would take the edit for applied."""
    async with leading() as hub:
        await hub.edit(GOOD, 1)

        await hub.edit(BAD, 2)

        assert hub.condition("Accepted") == ("False", "UnknownStrategy", 2)
        assert hub.condition("Stalled") == ("True", "UnknownStrategy", 2)
        assert hub.store.hubs[KEY].status.observed_generation == 2
        assert {generation for _, _, generation in map(hub.condition, CONDITIONS)} == {1}


async def test_the_next_accepted_edit_is_followed() -> None:
    async with leading() as hub:
        await hub.edit(GOOD, 1)
        await hub.edit(BAD, 2)
        await hub.edit({**BAD, "migration": {"strategy": "Later"}}, 3)
        assert hub.condition("Accepted") == ("False", "UnknownStrategy", 3)
        assert hub.replicas() == 2

        await hub.edit({"members": {"replicas": 3}}, 4)

        assert hub.condition("Accepted") == ("True", "Accepted", 4)
        assert hub.condition("Stalled") == ("", "", 0)
        assert {generation for _, _, generation in map(hub.condition, CONDITIONS)} == {4}
        assert hub.replicas() == 3


async def test_a_re_created_hub_does_not_have_its_predecessors_accepted_spec() -> None:
    async with leading() as hub:
        await hub.edit(GOOD, 1)
        await hub.edit(BAD, 2)
        hub.delete()
        await hub.round()

        await hub.edit(BAD, 1, uid="h2")

        assert hub.condition("Accepted") == ("False", "UnknownStrategy", 1)
        assert hub.condition("Ready") == ("False", "UnknownStrategy", 1)
        assert not hub.made


async def test_a_paused_hub_with_a_rejected_edit_is_left_alone() -> None:
    async with leading() as hub:
        await hub.edit(GOOD, 1)

        await hub.edit(BAD, 2, annotations={"processhub.dev/paused": "true"})

        assert hub.condition("Accepted") == ("True", "Accepted", 1)
        await hub.edit(BAD, 2)
        assert hub.condition("Accepted") == ("False", "UnknownStrategy", 2)


@pytest.mark.parametrize("value", ["True", "TRUE"])
async def test_a_switch_may_be_spelled_as_yaml_allows(value: str) -> None:
    item = {"metadata": {"generation": 1, "annotations": {"processhub.dev/paused": value}}}
    assert health(item)[0] == "Suspended", "Argo CD says so too"
    async with leading() as hub:
        await hub.edit(GOOD, 1, annotations={"processhub.dev/paused": value})

        assert not hub.server.made
        assert [reason for reason, _ in hub.events()] == ["Paused"]


async def test_a_switch_that_is_neither_on_nor_off_is_reported_once() -> None:
    async with leading() as hub:
        annotations = {"processhub.dev/paused": "yes", "processhub.dev/force-scale-down": "1"}
        await hub.edit(GOOD, 1, annotations=annotations)
        await hub.edit({"members": {"replicas": 3}}, 2, annotations=annotations)

        assert [event for event in hub.events() if event[0] == "AnnotationIgnored"] == [
            ("AnnotationIgnored", f"the annotation processhub.dev/{name} is {value!r}, which means nothing: {what}")
            for name, value in (("paused", "yes"), ("force-scale-down", "1"))
            for what in ["write true, or remove it"]
        ]
        assert hub.replicas() == 3, "it is reconciled"

        await hub.edit(GOOD, 3, annotations={"processhub.dev/paused": "false"})
        assert "AnnotationIgnored" not in [reason for reason, _ in hub.events()]
        await hub.edit(GOOD, 3, annotations={"processhub.dev/paused": "yes"})
        assert "AnnotationIgnored" in [reason for reason, _ in hub.events()]


async def test_an_unknown_way_to_drain_is_reported() -> None:
    async with leading() as hub:
        await hub.edit(GOOD, 1, annotations={"processhub.dev/drained": "hub-0=Force, hub-1=true"})

        assert [event for event in hub.events() if event[0] == "AnnotationIgnored"] == [
            (
                "AnnotationIgnored",
                "the annotation processhub.dev/drained has 'hub-1=true', by which the member is drained without force:"
                " write hub-1=force, or the name alone",
            )
        ]


async def test_an_annotation_that_does_not_exist_is_reported_with_the_one_that_was_meant() -> None:
    async with leading() as hub:
        annotations = {"processhub.dev/pasued": "true", "processhub.dev/zones": "a", "example.com/paused": "true"}
        await hub.edit(GOOD, 1, annotations=annotations)

        known, unknown = (text for reason, text in hub.events() if reason == "AnnotationIgnored")
        assert known == ("the annotation processhub.dev/pasued means nothing on a Hub: write processhub.dev/paused")
        assert unknown.startswith(
            "the annotation processhub.dev/zones means nothing on a Hub: there are processhub.dev/paused, "
        )


async def test_a_hub_with_a_rejected_edit_waits_for_the_end_of_an_earlier_hub_of_its_name() -> None:
    """It has started nothing yet: objects of the earlier Hub may still run children."""
    async with leading() as hub:
        await hub.edit({"members": {"mode": "PerNode"}}, 1)
        earlier = make_slice(hub_uid="earlier", member="node-1", resource_version=hub.server.version())
        hub.store.put("registryslices", earlier)
        labels = {LABEL_HUB: "hub", LABEL_HUB_UID: "h"}
        metadata = ObjectMeta(
            name="hub-x", namespace="ns", uid="p", labels=labels, resource_version=hub.server.version()
        )
        hub.store.put("nodes", KubernetesNode(metadata=ObjectMeta(name="node-2", uid="n", resource_version="1000")))
        hub.store.put("pods", Pod(metadata=metadata, spec=PodSpec(node_name="node-2")))

        await hub.edit({"members": {"mode": "PerNode"}, "distribution": {"strategy": "Nearest"}}, 2)

        assert hub.condition("Accepted") == ("False", "UnknownStrategy", 2)
        assert not hub.made


async def test_a_hub_that_cannot_be_read_any_more_can_be_paused_and_deleted() -> None:
    """Only its spec is the earlier one."""
    async with leading() as hub:
        await hub.edit(GOOD, 1)
        hub.can_t_be_read(2, annotations={"processhub.dev/paused": "true"})
        await hub.round()
        assert hub.condition("Accepted") == ("True", "Accepted", 1)

        hub.can_t_be_read(3)
        await hub.round()
        assert hub.condition("Accepted") == ("False", "Invalid", 3)
        assert {generation for _, _, generation in map(hub.condition, CONDITIONS)} == {1}

        hub.can_t_be_read(3, deletion_timestamp="2026-01-02T03:04:05Z")
        await hub.round()
        assert not hub.reconciler.reporter._observed


async def test_a_hub_that_can_be_read_again_is_reconciled() -> None:
    async with leading() as hub:
        await hub.edit(GOOD, 1)
        hub.can_t_be_read(1)
        hub.woken.clear()

        await hub.edit(GOOD, 1)

        assert hub.woken == [KEY]


async def test_pods_of_children_of_an_unreadable_hub_are_kept() -> None:
    """It exists, though an older or newer version wrote it; its Pods are deleted only when it is gone."""
    async with leading() as hub:
        metadata = ObjectMeta(name="hub", namespace="ns", uid="h", generation=1, resource_version=hub.server.version())
        marks = {LABEL_HUB: "hub", LABEL_HUB_UID: "h", "processhub.dev/child": "0123"}
        name = child_pod_name("hub", "h", "a")
        pod = ObjectMeta(name=name, namespace="ns", uid="p", labels=marks, resource_version=hub.server.version())
        hub.store.put("pods", Pod(metadata=msgspec.structs.replace(pod, annotations={ANNOTATION_CHILD_ID: "a"})))
        unread = Undecodable(metadata, "Expected `int`, got `str`")
        for informer in hub.store.informer_of("hubs", "ns"):
            informer._take(unread)

        await hub.round()
        assert not hub.server.deleted
        assert ("ns", "processhub-hub") in wanted_accounts(hub.store), "its members may not check tokens any more"

        later = msgspec.structs.replace(metadata, resource_version=hub.server.version())
        for informer in hub.store.informer_of("hubs", "ns"):
            informer._event(WatchEvent("DELETED", Undecodable(later, unread.error)))
        assert hub.woken[-1] == KEY
        await hub.round()
        assert hub.server.deleted == [f"/api/v1/namespaces/ns/pods/{name}"]
