"""Changes during a round; the engine runs in this process, against the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from namespaces import NAMESPACES
from operatorworld import SHORT, SLEEP
from prometheus_client import REGISTRY
from settling import settles, stays

from processhub.api.child import Child, ChildStatus
from processhub.api.meta import API_VERSION, find_condition
from processhub.cluster.client import Client
from processhub.cluster.config import Config
from processhub.cluster.errors import ConnectionFailedError
from processhub.cluster.informer import version_of
from processhub.cluster.kinds import CHILDREN, HUBS, SLICES, Kind, untyped
from processhub.controller.engine import Engine
from processhub.controller.hooks.receivers import HookReceivers
from processhub.controller.report import childqueue
from processhub.controller.report.childqueue import ChildKey, ChildStatuses
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.settings import MemberNetwork, OperatorSettings
from processhub.controller.store.informers import Store

CONFIG_MAPS = untyped("v1", "configmaps")
POLICIES = untyped("networking.k8s.io/v1", "networkpolicies")
OWN = {"app.kubernetes.io/name": "processhub", "processhub.dev/hub": "hub"}  # labels of the pods of the hub


class GatedClient(Client):
    """The product's client; applies wait for ``gate``, and those of Children's statuses for ``may_write_children``."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.reached, self.gate = asyncio.Event(), asyncio.Event()
        self.child_writes, self.may_write_children = 0, asyncio.Event()
        self.hub_statuses: list[dict[str, Any]] = []  # statuses of Hubs as they were sent
        self.lost_slice_writes = 0  # this many writes are still to be lost

    async def replace(self, kind: Kind[Any], *arguments: Any, **options: Any) -> Any:
        if kind is CHILDREN:
            self.child_writes += 1
            await self.may_write_children.wait()
        if kind is SLICES and self.lost_slice_writes:
            self.lost_slice_writes -= 1
            raise ConnectionFailedError("the connection broke before anything was sent")
        return await super().replace(kind, *arguments, **options)

    async def apply(
        self, kind: Kind[Any], namespace: str, name: str, body: Any, *, subresource: str | None = None, **options: Any
    ) -> Any:
        if subresource is None:
            self.reached.set()
            await self.gate.wait()
        else:
            self.hub_statuses.append(body)
        return await super().apply(kind, namespace, name, body, subresource=subresource, **options)


@asynccontextmanager
async def engine_with(client: GatedClient, namespace: str, *, term: int = 1, **settings: Any) -> AsyncIterator[Engine]:
    """Run an engine in the namespace; the gates are open at its end."""
    given = OperatorSettings(pod_name="t", pod_uid="", namespace=namespace, namespaces=(namespace,), **settings)
    engine = Engine(client, given, term, HookReceivers())
    await engine.start()
    try:
        yield engine
    finally:
        client.gate.set()
        client.may_write_children.set()
        await engine.stop()


def hub_manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Hub",
        "metadata": {"name": "hub"},
        "spec": {"members": {"replicas": 0}} | spec,
    }


def child_manifest(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Child",
        "metadata": {"name": name},
        "spec": {"hub": "hub", "exec": {"command": SLEEP}} | spec,
    }


