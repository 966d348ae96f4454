"""What shows a standby that the leader has ended, and what does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from builders import client_of
from processhub.api.kubernetes import Lease
from processhub.cluster.client import Client
from processhub.controller.lead import holder as module
from processhub.controller.lead.election import LEASE_SECONDS, Election
from processhub.controller.lead.holder import HolderWatch, LeaderProcess

DEADLINE = 40.0
LEADER = LeaderProcess(identity="operator-1_ab", pod="operator-1", pod_uid="uid-1", host="127.0.0.1", port=1)
STANDBY = LeaderProcess(identity="operator-2_cd", pod="operator-2", pod_uid="uid-2", host="127.0.0.1", port=2)
RUNNING = {"running": {"startedAt": "2026-12-01T09:59:50Z"}}


class Site:
    """An API server with one Lease, which counts the other replica's pod as present unless ``pod`` is changed."""

    def __init__(self) -> None:
        self.pod: dict[str, Any] | int = pod_of("uid-1", state=RUNNING)
        self.lease = lease_of(LEADER)

    async def get_pod(self, request: web.Request) -> web.Response:
        if isinstance(self.pod, int):
            return web.json_response({"kind": "Status", "message": "no"}, status=self.pod)
        return web.json_response(self.pod)

    async def get_lease(self, request: web.Request) -> web.Response:
        return web.json_response(self.lease)

    async def put_lease(self, request: web.Request) -> web.Response:
        self.lease = await request.json()
        return web.json_response(self.lease)

    async def none(self, request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})


def pod_of(uid: str, **status: Any) -> dict[str, Any]:
    """The pod object of the leader, with the status of its container."""
    metadata = {"name": "operator-1", "namespace": "ns", "uid": uid}
    return {"metadata": metadata, "status": {"containerStatuses": [{"name": "operator", **status}]}}


def ended_at(moment: str) -> dict[str, Any]:
    """The state of a container that ended."""
    return {"terminated": {"exitCode": 137, "finishedAt": moment}}


def lease_of(process: LeaderProcess, identity: str = LEADER.identity) -> dict[str, Any]:
    """The leader's Lease, as ``process`` describes its holder."""
    annotations = {
        "processhub.dev/term": "7",
        "processhub.dev/leader": msgspec.json.encode(process).decode(),
    }
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": LEASE_SECONDS,
        "acquireTime": "2026-12-01T10:00:00.500000Z",
        "renewTime": "2026-12-01T10:00:00.500000Z",
    }
    metadata = {"name": "processhub-operator", "namespace": "ns", "resourceVersion": "1", "annotations": annotations}
    return {"metadata": metadata, "spec": spec}


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Site, Client]]:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    site, app = Site(), web.Application()
    lease = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/processhub-operator"
    app.add_routes([web.get(lease, site.get_lease), web.put(lease, site.put_lease)])
    app.add_routes([web.get("/api/v1/namespaces/ns/pods/operator-1", site.get_pod)])
    for plural in ("hubs", "registryslices"):
        app.add_routes([web.get(f"/apis/processhub.dev/v1alpha1/{plural}", site.none)])
    async with client_of(app) as client:
        yield site, client


async def seen(client: Client, lease: dict[str, Any], watch: HolderWatch | None = None) -> str:
    """How the holder's end shows to a standby that looks once."""
    watch = watch or HolderWatch(client, "ns", STANDBY)
    return await watch.ended(msgspec.convert(lease, Lease))


@pytest.mark.parametrize(
    ("pod", "what"),
    [
        (404, "pod operator-1 is gone"),
        (pod_of("uid-9", state=RUNNING), "pod operator-1 is gone"),
        (pod_of("uid-1", state=ended_at("2026-12-01T10:00:09Z")), "the container of pod operator-1 has ended"),
        (
            pod_of("uid-1", state=RUNNING, lastState=ended_at("2026-12-01T10:00:09Z")),
            "the container of pod operator-1 has ended",
        ),
    ],
)
async def test_a_pod_that_is_gone_or_whose_container_ended_since_shows_the_end(
    site: tuple[Site, Client], pod: dict[str, Any] | int, what: str
) -> None:
    server, client = site
    server.pod = pod

    assert await seen(client, server.lease) == what


