"""What the operator maintains beside its rounds, against an API server that is slow or fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from a_round import a_round
from aiohttp import web
from waiting import until

from builders import client_of, make_child, make_hub, make_member
from processhub.api.child import Child, ChildStatus
from processhub.api.kubernetes import Pod
from processhub.cluster.client import Client
from processhub.controller.execute.callrights import BINDING, CallRights
from processhub.controller.execute.marks import label_pods
from processhub.controller.report.childqueue import ChildStatuses
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.rounds.steps import Failures
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

DEADLINE = 40.0


class Site:
    """An API server with the members' binding, a pod and a child; ``troubles``: statuses of the next patches.

    Without a ``binding``, it is created by an apply. ``role`` is the ClusterRole that it binds.
    """

    def __init__(self) -> None:
        self.role: dict[str, Any] | None = None
        self.binding: dict[str, Any] = {"metadata": {"name": BINDING, "resourceVersion": "1"}}
        self.entered, self.answer = asyncio.Event(), asyncio.Event()
        self.reads = 0
        self.troubles: list[int] = []
        self.stored: list[dict[str, Any]] = []

    async def get(self, request: web.Request) -> web.Response:
        self.reads += 1
        if self.reads == 1:
            self.entered.set()
            await self.answer.wait()
        return web.json_response(self.binding) if self.binding else _no(404)

    async def get_role(self, request: web.Request) -> web.Response:
        return web.json_response(self.role) if self.role else _no(404)

    async def apply(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.binding = {**body, "metadata": {**body["metadata"], "resourceVersion": "5"}}
        return web.json_response(self.binding, status=201)

    async def put(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["metadata"]["resourceVersion"] != self.binding["metadata"]["resourceVersion"]:
            return _no(409)
        body["metadata"]["resourceVersion"] += "1"
        self.binding = body
        return web.json_response(body)

    async def write(self, request: web.Request) -> web.Response:
        if self.troubles:
            return _no(self.troubles.pop(0))
        body = await request.json()
        self.stored.append(body)
        metadata = {"name": request.match_info["name"], "namespace": "ns", "uid": "u", "resourceVersion": "9"}
        return web.json_response({"spec": {"hub": "hub"}, **body, "metadata": metadata})

    async def read(self, request: web.Request) -> web.Response:
        metadata = {"name": request.match_info["name"], "namespace": "ns", "uid": "u", "resourceVersion": "8"}
        return web.json_response({"metadata": metadata, "spec": {"hub": "hub"}})


def _no(status: int) -> web.Response:
    return web.json_response({"kind": "Status", "message": "no"}, status=status)


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, Client]]:
    site, app = Site(), web.Application()
    binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}"
    app.add_routes([web.get(binding, site.get), web.put(binding, site.put), web.patch(binding, site.apply)])
    app.add_routes([web.get(binding.replace("bindings", "s"), site.get_role)])
    app.add_routes([web.patch("/api/v1/namespaces/ns/pods/{name}", site.write)])
    status = "/apis/processhub.dev/v1alpha1/namespaces/ns/children/{name}/status"
    app.add_routes([web.put(status, site.write), web.patch(status, site.write)])
    app.add_routes([web.get(status.removesuffix("/status"), site.read)])
    async with client_of(app) as client:
        yield site, client


async def test_a_hub_created_while_another_gets_its_rights_keeps_its_own(site: tuple[Site, Client]) -> None:
    """Nothing else checks the binding while both hubs are quiet: members of the second would reject all requests."""
    server, client = site
    hubs: dict[HubKey, None] = {("ns", "one"): None}
    rights = CallRights(client, (), lambda: frozenset((namespace, f"processhub-{hub}") for namespace, hub in hubs))

    rights.look()
    async with asyncio.timeout(DEADLINE):
        await server.entered.wait()
        hubs["ns", "two"] = None
        rights.look()
        server.answer.set()
        await until(lambda: len(server.binding.get("subjects") or []) == 2, "both accounts")
    await rights.close()

    assert sorted(subject["name"] for subject in server.binding["subjects"]) == ["processhub-one", "processhub-two"]


async def test_an_account_keeps_its_rights_while_a_members_pod_uses_it(site: tuple[Site, Client]) -> None:
    """A hub whose account is being changed has members with both accounts."""
    server, client = site
    server.answer.set()
    subject = {"kind": "ServiceAccount", "namespace": "ns"}
    server.binding["subjects"] = [{**subject, "name": "before"}, {**subject, "name": "long-gone"}]
    wanted, used = frozenset({("ns", "after")}), frozenset({("ns", "before"), ("ns", "never-bound")})
    rights = CallRights(client, (), lambda: wanted, lambda: used)

    rights.look()
    async with asyncio.timeout(DEADLINE):
        await until(lambda: [each["name"] for each in server.binding["subjects"]] == ["before", "after"], "both")
    await rights.close()


async def test_the_binding_that_is_gone_is_made_again_as_a_part_of_the_same_release(site: tuple[Site, Client]) -> None:
    """It goes with its ClusterRole, so that nothing is left of an installation that is removed."""
    server, client = site
    server.answer.set()
    server.binding = {}
    labels = {"app.kubernetes.io/name": "processhub", "app.kubernetes.io/managed-by": "Helm"}
    marks = {"meta.helm.sh/release-name": "ph", "meta.helm.sh/release-namespace": "ns"}
    # An upgrade by helm would meet a conflict in a label that it changes.
    metadata = {"labels": labels | {"app.kubernetes.io/version": "1"}, "annotations": marks | {"somebody": "else"}}
    server.role = {"metadata": {"name": BINDING, "uid": "r", **metadata}}
    rights = CallRights(client, (), lambda: frozenset({("ns", "processhub-hub")}))

    rights.look()
    async with asyncio.timeout(DEADLINE):
        await until(lambda: bool(server.binding.get("subjects")), "the account")
    await rights.close()

    assert server.binding["roleRef"]["name"] == BINDING
    assert server.binding["metadata"]["labels"] == labels
    assert server.binding["metadata"]["annotations"] == marks
    owner = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": BINDING, "uid": "r"}
    assert server.binding["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("ending", [True, False], ids=["its ClusterRole is being deleted", "its ClusterRole is gone"])
async def test_the_binding_is_not_made_again_while_the_chart_is_uninstalled(
    site: tuple[Site, Client], ending: bool
) -> None:
    server, client = site
    server.answer.set()
    server.binding = {}
    times = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    server.role = {"metadata": {"name": BINDING, "uid": "r", **times}} if ending else None
    hubs = {("ns", "processhub-hub")}
    rights = CallRights(client, (), lambda: frozenset(hubs))

    async with asyncio.timeout(DEADLINE):
        rights.look()
        await server.entered.wait()
        hubs.add(("ns", "processhub-other"))  # so that the next look is at once
        rights.look()
        await until(lambda: server.reads >= 2, "the next look at the binding")
    await rights.close()

    assert server.binding == {}


async def test_a_pod_that_could_not_be_labelled_is_labelled_later(site: tuple[Site, Client]) -> None:
    server, client = site
    pod = msgspec.convert({"metadata": {"name": "hub-0", "namespace": "ns", "uid": "u"}}, Pod)
    member = make_member("hub-0", pod=pod)
    store, hub, failures = Store(client, (), lambda key: None), make_hub(), Failures()

    server.troubles = [503]
    round = a_round(hub, client=client, store=store, failures=failures)
    await label_pods(round, (member,))
    assert round.requeue.after is not None, "it wants another round"
    async with asyncio.timeout(DEADLINE):
        while failures:
            await asyncio.sleep(round.requeue.after)
            await label_pods(round, (member,))
    assert [item["metadata"]["labels"] for item in server.stored] == [{"processhub.dev/member": "hub-0"}]


def child(name: str) -> Child:
    return make_child(name, resource_version="5", generation=1)


async def test_a_status_that_conflicts_is_written_again(site: tuple[Site, Client]) -> None:
    """The API server reports a conflict of a patch, too, if many write the object at once."""
    server, client = site
    status = ChildStatus(id="a", state="Failed", observed_generation=1)
    writer = ChildStatuses(
        client, Store(client, (), lambda key: None), lambda key: (child("a"), status), RefusedStatuses(lambda _: None)
    )
    server.troubles = [409, 409]

    running = asyncio.create_task(writer.run())
    writer.mark(("ns", "a"))
    await until(lambda: server.stored, "the status")
    running.cancel()
