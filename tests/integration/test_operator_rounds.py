"""What happens in the midst of a round; the engine runs in this process, against the real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from operatorworld import SLEEP, settles
from prometheus_client import REGISTRY

from processhub.api.meta import API_VERSION, find_condition
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.cluster.kinds import CHILDREN, HUBS, Kind
from processhub.operator import statuswriter
from processhub.operator.engine import Engine
from processhub.operator.settings import OperatorSettings


class GatedClient(Client):
    """The product's client; what it applies waits until ``gate`` is open, statuses of Children until ``tell`` is."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.reached, self.gate = asyncio.Event(), asyncio.Event()
        self.telling, self.tell = asyncio.Event(), asyncio.Event()

    async def replace(self, kind: Kind[Any], *arguments: Any, **options: Any) -> Any:
        if kind is CHILDREN:
            self.telling.set()
            await self.tell.wait()
        return await super().replace(kind, *arguments, **options)

    async def apply(self, *arguments: Any, subresource: str | None = None, **options: Any) -> Any:
        if subresource is None:
            self.reached.set()
            await self.gate.wait()
        return await super().apply(*arguments, subresource=subresource, **options)


@pytest.mark.parametrize("edited", [False, True], ids=["created", "edited"])
async def test_a_refusal_of_what_came_in_the_midst_of_a_round_is_told(
    api: Client, namespace: str, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuswriter, "_SETTLE_SECONDS", 0.0)  # the next round takes longer than that
    async with GatedClient(api.config) as client:
        engine = Engine(
            client, OperatorSettings(pod_name="t", pod_uid="", namespace=namespace, namespaces=(namespace,)), 1
        )
        good = {"hub": "hub", "exec": {"command": SLEEP}}
        bad = {**good, "nodes": ["hub-0"]}
        child = {"apiVersion": API_VERSION, "kind": "Child", "metadata": {"name": "a"}, "spec": good if edited else bad}
        hub = {
            "apiVersion": API_VERSION,
            "kind": "Hub",
            "metadata": {"name": "hub"},
            "spec": {"members": {"replicas": 0}},
        }
        if edited:
            await api.create(CHILDREN, namespace, child)
        await engine.start()
        try:
            await api.create(HUBS, namespace, hub)
            await client.reached.wait()  # the first round has observed and planned

            if edited:
                came = await api.patch(CHILDREN, namespace, "a", {"spec": bad})
            else:
                came = await api.create(CHILDREN, namespace, child)
            await settles(lambda: seen(engine, came.metadata.resource_version, namespace), every=0.01)
            ended = rounds()
            client.gate.set()
            await client.telling.wait()
            await settles(lambda: at_least(ended + 2), every=0.01)
            client.tell.set()

            async def told() -> None:
                now = await api.get(CHILDREN, namespace, "a")
                accepted = find_condition(now.status.conditions, "Accepted")
                assert accepted is not None
                assert (accepted.status, accepted.reason) == ("False", "InvalidChildMapping")

            await settles(told, within=10)
        finally:
            client.gate.set()
            client.tell.set()
            await engine.stop()


def rounds() -> float:
    return REGISTRY.get_sample_value("processhub_round_seconds_count") or 0.0


async def at_least(count: float) -> None:
    assert rounds() >= count


async def seen(engine: Engine, version: str, namespace: str) -> None:
    child = engine.child((namespace, "a"))
    assert child is not None
    assert child.metadata.resource_version == version