@pytest.mark.parametrize(
    "pod",
    [
        pod_of("uid-1", state=RUNNING),
        # The container before the one that took the Lease.
        pod_of("uid-1", state=RUNNING, lastState=ended_at("2026-12-01T09:59:40Z")),
        # A status that lags behind the restart.
        pod_of("uid-1", state=ended_at("2026-12-01T09:59:40Z")),
        {
            "metadata": {"name": "operator-1", "namespace": "ns", "uid": "uid-1"},
            "status": {"containerStatuses": [{"name": "sidecar", "state": ended_at("2026-12-01T10:00:09Z")}]},
        },
        403,
        500,
    ],
)
async def test_a_leader_that_may_run_is_not_judged_ended(site: tuple[Site, Client], pod: dict[str, Any] | int) -> None:
    server, client = site
    server.pod = pod

    assert await seen(client, server.lease) == ""


@pytest.mark.parametrize(
    "lease",
    [
        # By a replica of an earlier version, which leaves the annotation as it is; by one that runs in no pod.
        lease_of(LEADER, identity="operator-0_ef"),
        lease_of(LeaderProcess(identity=LEADER.identity, pod="operator-1")),
        # Edited by hand.
        *(
            lease_of(LEADER)
            | {"metadata": {"name": "processhub-operator", "annotations": {"processhub.dev/leader": text}}}
            for text in ("[", "{}", json.dumps({"identity": LEADER.identity, "podUid": "uid-1", "port": 65536}))
        ),
        lease_of(LeaderProcess(identity=LEADER.identity, pod_uid="uid-1")),
    ],
)
async def test_where_the_lease_does_not_describe_its_holder_nothing_shows_its_end(
    site: tuple[Site, Client], lease: dict[str, Any]
) -> None:
    server, client = site
    server.pod = 404

    assert await seen(client, lease) == ""


async def test_an_address_that_accepted_connections_and_refuses_them_shows_the_end(site: tuple[Site, Client]) -> None:
    _, client = site
    listening, watch = await listener(), HolderWatch(client, "ns", STANDBY)
    port = listening.sockets[0].getsockname()[1]
    lease = lease_of(msgspec.structs.replace(LEADER, port=port))

    assert await seen(client, lease, watch) == ""
    await watch.wait(0.2)
    assert await seen(client, lease, watch) == ""
    listening.close()
    await listening.wait_closed()
    async with asyncio.timeout(DEADLINE):
        await watch.wait(DEADLINE)

    assert await seen(client, lease, watch) == f"127.0.0.1:{port} refuses connections"
    watch.alive()
    assert await seen(client, lease, watch) == ""


async def test_an_address_that_never_accepted_a_connection_shows_nothing(site: tuple[Site, Client]) -> None:
    """A network policy may refuse the standby's connections, to any leader."""
    _, client = site
    listening = await listener()
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    watch, lease = HolderWatch(client, "ns", STANDBY), lease_of(msgspec.structs.replace(LEADER, port=port))

    await seen(client, lease, watch)
    await watch.wait(0.2)

    assert await seen(client, lease, watch) == ""


async def test_a_text_that_is_no_address_shows_nothing(site: tuple[Site, Client]) -> None:
    _, client = site
    watch, lease = HolderWatch(client, "ns", STANDBY), lease_of(msgspec.structs.replace(LEADER, host=f"{'a' * 70}.b"))

    await seen(client, lease, watch)
    await watch.wait(0.2)

    assert await seen(client, lease, watch) == ""


async def test_a_container_that_is_started_again_takes_its_pods_lease_at_once(site: tuple[Site, Client]) -> None:
    server, client = site
    process = LeaderProcess(pod="operator-1", pod_uid="uid-1", host="127.0.0.1", port=1)
    again = Election(client, "ns", "operator-1", (), process=process)
    began = asyncio.get_running_loop().time()

    async with asyncio.timeout(DEADLINE):
        term = await again.acquire()

    assert asyncio.get_running_loop().time() - began < LEASE_SECONDS / 3
    assert term == 8
    described = json.loads(server.lease["metadata"]["annotations"]["processhub.dev/leader"])
    assert described == {
        "identity": again.identity,
        "pod": "operator-1",
        "podUid": "uid-1",
        "host": "127.0.0.1",
        "port": 1,
    }


async def listener() -> asyncio.Server:
    """A server on a free port that accepts connections."""

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    return await asyncio.start_server(accept, "127.0.0.1", 0)
