"""A status that is written late or not at all: its object was created again meanwhile, or the write is refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import virtualtime
from memoryapi import Json, MemoryApi, MemoryClient, Wire

from builders import make_hub
from processhub.api.child import Child, ChildStatus
from processhub.api.hub import Hub, HubStatus
from processhub.cluster.errors import ApiError, ForbiddenError, UnavailableError
from processhub.cluster.kinds import CHILDREN, HUBS
from processhub.controller.report.childqueue import ChildStatuses
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.report.statusrate import OF_HUBS
from processhub.controller.report.writer import AppliedStatuses
from processhub.controller.rounds.round import Requeue
from processhub.controller.store.hubstate import HubKey
from processhub.controller.store.informers import Store

CHILD: Json = {"spec": {"hub": "hub", "exec": {"command": ["x"]}}}
UNAVAILABLE = UnavailableError(503, "ServiceUnavailable", "overloaded")


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
        writer = AppliedStatuses(there.client, there.store, woken.append, OF_HUBS, RefusedStatuses(lambda _: None))
        writer.report(("ns", "hub"), (hub,), lambda: {hub.metadata.uid: status}, Requeue())
        await asyncio.sleep(0.5)
        return len(woken)

    virtualtime.run(late())


def test_a_status_that_is_reported_during_a_write_wakes_the_hub_after_it() -> None:
    async def main() -> None:
        there = Successor("hubs", {"kind": "Hub", "spec": {"members": {"replicas": 1}}})
        woken: list[HubKey] = []
        writer = AppliedStatuses(there.client, there.store, woken.append, OF_HUBS, RefusedStatuses(lambda _: None))

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
        statuses = ChildStatuses(
            there.client,
            there.store,
            lambda _: (first, ChildStatus(id="of the first")),
            RefusedStatuses(lambda _: None),
        )
        running = asyncio.create_task(statuses.run())
        statuses.mark(("ns", "hub"))
        await asyncio.sleep(0.5)
        running.cancel()

        assert there.present.get("status", {}).get("id") == (None if replaced else "of the first")

    virtualtime.run(late())


@pytest.mark.parametrize(("error", "most"), [(ForbiddenError(403, "Forbidden", "by a policy"), 12), (UNAVAILABLE, 200)])
def test_a_status_that_is_refused_for_ever_is_tried_less_and_less_often(error: ApiError, most: int) -> None:
    tried: list[float] = []

    class Refusing(MemoryClient):
        async def apply(self, *_: Any, **__: Any) -> Any:
            tried.append(asyncio.get_running_loop().time())
            if len(tried) < 200:
                raise error
            return hub

    async def main() -> None:
        api = MemoryApi()
        client = Refusing(api, Wire())
        rounds, waits = asyncio.Queue[HubKey](), Requeue()
        writer = AppliedStatuses(
            client, Store(client, (), lambda _: None), rounds.put_nowait, OF_HUBS, RefusedStatuses(lambda _: None)
        )
        began, count = asyncio.get_running_loop().time(), 0
        while asyncio.get_running_loop().time() < began + 90:
            writer.report(("ns", "hub"), (hub,), lambda: {hub.metadata.uid: HubStatus(ready_replicas=1)}, waits)
            after, waits = waits.after, Requeue()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(after):
                    await rounds.get()
            count += 1
        assert most / 2 <= len(tried) <= most
        assert count <= 3 * len(tried), "no round looks in vain again and again"
        await writer.close()

    hub = make_hub()
    virtualtime.run(main())