@pytest.mark.parametrize("edited", [False, True], ids=["created", "edited"])
async def test_a_child_that_arrives_during_a_round_and_is_rejected_is_reported(
    api: Client, namespace: str, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(childqueue, "_SETTLE_SECONDS", 0.0)  # the next round takes longer than that
    if edited:
        await api.create(CHILDREN, namespace, child_manifest("a"))
    async with GatedClient(api.config) as client, engine_with(client, namespace) as engine:
        await api.create(HUBS, namespace, hub_manifest())
        await client.reached.wait()  # the first round has observed and planned

        if edited:
            came = await api.patch(CHILDREN, namespace, "a", {"spec": {"nodes": ["hub-0"]}})
        else:
            came = await api.create(CHILDREN, namespace, child_manifest("a", nodes=["hub-0"]))

        async def seen() -> None:
            child = engine.store.child((namespace, "a"))
            assert child is not None
            assert child.metadata.resource_version == came.metadata.resource_version

        await settles(seen, every=0.01)
        ended = rounds()
        client.gate.set()

        async def two_rounds_later() -> None:
            assert client.child_writes
            assert rounds() >= ended + 2

        await settles(two_rounds_later, every=0.01)
        client.may_write_children.set()

        async def reported() -> None:
            now = await api.get(CHILDREN, namespace, "a")
            accepted = find_condition(now.status.conditions, "Accepted")
            assert accepted is not None
            assert (accepted.status, accepted.reason) == ("False", "InvalidChildMapping")

        await settles(reported)


async def test_a_hub_re_created_during_a_round_gets_no_status_of_the_first(api: Client, namespace: str) -> None:
    async with GatedClient(api.config) as client, engine_with(client, namespace) as engine:
        first = await api.create(HUBS, namespace, hub_manifest())
        await client.reached.wait()  # the first round has observed and planned

        await api.delete(HUBS, namespace, "hub")
        second = await api.create(HUBS, namespace, hub_manifest(suspend=True))

        async def seen() -> None:
            assert engine.store.hubs[namespace, "hub"].metadata.uid == second.metadata.uid

        await settles(seen, every=0.01)
        client.gate.set()

        async def answered() -> None:
            ready = find_condition((await api.get(HUBS, namespace, "hub")).status.conditions, "Ready")
            assert ready is not None
            assert ready.reason == "Suspended"

        await settles(answered, within=120)  # garbage collection discovers new CRDs every 30 s
        reported = {
            condition.reason
            for body in client.hub_statuses
            if version_of(body["metadata"]["resourceVersion"]) >= version_of(second.metadata.resource_version)
            for condition in body["status"].conditions
            if condition.type == "Ready"
        }
        assert first.metadata.uid != second.metadata.uid
        # Objects of the first may delay the second for a moment.
        assert reported <= {"Suspended", "NameConflict"}


async def test_a_lost_slice_write_is_retried_although_no_event_follows(api: Client, namespace: str) -> None:
    nowhere = {"replicas": 1, "template": {"spec": {"nodeSelector": {"nowhere": "true"}}}}
    async with GatedClient(api.config) as client, engine_with(client, namespace):
        client.gate.set()
        await api.create(HUBS, namespace, hub_manifest(members=nowhere, timeouts=SHORT))

        async def has_settings(stop_seconds: float) -> None:
            items, _ = await api.list(SLICES, namespace)
            assert [item.spec.settings.stop_seconds for item in items] == [stop_seconds]

        await settles(lambda: has_settings(SHORT["stopSeconds"]))
        client.lost_slice_writes = 4  # more than the rounds that follow from the edit

        await api.patch(HUBS, namespace, "hub", {"spec": {"timeouts": {"stopSeconds": 7}}})

        await settles(lambda: has_settings(7), within=10)
        assert client.lost_slice_writes == 0


async def test_rounds_in_a_namespace_being_deleted_do_not_fail(api: Client, namespace: str) -> None:
    kept = {"metadata": {"name": "kept", "finalizers": ["test/kept"]}}
    await api.create(CONFIG_MAPS, namespace, kept)
    async with GatedClient(api.config) as client, engine_with(client, namespace):
        await api.create(HUBS, namespace, hub_manifest())
        await client.reached.wait()
        failed, ended = failed_rounds(), rounds()

        await api.delete(NAMESPACES, None, namespace)
        client.gate.set()

        async def round_ended() -> None:
            assert rounds() > ended

        await settles(round_ended, every=0.01)
        assert failed_rounds() == failed
    await api.patch(CONFIG_MAPS, namespace, "kept", {"metadata": {"finalizers": None}})


async def test_child_statuses_are_throttled_while_a_hub_has_many_changes(
    api: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(childqueue, "_THROTTLE_SECONDS", 1000.0)  # only a round with few changes ends it here
    names = [f"c{number}" for number in range(20)]
    children = {(namespace, name): await api.create(CHILDREN, namespace, child_manifest(name)) for name in names}
    hub = (namespace, "hub")

    def latest(key: ChildKey) -> tuple[Child, ChildStatus]:
        return children[key], ChildStatus(id=key[1], member="hub-0")

    async with GatedClient(api.config) as client:
        writer = ChildStatuses(
            client, Store(client, (namespace,), lambda _: None), latest, RefusedStatuses(lambda _: None)
        )
        writer.throttle(hub, True)
        for key in children:
            writer.mark(key)
        running = asyncio.create_task(writer.run())
        try:

            async def under_way(count: int) -> None:
                assert client.child_writes == count

            await settles(lambda: under_way(1), every=0.01)
            await stays(lambda: under_way(1), 0.4)
            writer.throttle(hub, False)
            await settles(lambda: under_way(16), every=0.01)
            client.may_write_children.set()

            async def all_written() -> None:
                for name in names:
                    assert (await api.get(CHILDREN, namespace, name)).status.member == "hub-0"

            await settles(all_written)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_the_latest_status_of_a_child_is_written_last(api: Client, namespace: str) -> None:
    child = await api.create(CHILDREN, namespace, child_manifest("a"))
    member = "hub-0"

    async with GatedClient(api.config) as client:

        def latest(_: ChildKey) -> tuple[Child, ChildStatus]:
            return child, ChildStatus(id="a", member=member, state="Running")

        writer = ChildStatuses(
            client, Store(client, (namespace,), lambda _: None), latest, RefusedStatuses(lambda _: None)
        )
        writer.mark((namespace, "a"))
        running = asyncio.create_task(writer.run())
        try:

            async def first_under_way() -> None:
                assert client.child_writes == 1

            await settles(first_under_way, every=0.01)
            member = "hub-1"
            writer.mark((namespace, "a"))
            await stays(first_under_way, 0.4)
            client.may_write_children.set()

            async def reported() -> None:
                assert client.child_writes == 2
                assert (await api.get(CHILDREN, namespace, "a")).status.member == "hub-1"

            await settles(reported)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_members_have_a_network_policy_while_the_chart_enables_it(api: Client, namespace: str) -> None:
    peers = ({"namespaceSelector": {"matchLabels": {"team": "callers"}}},)
    await api.create(HUBS, namespace, hub_manifest())

    async def policies() -> list[dict[str, Any]]:
        listed: list[Any]
        listed, _ = await api.list(POLICIES, namespace)
        return [each["spec"] for each in listed]

    async def kept() -> None:
        (spec,) = await policies()
        (ingress,) = spec["ingress"]
        assert spec["policyTypes"] == ["Ingress"]
        assert ingress["ports"] == [{"port": "http", "protocol": "TCP"}]
        assert ingress["from"] == [{"podSelector": {"matchLabels": OWN}}, *peers]

    async with GatedClient(api.config) as client:
        client.gate.set()
        async with engine_with(client, namespace, member_network=MemberNetwork(peers=peers)):
            await settles(kept)
            await api.patch(POLICIES, namespace, "processhub-hub", {"spec": {"ingress": []}})
            await settles(kept)
        async with engine_with(client, namespace, term=2):

            async def none() -> None:
                assert await policies() == []

            await settles(none)


def rounds() -> float:
    return REGISTRY.get_sample_value("processhub_round_seconds_count") or 0.0


def failed_rounds() -> float:
    return REGISTRY.get_sample_value("processhub_failed_rounds_total") or 0.0
