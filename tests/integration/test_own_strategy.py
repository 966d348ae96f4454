"""Users' own strategies, installed with the operator and named by a Hub."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest_asyncio
from livehub import Live, live
from waiting import eventually

from localcluster.cluster import Cluster
from ownstrategy import installed
from processhub import Hub
from processhub.api.child import Child
from processhub.api.meta import find_condition
from processhub.cluster.client import Client
from processhub.cluster.kinds import HUBS, untyped

IDS = ["ann", "bea", "cid", "dan", "pat", "quin", "rob", "zoe"]
EVENTS = untyped("v1", "events")


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: object) -> AsyncIterator[Live]:
    folder = tmp_path_factory.mktemp("own")  # type: ignore[attr-defined]
    path = os.pathsep.join((installed(folder), *filter(None, [os.environ.get("PYTHONPATH")])))
    async with live(cluster, api, folder, PYTHONPATH=path) as running:
        yield running


async def placed(product: Live, hub: str, ids: list[str]) -> dict[str, Child] | None:
    """Return the children once all of these run."""
    children = await product.children(hub)
    running = {child_id: child for child_id, child in children.items() if child.status.state == "Running"}
    return running if set(ids) <= running.keys() else None


async def test_children_are_placed_by_the_strategys_ranks_and_follow_a_join(product: Live) -> None:
    hub = await product.hub(replicas=2, distribution={"strategy": "ByRegion"})
    for child_id in IDS:
        await product.child(child_id, hub)

    found = await eventually(lambda: placed(product, hub, IDS), "all run")
    assert {child_id: found[child_id].status.member for child_id in IDS} == {
        child_id: f"{hub}-{0 if child_id < 'n' else 1}" for child_id in IDS
    }

    await product.api.patch(HUBS, product.namespace, hub, {"spec": {"members": {"replicas": 3}}})

    async def follows() -> bool:
        now = await product.children(hub)
        members = {child_id: now[child_id].status.member for child_id in IDS}
        north = {members[child_id] for child_id in IDS if child_id < "n"}
        return {members[child_id] for child_id in IDS if child_id > "n"} == {f"{hub}-2"} and f"{hub}-2" not in north

    await eventually(follows, "the second region is the joiner's alone")


async def test_a_child_that_the_strategy_fails_on_is_placed_by_hash_and_the_hub_reports_it(product: Live) -> None:
    hub = await product.hub(replicas=2, distribution={"strategy": "ByRegion"})
    await product.child("four", hub, id="4")

    await eventually(lambda: placed(product, hub, ["4"]), "it runs")

    async def reported() -> bool:
        items, _ = await product.api.list(
            EVENTS, product.namespace, fields=f"involvedObject.name={hub},reason=StrategyFailed"
        )
        return any("ValueError: an id begins with the letter" in str(item) for item in items)

    await eventually(reported, "the Event")


async def test_the_error_for_an_unknown_strategy_lists_all_strategies(product: Live) -> None:
    hub = await product.hub(replicas=1, ready=False, distribution={"strategy": "ByRegions"})

    async def refused() -> str | None:
        accepted = find_condition((await product.api.get(HUBS, product.namespace, hub)).status.conditions, "Accepted")
        return accepted.message if accepted and accepted.reason == "UnknownStrategy" else None

    assert (await eventually(refused, "refused")).endswith("LeastLoaded, Modulo, Local, NotLocal, ByRegion")


async def test_redundancy_and_partition_strategies_decide_for_a_hub(product: Live) -> None:
    hub = await product.hub(
        replicas=4,
        distribution={"strategy": "ByRegion"},
        redundancy={"strategy": "OneInThree", "replicationModel": "ActivePassive"},
        partitionTolerance={"strategy": "AllButOne"},
    )
    await product.child("ann-2", hub)

    async def copied() -> bool:
        nodes = (await product.children(hub))["ann-2"].status.nodes
        places = {(node.name, node.role, node.state) for node in nodes}
        return {name for name, _, state in places if state == "Running"} == {f"{hub}-0", f"{hub}-1"} and sorted(
            role for _, role, _ in places
        ) == ["Active", "Passive"]

    await eventually(copied, "two copies in its region")
    status = (await product.api.get(HUBS, product.namespace, hub)).status
    quorate = find_condition(status.conditions, "Quorate")
    assert quorate is not None
    assert (quorate.status, quorate.message) == ("True", "4 members are live, AllButOne needs 3")

    await product.api.patch(HUBS, product.namespace, hub, {"spec": {"redundancy": {"strategy": "OneInFour"}}})

    async def refused() -> str | None:
        accepted = find_condition((await product.api.get(HUBS, product.namespace, hub)).status.conditions, "Accepted")
        return accepted.message if accepted and accepted.status == "False" else None

    assert await eventually(refused, "refused") == (
        "spec.redundancy.strategy 'OneInFour' is not known; there are Singularity, Replication, OneInThree"
    )


async def test_a_migration_strategy_decides_about_each_move(product: Live) -> None:
    """Without a tag the state moves along, "scratch" children start afresh, "busy" ones stay until they must move."""
    name = await product.hub(replicas=2, migration={"strategy": "InRegion"})
    ids = [f"{kind}-{number}" for kind in ("kept", "scratch", "busy") for number in range(8)]
    counter = {"target": "processhub.examples:Counter"}
    children = [{"id": child_id, "python": counter, "tags": [child_id.partition("-")[0]]} for child_id in ids]
    async with Hub.connect(name, namespace=product.namespace, kubeconfig=product.kubeconfig) as hub:
        assert (await hub.start_children(children, wait=True, timeout=60)).ok
        for child_id in ids:
            assert await hub.call(child_id, {"op": "add", "by": 5}) == 5
        before = places(hub)
        leaving = {child_id for child_id in ids if before[child_id] == f"{name}-0"}
        assert {child_id.partition("-")[0] for child_id in leaving} == {"kept", "scratch", "busy"}

        await product.api.patch(HUBS, product.namespace, name, {"spec": {"members": {"weights": {f"{name}-0": 0}}}})

        def left(*kinds: str) -> set[str]:
            return {child_id for child_id in leaving if not child_id.startswith(kinds)}

        async def gone() -> bool:
            now = places(hub)
            return {child_id for child_id in ids if now.get(child_id) != f"{name}-1"} == left("kept", "scratch")

        await eventually(gone, "all but the busy ones moved", within=60)
        for child_id in ids:
            afresh = child_id in leaving and child_id.startswith("scratch")
            assert await hub.call(child_id, {}) == (0 if afresh else 5), child_id

        await hub.drain(f"{name}-0")

        async def emptied() -> bool:
            return set(places(hub).values()) == {f"{name}-1"} and len(places(hub)) == len(ids)

        await eventually(emptied, "the member emptied", within=60)
        assert [await hub.call(child_id, {}) for child_id in sorted(left("kept", "scratch"))] == [5] * len(
            left("kept", "scratch")
        )


def places(hub: Hub) -> dict[str, str]:
    """Return the member of each child that has exactly one process."""
    return {child_id: nodes[0][0] for child_id, nodes in hub.process_list().items() if len(nodes) == 1}
