"""How an operator starts to lead and ends, against an API server that fails for a moment or is slow."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from waiting import until

from builders import client_of, make_lease
from processhub.cluster.client import Client
from processhub.controller import engine as module
from processhub.controller.engine import Engine
from processhub.controller.errors import DeposedError
from processhub.controller.hooks.receivers import HookReceivers
from processhub.controller.kopfhost import KopfHost
from processhub.controller.lead.election import Election
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.informers import Store

DEADLINE = 40.0  # kopf would start again after 60 s
TERM = 5


def a_slice(term: int) -> dict[str, Any]:
    return {
        "apiVersion": "processhub.dev/v1alpha1",
        "kind": "RegistrySlice",
        "metadata": {"name": "hub.hub-0.0", "namespace": "ns", "uid": "s", "resourceVersion": "5", "generation": 1},
        "spec": {"hub": "hub", "hubUid": "hub-uid", "member": "hub-0", "term": term, "format": 1},
    }


PAUSED: dict[str, Any] = {
    "apiVersion": "processhub.dev/v1alpha1",
    "kind": "Hub",
    "metadata": {
        "name": "hub",
        "namespace": "ns",
        "uid": "hub-uid",
        "resourceVersion": "5",
        "annotations": {"processhub.dev/paused": "true"},
    },
    "spec": {},
    "status": {"replicas": 2},
}


def _kind(plural: str) -> dict[str, Any]:
    return {"name": plural, "kind": plural, "singularName": "", "namespaced": True, "verbs": ["list", "watch", "patch"]}


class Site:
    """An API server with ``items`` by plural; ``refuse`` is how many of these requests are answered with 503."""

    def __init__(self) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.refuse: dict[tuple[str, str], int] = {}  # (method, plural)
        self.refuse_then: dict[tuple[str, str], int] = {}  # the same, after a term was raised
        self.writing: list[web.Request] = []  # writes of statuses, which are never answered
        self.asked_by_kopf: list[tuple[str, str | None]] = []  # the path and the credentials of each request
        self.version = 10
        self.forbidden: set[str] = set()  # the namespaces in which the operator has no rights
        self.lost_after = 0  # lists of slices, after which the namespace "gone" is forbidden; 0: never

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("User-Agent", "").startswith("kopf"):
            self.asked_by_kopf.append((request.path, request.headers.get("Authorization")))
            return web.json_response(DISCOVERY.get(request.path, {}))
        *_, name = parts = request.path.strip("/").split("/")
        if name == "selfsubjectaccessreviews":
            asked = (await request.json())["spec"]["resourceAttributes"]
            return web.json_response({"status": {"allowed": asked["namespace"] not in self.forbidden}})
        if self.forbidden.intersection(parts):
            return web.json_response({"kind": "Status", "reason": "Forbidden", "message": "no"}, status=403)
        plural = next((part for part in reversed(parts) if part in KINDS), name)
        if self.refuse.get((request.method, plural), 0) and "watch" not in request.query:
            self.refuse[request.method, plural] -= 1
            return web.json_response({"kind": "Status", "message": "overloaded"}, status=503)
        if request.method == "POST" and name == "leases":
            return web.json_response(await request.json())
        if name == "status":
            self.writing.append(request)
            await asyncio.Event().wait()
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.Event().wait()
        if request.method == "PATCH" and plural == "registryslices":
            body = await request.json()
            (item,) = self.items[plural]
            self.version += 1
            item["spec"]["term"] = body["spec"]["term"]
            item["metadata"] |= {"resourceVersion": str(self.version), "generation": 2}
            self.refuse |= self.refuse_then
            return web.json_response(item)
        if request.method == "GET" and name == plural:
            if plural == "registryslices" and self.lost_after:
                self.lost_after -= 1
                self.forbidden |= set() if self.lost_after else {"gone"}
            items = self.items.get(plural, [])
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        return web.json_response({"kind": "Status", "message": "no such object"}, status=404)


KINDS = {"hubs", "children", "childsets", "registryslices", "pods", "leases", "nodes"}
SETTINGS = OperatorSettings(pod_name="operator", pod_uid="u", namespace="ns")


# kopf's discovery of the kinds that it may need itself. It would also discover those of its handlers.
DISCOVERY: dict[str, Any] = {
    "/api": {"versions": ["v1"]},
    "/apis": {
        "groups": [
            {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}
            for name, version in (("processhub.dev", "v1alpha1"), ("apiextensions.k8s.io", "v1"))
        ]
    },
    "/api/v1": {"resources": [_kind("namespaces"), _kind("events")]},
    "/apis/apiextensions.k8s.io/v1": {"resources": [_kind("customresourcedefinitions")]},
}


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, Client]]:
    site, app = Site(), web.Application()
    app.router.add_route("*", "/{path:.*}", site.serve)
    async with client_of(app) as client:
        yield site, client


@pytest.mark.parametrize("now", [True, False])
async def test_a_new_leader_continues_if_the_api_server_fails_for_a_moment(
    site: tuple[Site, Client], now: bool
) -> None:
    """It has the Lease: until it starts nobody places any child."""
    server, client = site
    server.items["registryslices"] = [a_slice(TERM - 1)]
    server.items["hubs"] = [PAUSED]
    engine = Engine(client, SETTINGS, TERM, HookReceivers())
    server.refuse = {("PATCH", "registryslices"): 2} if now else {}
    server.refuse_then = {("GET", "leases"): 2}

    async with asyncio.timeout(DEADLINE):
        await engine.start()
    pods = REGISTRY.get_sample_value("processhub_hub_members", {"namespace": "ns", "hub": "hub"})
    await engine.stop()

    assert server.items["registryslices"][0]["spec"]["term"] == TERM
    assert pods == 2, "metrics show the statuses of the hubs"


async def test_a_namespace_that_is_gone_keeps_no_other_from_being_led(
    site: tuple[Site, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its RoleBinding went with it, or somebody deleted that alone. When it is back, another leader begins with it."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 1.0)
    server, client = site
    server.items["registryslices"] = [a_slice(TERM - 1)]
    server.items["hubs"] = [PAUSED]
    server.forbidden = {"gone"}
    settings = msgspec.structs.replace(SETTINGS, namespaces=("ns", "gone"))
    election = Election(client, "operators", "operator", settings.namespaces)
    engine = Engine(client, settings, TERM, HookReceivers())

    async with asyncio.timeout(DEADLINE):
        assert await election.acquire() == TERM
        await engine.start()
    assert server.items["registryslices"][0]["spec"]["term"] == TERM
    assert engine.healthy
    assert not engine.over.is_set()

    server.forbidden = set()
    async with asyncio.timeout(DEADLINE):
        await engine.over.wait()
    await engine.stop()

    assert "namespace gone" in str(engine.failure)


@pytest.mark.parametrize("lists", [3, 4], ids=["before its slices are read", "before its Leases are read"])
async def test_a_leader_that_loses_a_namespace_while_it_begins_makes_room_for_another(
    site: tuple[Site, Client], lists: int
) -> None:
    """It read what is in that namespace again and again, and led no hub of any other."""
    server, client = site
    server.items["registryslices"] = [a_slice(TERM)]
    server.lost_after = lists
    settings = msgspec.structs.replace(SETTINGS, namespaces=("ns", "gone"))
    engine = Engine(client, settings, TERM, HookReceivers())

    async with asyncio.timeout(DEADLINE):
        with pytest.raises(DeposedError, match="namespace gone"):
            await engine.start()
    await engine.stop()


async def test_a_watch_of_leases_that_works_again_restarts_no_clock_of_another_namespace(
    site: tuple[Site, Client],
) -> None:
    """A member that is lost there is to be found lost in time."""
    server, client = site
    server.forbidden = {"gone"}
    store, now = Store(client, ("ns", "gone"), lambda _: None), asyncio.get_running_loop().time()
    of_ns, of_gone = store.leases

    store.start()
    await until(lambda: of_ns.connected, "its watch works")
    store.state(("ns", "hub")).put_lease(make_lease("hub-0", "pod/1"), now - 100)
    server.forbidden = set()
    await until(lambda: of_gone.connected, "the other works again")
    await store.close()

    known = store.state(("ns", "hub")).leases.of_member("hub-0")
    assert known is not None
    assert known.renewed_at == now - 100


async def test_a_new_leader_that_is_already_deposed_ends(site: tuple[Site, Client]) -> None:
    server, known = site
    server.items["registryslices"] = [a_slice(TERM + 1)]

    async def lead() -> None:
        async with Client(known.config) as client:
            await KopfHost(client, "operator").run(Engine(client, SETTINGS, TERM, HookReceivers()), asyncio.Event())

    # kopf sets a timer that kills the process ten minutes after its end; the loop ends with the test, so the timer
    # never fires.
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(DeposedError):
            await asyncio.to_thread(asyncio.run, lead())


async def test_kopf_starts_and_stops_the_work_and_watches_nothing(site: tuple[Site, Client]) -> None:
    server, known = site

    async def token() -> str:
        return "Bearer secret"

    async def lead() -> None:
        async with Client(dataclasses.replace(known.config, token=token)) as client:
            engine, ended = Engine(client, SETTINGS, TERM, HookReceivers()), asyncio.Event()
            work = asyncio.create_task(KopfHost(client, "operator").run(engine, ended))
            await until(lambda: len(server.asked_by_kopf) >= len(DISCOVERY), "kopf knows the kinds")
            assert engine.healthy
            assert not engine.stopped.is_set()
            ended.set()
            await work
            assert engine.stopped.is_set()

    async with asyncio.timeout(DEADLINE):
        await asyncio.to_thread(asyncio.run, lead())

    assert {path for path, _ in server.asked_by_kopf} == DISCOVERY.keys()
    assert {credentials for _, credentials in server.asked_by_kopf} == {"Bearer secret"}


@pytest.mark.parametrize("plural", ["hubs", "childsets"])
async def test_a_write_under_way_ends_with_the_operator(site: tuple[Site, Client], plural: str) -> None:
    """Its Lease is released by then: the write would be made beside those of the next leader."""
    server, client = site
    metadata = {"namespace": "ns", "uid": "u", "resourceVersion": "5", "generation": 1}
    refused = {"distribution": {"strategy": "NoSuchStrategy"}}
    template = {"hub": "none", "replicas": 1, "template": {"exec": {"command": ["true"]}}}
    server.items[plural] = [{"metadata": metadata | {"name": "one"}, "spec": refused if plural == "hubs" else template}]
    engine = Engine(client, SETTINGS, TERM, HookReceivers())

    await engine.start()
    await until(lambda: server.writing, "a write")
    await engine.stop()

    (write,) = server.writing
    await until(lambda: write.transport is None or write.transport.is_closing(), "the end of the write", within=5)


def test_operators_and_agents_do_not_load_the_libraries_of_tls_and_of_the_command_line() -> None:
    """kopf would load ``kubernetes``, which a caller of the CLI in the same process can still import."""
    code = "import sys, processhub.controller.main, processhub.agent.main; print(*sys.modules); import kubernetes"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "kopf" in loaded
    assert not loaded & {"cryptography", "kubernetes"}
