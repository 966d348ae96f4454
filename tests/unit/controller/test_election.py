"""How long a leader keeps leading without a renewal, against an API server that is slow or rejects requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from builders import client_of
from processhub.controller.errors import UnauthorizedError
from processhub.controller.lead import election as module
from processhub.controller.lead.election import Election

DEADLINE = 40.0
RENEW_DEADLINE = 1.0


class Site:
    """An API server with one Lease; ``reads`` and ``writes`` are its next responses, after which it responds normally.

    A response is a status, "late" (after ``answer`` is set), "lost" (stored, but without a response) or "never".
    """

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.hubs: list[dict[str, Any]] = []
        self.version = 1
        self.reads: list[int | str] = []
        self.writes: list[int | str] = []
        self.answer = asyncio.Event()
        self.entered = asyncio.Event()

    async def get(self, request: web.Request) -> web.Response:
        if self.reads:
            match self.reads.pop(0):
                case int(status):
                    return _no(status)
                case _:
                    await asyncio.Event().wait()
        return web.json_response(self.lease) if self.lease else _no(404)

    async def put(self, request: web.Request) -> web.Response:
        lease = await request.json()
        how = self.writes.pop(0) if self.writes else ""
        if isinstance(how, int):
            return _no(how)
        if how == "never":
            await asyncio.Event().wait()
        if self.lease is not None and lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return _no(409)
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.lease = lease
        if how == "lost":
            return _no(504)
        if how == "late":
            self.entered.set()
            await self.answer.wait()
        return web.json_response(lease)

    async def slices(self, request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async def list_hubs(self, request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": self.hubs})


def _no(status: int) -> web.Response:
    return web.json_response({"kind": "Status", "message": "no"}, status=status)


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Site, Election]]:
    monkeypatch.setattr(module, "RENEW_DEADLINE_SECONDS", RENEW_DEADLINE)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    site, app = Site(), web.Application()
    leases = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
    app.add_routes([web.get(leases + "/{name}", site.get), web.put(leases + "/{name}", site.put)])
    app.add_routes([web.post(leases, site.put), web.get("/apis/processhub.dev/v1alpha1/registryslices", site.slices)])
    app.add_routes([web.get("/apis/processhub.dev/v1alpha1/hubs", site.list_hubs)])
    async with client_of(app) as client:
        yield site, Election(client, "ns", "me", ())


async def test_a_leader_whose_read_is_not_answered_ends_in_time(site: tuple[Site, Election]) -> None:
    """Another may have the Lease by then: the meaning of the conflict is not known until the response arrives."""
    server, election = site
    await election.acquire()
    loop = asyncio.get_running_loop()
    began = loop.time()

    server.writes, server.reads = [409], ["never"]
    async with asyncio.timeout(DEADLINE):
        await election.hold(lambda _: None)

    assert loop.time() - began < 10 * RENEW_DEADLINE


async def test_a_leader_keeps_leading_if_the_api_server_fails_for_a_moment_after_a_conflict(
    site: tuple[Site, Election],
) -> None:
    server, election = site
    await election.acquire()
    renewed = asyncio.Event()

    server.writes, server.reads = [409], [503]
    hold = asyncio.create_task(election.hold(lambda _: renewed.set()))
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait((hold, asyncio.create_task(renewed.wait())), return_when=asyncio.FIRST_COMPLETED)

    assert not hold.done()
    hold.cancel()


async def test_the_time_of_a_lead_counts_from_the_request_for_the_lease(site: tuple[Site, Election]) -> None:
    """A Lease that was stored at once but answered late may belong to another by then."""
    server, election = site
    server.writes = ["late"]
    acquiring = asyncio.create_task(election.acquire())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        await server.entered.wait()
        stored = loop.time()
        while loop.time() - stored < RENEW_DEADLINE:
            await asyncio.wait((acquiring,), timeout=RENEW_DEADLINE)
        server.writes = ["never"]
        server.answer.set()
        await acquiring
        renewals: list[float] = []
        began = loop.time()
        await election.hold(renewals.append)

    assert not renewals
    assert loop.time() - began < RENEW_DEADLINE


async def test_a_lease_that_was_taken_without_an_answer_is_taken_again_at_once(site: tuple[Site, Election]) -> None:
    """Not when it expires: no other candidate could take it before."""
    server, election = site
    await election.acquire()
    await election.release()
    server.writes = ["lost"]
    began = asyncio.get_running_loop().time()

    async with asyncio.timeout(DEADLINE):
        term = await election.acquire()

    assert asyncio.get_running_loop().time() - began < module.LEASE_SECONDS / 3
    assert server.lease is not None
    assert server.lease["metadata"]["annotations"]["processhub.dev/term"] == str(term) == "3"


async def test_a_candidate_whose_token_is_rejected_ends(
    site: tuple[Site, Election], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, election = site
    monkeypatch.setattr(module, "STANDBY_SECONDS", 0.01)
    monkeypatch.setattr(module, "REJECTED_SECONDS", 0.1)

    server.reads = [401, 503] * 20
    async with asyncio.timeout(DEADLINE):
        await election.acquire()
    await election.release()
    server.reads = [401] * 1000
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(UnauthorizedError, match="rollout restart deployment processhub-operator"):
            await election.acquire()


async def test_the_term_is_above_those_of_all_hubs_even_of_one_that_cannot_be_read(
    site: tuple[Site, Election],
) -> None:
    server, election = site
    metadata = {"namespace": "ns", "uid": "u", "resourceVersion": "1"}
    server.hubs = [
        {"metadata": {"name": "new", **metadata}, "spec": {}},
        {"metadata": {"name": "read", **metadata}, "spec": {}, "status": {"term": 5}},
        {"metadata": {"name": "unread", **metadata}, "spec": {"members": "all"}, "status": {"term": 41}},
    ]

    async with asyncio.timeout(DEADLINE):
        assert await election.acquire() == 42


@pytest.mark.parametrize("text", ["", "many", "-4", "4.5", "9" * 5000, "9000001"])
async def test_a_term_in_the_lease_that_is_none_keeps_nobody_from_leading(
    site: tuple[Site, Election], text: str
) -> None:
    server, election = site
    annotations = {"processhub.dev/term": text}
    metadata = {"name": "processhub-operator", "namespace": "ns", "resourceVersion": "1", "annotations": annotations}
    server.lease = {"metadata": metadata, "spec": {"holderIdentity": ""}}
    server.hubs = [{"metadata": {"name": "hub", "namespace": "ns", "resourceVersion": "1"}, "status": {"term": 5}}]

    async with asyncio.timeout(DEADLINE):
        assert await election.acquire() == 6

    assert server.lease["metadata"]["annotations"]["processhub.dev/term"] == "6"
