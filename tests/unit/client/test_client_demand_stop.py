"""Stops of children that requests have started: the orders on the Hub, and the wait for the end of their runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import virtualtime
from memoryapi import Key, MemoryApi, MemoryClient, Wire

from builders import make_slice
from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_STOP
from processhub.client.asynchub import AsyncHub
from processhub.client.session import Session
from processhub.cluster.errors import ForbiddenError, UnavailableError
from processhub.registry.grammar import Assignment, Report

HUB = Key("hubs", "ns", "hub")


class Site:
    """A hub in memory whose operator is this test: ``runs`` is the epoch of each child on record."""

    def __init__(self) -> None:
        self.api = MemoryApi()
        stored = self.api.create(
            "hubs", {"metadata": {"name": "hub"}, "spec": {"onDemand": {"exec": {"command": ["x"]}}}}
        )
        hub = msgspec.convert(stored, Hub, strict=False)
        self.session = Session(MemoryClient(self.api, Wire()), "ns", hub)
        self.hub = AsyncHub.attached(self.session)
        self.runs: dict[str, int] = {}

    def show(self, ending: Iterable[str] = ()) -> None:
        """Have the client see the runs, and the reports of those that end."""
        uid = self.session.registry.hub_uid
        entries = {
            id_: Assignment(uid=uid, epoch=epoch, workload="w", on_demand=True) for id_, epoch in self.runs.items()
        }
        reports = {id_: Report(uid=uid, epoch=1, state="Stopping") for id_ in ending}
        self.session.registry.put(make_slice(entries, reports, hub_uid=uid))

    @property
    def orders(self) -> dict[str, int]:
        """The orders on the Hub."""
        text = self.api.get("hubs", "hub")["metadata"].get("annotations", {}).get(ANNOTATION_STOP, "{}")
        assert len(text) <= 100_100
        return dict(json.loads(text))

    def answer(self) -> list[str]:
        """Take the ordered runs off the record, and remove all orders, as an operator does; returns the ids."""
        orders = self.orders
        for child_id, epoch in orders.items():
            if self.runs.get(child_id) == epoch:
                del self.runs[child_id]
        self.api.update(HUB, lambda hub: hub["metadata"].get("annotations", {}).pop(ANNOTATION_STOP, None))
        self.session.hub = msgspec.convert(self.api.get("hubs", "hub"), Hub, strict=False)
        return list(orders)


def run(test: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Site())

    virtualtime.run(main())


def test_a_stop_waits_until_the_run_has_ended_and_its_order_names_the_epoch() -> None:
    async def test(site: Site) -> None:
        site.runs = {"a": 1, "b": 2}
        site.show()
        stopping = asyncio.create_task(site.hub.stop_children(["a"], wait=True))
        await asyncio.sleep(1)
        assert site.orders == {"a": 1}

        site.answer()
        site.show(ending=["a"])
        await asyncio.sleep(5)
        assert not stopping.done()
        site.show()

        result = await stopping
        assert (result.stopped, result.on_demand, result.errors, result.objects) == (["a"], {"a"}, {}, {})
        assert site.runs == {"b": 2}

    run(test)


def test_other_orders_stay_and_a_run_that_a_request_starts_meanwhile_is_left_alone() -> None:
    async def test(site: Site) -> None:
        site.api.update(HUB, lambda hub: hub["metadata"].update(annotations={ANNOTATION_STOP: '{"z":9}'}))
        site.runs = {"a": 1}
        site.show()
        stopping = asyncio.create_task(site.hub.stop_children(["a"], wait=True))
        await asyncio.sleep(1)
        assert site.orders == {"z": 9, "a": 1}

        site.answer()
        site.show()
        site.runs["a"] = 2
        site.show()

        assert (await stopping).stopped == ["a"]
        assert site.orders == {}

    run(test)


def test_a_child_that_has_not_taken_the_run_over_yet_is_deleted_with_it() -> None:
    async def test(site: Site) -> None:
        site.runs = {"a": 1}
        site.show()
        site.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}})

        result = await site.hub.stop_children(["a"])

        assert (result.stopped, result.objects, site.orders) == (["a"], {"a": "a"}, {"a": 1})
        assert not [key for key in site.api.objects if key.plural == "children"]

    run(test)


def test_a_run_that_was_moved_before_the_order_was_read_is_ordered_to_stop_again() -> None:
    async def test(site: Site) -> None:
        site.runs = {"a": 1}
        site.show()
        stopping = asyncio.create_task(site.hub.stop_children(["a"], wait=True))
        await asyncio.sleep(1)
        site.runs["a"] = 3
        site.show()
        site.answer()

        await asyncio.sleep(1)
        assert site.orders == {"a": 3}
        site.answer()
        site.show()
        assert (await stopping).stopped == ["a"]

    run(test)


def test_a_stop_that_nobody_carries_out_times_out_and_one_without_wait_returns_at_once() -> None:
    async def test(site: Site) -> None:
        site.runs = {"a": 1}
        site.show()

        assert (await site.hub.stop_children(["a"])).stopped == ["a"]
        result = await site.hub.stop_children(["a"], wait=True, timeout=3)

        assert (result.stopped, result.on_demand) == ([], set())
        assert str(result.errors["a"]) == "Timeout: its end is ordered, but it had not ended within the timeout"

    run(test)


def test_more_orders_than_an_annotation_has_room_for_are_written_one_after_the_other() -> None:
    async def test(site: Site) -> None:
        site.runs = {f"{number:03}-{'x' * 200}": 1 for number in range(900)}
        ids = list(site.runs)
        site.show()
        stopping = asyncio.create_task(site.hub.stop_children(ids, wait=True))
        answered: list[str] = []
        while not stopping.done():
            await asyncio.sleep(1)
            answered += site.answer()
            site.show()

        assert (await stopping).stopped == ids
        assert sorted(answered) == ids

        site.runs = dict.fromkeys(ids, 2)
        site.show()
        result = await site.hub.stop_children(ids, timeout=1)
        assert {error.reason for error in result.errors.values()} == {"NotSent"}
        assert len(result.stopped) == len(site.orders)

    run(test)


def test_the_error_of_a_write_is_that_of_each_child() -> None:
    async def test(site: Site) -> None:
        async def refused(*_: object, **__: object) -> Any:
            raise ForbiddenError(403, "Forbidden", "you may not patch hubs")

        site.runs = {"a": 1}
        site.show()
        site.session.client.patch = refused  # type: ignore[method-assign]

        result = await site.hub.stop_children(["a"], wait=True)

        assert str(result.errors["a"]) == "Forbidden: you may not patch hubs"

    run(test)


def test_an_order_for_a_run_that_was_moved_is_written_again_until_it_is_stored() -> None:
    """A server error at the second order ended the stop of all children, without an outcome of any."""

    async def test(site: Site) -> None:
        site.runs = {"a": 1, "b": 1}
        site.show()
        stopping = asyncio.create_task(site.hub.stop_children(["a", "b"], wait=True))
        await asyncio.sleep(1)
        failures, patch = [1, 2], site.session.client.patch

        async def unavailable(*given: Any, **more: Any) -> Any:
            if failures:
                raise UnavailableError(500, "InternalError", f"etcd: {failures.pop()}")
            return await patch(*given, **more)

        site.session.client.patch = unavailable  # type: ignore[method-assign]
        site.runs["a"] = 3
        site.show()
        site.answer()

        await asyncio.sleep(2)
        assert (failures, site.orders) == ([], {"a": 3})
        site.answer()
        site.show()
        assert (await stopping).stopped == ["a", "b"]

    run(test)
