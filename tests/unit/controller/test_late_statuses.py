"""A status that is written late: of a Hub or Child that was deleted and created again under its name meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import virtualtime
from memoryapi import Json, MemoryApi, MemoryClient, Wire

from processhub.api.child import Child, ChildStatus
from processhub.api.hub import Hub, HubStatus
from processhub.cluster.kinds import CHILDREN, HUBS
from processhub.controller.report.childqueue import ChildStatuses
from processhub.controller.report.statusrate import OF_HUBS
from processhub.controller.report.writer import AppliedStatuses
from processhub.controller.rounds.round import Requeue
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

CHILD: Json = {"spec": {"hub": "hub", "exec": {"command": ["x"]}}}


class Successor:
    """An object that is deleted and created again while a status of the first is on its way."""

    def __init__(self, plural: str, body: Json) -> None:
        self.api, self.plural, self._body = MemoryApi(), plural, body
        self.client = MemoryClient(self.api, Wire())
        self.store = Store(self.client, (), lambda _: None)
        self._create()

    def _create(self) -> None:
        metadata = {"name": "hub", "labels": {}}
        self.api.create(self.plural, {"apiVersion": "processhub.dev/v1alpha1", **self._body, "metadata": metadata})

    def replace(self) -> None:
        """Delete the object, and create another."""
        self.api.delete(self.plural, "hub")
        self._create()

    @property
    def present(self) -> Json:
        """The object as it is."""
        return self.api.get(self.plural, "hub")

    def run(self, work: Any) -> None:
        """Run in virtual time."""
        virtualtime.run(work)


def test_the_status_of_a_deleted_hub_does_not_land_on_its_successor() -> None:
    async def late() -> None:
        there = Successor("hubs", {"kind": "Hub", "spec": {"members": {"replicas": 1}}})
        first: Hub = await there.client.get(HUBS, "ns", "hub")
        there.replace()

        assert await woken_by(there, first, HubStatus(ready_replicas=1, selector="of the first")) == 1

        assert "selector" not in there.present.get("status", {})
        second: Hub = await there.client.get(HUBS, "ns", "hub")
        assert await woken_by(there, second, HubStatus(ready_replicas=1, selector="of the second")) == 0
        assert there.present["status"]["selector"] == "of the second"

    async def woken_by(there: Successor, hub: Hub, status: HubStatus) -> int:
        woken: list[HubKey] = []
        writer = AppliedStatuses(there.client, there.store, woken.append, OF_HUBS)
        writer.report(("ns", "hub"), (hub,), lambda: {hub.metadata.uid: status}, Requeue())
        await asyncio.sleep(0.5)
        return len(woken)

    virtualtime.run(late())


def test_a_status_that_is_reported_during_a_write_wakes_the_hub_after_it() -> None:
    async def main() -> None:
        there = Successor("hubs", {"kind": "Hub", "spec": {"members": {"replicas": 1}}})
        woken: list[HubKey] = []
        writer = AppliedStatuses(there.client, there.store, woken.append, OF_HUBS)

        hub: Hub = await there.client.get(HUBS, "ns", "hub")

        def report(selector: str) -> None:
            status = HubStatus(ready_replicas=1, selector=selector)
            writer.report(("ns", "hub"), (hub,), lambda: {hub.metadata.uid: status}, Requeue())

        report("first")
        report("second")
        await asyncio.sleep(0.5)

        assert (there.present["status"]["selector"], woken) == ("first", [("ns", "hub")])

    virtualtime.run(main())


@pytest.mark.parametrize("replaced", [True, False])
def test_the_status_of_a_deleted_child_does_not_land_on_its_successor(replaced: bool) -> None:
    async def late() -> None:
        there = Successor("children", {"kind": "Child", **CHILD})
        first: Child = await there.client.get(CHILDREN, "ns", "hub")
        if replaced:
            there.replace()
        else:
            there.api.update(next(iter(there.api.objects)), lambda item: item["metadata"].update(labels={"a": "b"}))
        statuses = ChildStatuses(there.client, there.store, lambda _: (first, ChildStatus(id="of the first")))
        running = asyncio.create_task(statuses.run())
        statuses.mark(("ns", "hub"))
        await asyncio.sleep(0.5)
        running.cancel()

        assert there.present.get("status", {}).get("id") == (None if replaced else "of the first")

    virtualtime.run(late())
