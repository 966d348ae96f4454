"""Writes of slices against an API server that is slow with one and rejects another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from a_round import a_round
from aiohttp import web
from observing import observed
from slicesite import rounds_on, two_members

from builders import client_of, make_hub, make_member, make_slice
from processhub.api.slice import FORMAT
from processhub.cluster.client import Client
from processhub.cluster.errors import UnavailableError
from processhub.controller.execute.executor import Executor
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.informers import Store
from processhub.core.model.plan import Move, Plan
from processhub.registry.grammar import Assignment

HUB = make_hub()
DEADLINE = 40.0


class Site:
    """Rejects slice 0 with 503 once slice 1 is being written, and answers that write when the test says so."""

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


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, Client]]:
    site, app = Site(), web.Application()
    app.add_routes([web.put("/apis/processhub.dev/v1alpha1/namespaces/ns/registryslices/{name}", site.replace)])
    async with client_of(app) as client:
        yield site, client


async def test_a_rejected_write_leaves_no_other_write_to_land_in_the_next_round(
    site: tuple[Site, Client],
) -> None:
    """Otherwise a child that the next round places elsewhere would be recorded and run twice."""
    server, client = site
    store = Store(client, (), lambda key: None)
    round = a_round(HUB, HubState(HUB.metadata.key), client=client, store=store, term=2)
    writer = SliceWriter(round, ExecuteMemory(), fingerprint="", partitioned=False)
    member = make_member("hub-0", *(make_slice(index=index, resource_version="5") for index in (0, 1)))

    written = asyncio.create_task(writer.write(member, {}, {}, joining=False))
    async with asyncio.timeout(DEADLINE):
        await server.refused.wait()
        await asyncio.wait((written,), timeout=0.2)
        assert not written.done(), "the other write is under way"
        server.answer.set()
        with pytest.raises(UnavailableError):
            await written

    assert server.stored == ["hub.hub-0.1"]


@pytest.mark.parametrize("option", ["state=sum", "restart=Temporary", "restart=Transient"])
async def test_what_the_last_status_decides_is_taken_off_a_member_that_is_gone_only_by_that(option: str) -> None:
    """A child may have been up with its state since, or have ended, so that it is not to be started again."""
    site = two_members()
    item = site.slices["hub.hub-0.0"]
    item["spec"]["entries"] = {"a": f"ua 1 Active w {option}", "b": "ub 2 Active w"}
    async with rounds_on(site, "hub-0") as rounds:
        item["metadata"]["resourceVersion"] = "6"
        writer = SliceWriter(
            a_round(HUB, client=rounds.client, store=rounds.store), ExecuteMemory(), fingerprint="", partitioned=False
        )
        rounds.gone.add("hub-0")

        await writer.write(rounds.member("hub-0"), {"b": None}, {}, joining=False)
        assert site.slices["hub.hub-0.0"]["spec"]["entries"].keys() == {"a"}
        item["metadata"]["resourceVersion"] = "500"
        await writer.write(rounds.member("hub-0"), {"a": None}, {}, joining=False)
        assert site.owners("a") == ["hub.hub-0.0"], "the status has changed since it was read"
        await writer.write(rounds.member("hub-0"), {"a": None}, {}, joining=False)
        assert site.owners("a") == []


async def test_a_slice_has_the_format_of_who_wrote_its_entries_last() -> None:
    site = two_members()
    site.slices["hub.hub-0.0"]["spec"]["format"] = FORMAT - 1
    async with rounds_on(site, "hub-0") as rounds:
        round = a_round(HUB, client=rounds.client, store=rounds.store)
        writer = SliceWriter(round, ExecuteMemory(), fingerprint="", partitioned=False)

        await writer.write(rounds.member("hub-0"), {}, {}, joining=False)

    assert site.slices["hub.hub-0.0"]["spec"]["format"] == FORMAT


@pytest.mark.parametrize(
    ("way", "ordered"), [("", True), ("broken", True), ("refused", False), ("unanswered", False), ("late", False)]
)
async def test_a_child_is_ordered_to_hand_over_when_its_target_waits_on_record(way: str, ordered: bool) -> None:
    """Else it would end and start again where it was. ``broken``: the slice was read after the write."""
    site = two_members()
    site.slices["hub.hub-0.0"]["spec"] |= {"entries": {"a": "ua 1 Active w"}, "workloads": {"w": "{}"}}
    site.ways = [way]
    order = Assignment(uid="ua", epoch=1, workload="w", to="hub-1:2")
    waiting = Assignment(uid="ua", epoch=2, workload="w", wait=True)
    planned = Plan(
        entries={"hub-0": {"a": order}, "hub-1": {"a": waiting}},
        unplaced={},
        moves=(Move("a", "hub-0", "hub-1", "hub-1 joined"),),
        next_epoch=3,
    )
    async with rounds_on(site, "hub-0", "hub-1") as rounds:
        members = {name: rounds.member(name) for name in ("hub-0", "hub-1")}
        observation = observed(HUB, rounds.state, members, rounds.memory.observe)
        round = a_round(HUB, client=rounds.client, store=rounds.store)
        writer = SliceWriter(round, ExecuteMemory(), fingerprint="", partitioned=False)

        executed = await Executor(round, writer).execute(observation, planned, {"w": "{}"})

    assert (" to=hub-1:2" in site.slices["hub.hub-0.0"]["spec"]["entries"]["a"]) == ordered
    assert bool(executed.plan.moves) == ordered, "the move has begun where the target waits"
