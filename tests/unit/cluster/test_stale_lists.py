"""Lists of an API server that is behind, which are read beside a watch: what they lack must not be believed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memoryapi import Key, MemoryApi, MemoryClient, Wire, old_list

from processhub.agent.env import Environment
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.cluster.errors import StaleListError
from processhub.controller.lead.takeover import raise_terms
from processhub.controller.store.informers import Store

ENV = Environment("hub", "ns", "hub-uid", "hub-0", "hub-0", "pod-uid", "10.0.0.1", "node", run_dir=Path("unused"))


class LaggingClient(MemoryClient):
    """A client whose lists are of the version ``at``, if it is set."""

    at = 0

    def send(self, method: str, path: str, query: dict[str, str] | None, *rest: Any) -> Any:
        if self.at and query and "limit" in query:
            query = {**query, "continue": old_list(self.at)}
        return super().send(method, path, query, *rest)


def add(api: MemoryApi, member: str, term: int = 1) -> None:
    labels = {"processhub.dev/hub": "hub", "processhub.dev/hub-uid": "hub-uid", "processhub.dev/member": member}
    spec = {"hub": "hub", "hubUid": "hub-uid", "mode": "Replicas", "member": member, "term": term, "format": 2}
    api.create("registryslices", {"metadata": {"name": f"hub.{member}.0", "labels": labels}, "spec": spec})


def test_an_agent_does_not_act_on_slices_that_are_older_than_what_it_has_seen() -> None:
    async def main() -> None:
        api = MemoryApi()
        client = LaggingClient(api, Wire())
        add(api, "hub-0")
        watcher = SliceWatcher(client, ENV, "pod-uid/me")
        following = asyncio.create_task(watcher.informer.run())
        await watcher.informer.synced.wait()
        before = api.version
        api.update(Key("registryslices", "ns", "hub.hub-0.0"), lambda item: item["spec"].update(term=2))
        await asyncio.sleep(1)

        client.at = before
        with pytest.raises(StaleListError):
            await watcher.refresh()
        client.at = 0
        await watcher.refresh()
        following.cancel()

    virtualtime.run(main())


def test_a_leader_raises_the_term_of_a_slice_that_an_older_list_lacks() -> None:
    async def main() -> None:
        api = MemoryApi()
        client = LaggingClient(api, Wire())
        add(api, "hub-0", term=2)
        before = api.version
        add(api, "hub-1")
        store = Store(client, (), lambda _: None)
        store.start()
        await store.synced()

        client.at = before
        raising = asyncio.create_task(raise_terms(client, store, (), 2))
        await asyncio.sleep(2)
        client.at = 0
        await raising

        assert [api.get("registryslices", f"hub.hub-{number}.0")["spec"]["term"] for number in (0, 1)] == [2, 2]
        await store.close()

    virtualtime.run(main())
