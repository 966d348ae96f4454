"""Writes of slices against an API server that is slow with one and refuses another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from a_round import a_round
from aiohttp import web
from aiohttp.test_utils import TestServer

from processhub.api.hub import Hub
from processhub.api.meta import ObjectMeta
from processhub.api.slice import RegistrySlice, SliceSpec
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.cluster.errors import UnavailableError
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.observe.members import Member
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.membership import Judgement, Phase

HUB = Hub(metadata=ObjectMeta(name="hub", namespace="ns", uid="hub-uid"))
DEADLINE = 40.0


class Site:
    """Refuses slice 0 with 503 once slice 1 is being written, and answers that when it is told to."""

    def __init__(self) -> None:
        self.writing, self.answer = asyncio.Event(), asyncio.Event()
        self.refused = asyncio.Event()
        self.stored: list[str] = []

    async def replace(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name.endswith(".0"):
            await self.writing.wait()
            self.refused.set()
            return web.json_response({"kind": "Status", "message": "overloaded"}, status=503)
        body = await request.json()
        self.writing.set()
        await self.answer.wait()
        self.stored.append(name)
        return web.json_response(body)


async def no_token() -> str | None:
    return None


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, Client]]:
    site, app = Site(), web.Application()
    app.add_routes([web.put("/apis/processhub.dev/v1alpha1/namespaces/ns/registryslices/{name}", site.replace)])
    async with TestServer(app) as server:
        config = Config(host=str(server.make_url("")).rstrip("/"), namespace="ns", ssl=False, token=no_token)
        async with Client(config) as client:
            yield site, client


def a_slice(index: int) -> KnownSlice:
    known = KnownSlice()
    metadata = ObjectMeta(
        name=f"hub.hub-0.{index}", namespace="ns", uid=f"s{index}", generation=1, resource_version="5"
    )
    known.update(RegistrySlice(metadata=metadata, spec=SliceSpec(hub="hub", hub_uid="hub-uid", member="hub-0", term=1)))
    return known


async def test_a_write_that_is_refused_leaves_no_other_behind_that_lands_beside_the_next_round(
    site: tuple[Site, Client],
) -> None:
    """A child that the next round places elsewhere would be on record twice, and run twice."""
    server, client = site
    store = Store(client, (), lambda key: None)
    round = a_round(HUB, HubState(HUB.metadata.key), client=client, store=store, term=2)
    writer = SliceWriter(round, ExecuteMemory(), fingerprint="", partitioned=False)
    judgement = Judgement(Phase.LIVE, draining=False, restarting=False, recheck_seconds=None, why="")
    slices = (a_slice(0), a_slice(1))
    member = Member(name="hub-0", wanted=True, weight=1, pod=None, lease=None, slices=slices, judgement=judgement)

    written = asyncio.create_task(writer.write(member, {}, {}, joining=False))
    async with asyncio.timeout(DEADLINE):
        await server.refused.wait()
        await asyncio.wait((written,), timeout=0.2)
        assert not written.done(), "the other write is under way"
        server.answer.set()
        with pytest.raises(UnavailableError):
            await written

    assert server.stored == ["hub.hub-0.1"]
