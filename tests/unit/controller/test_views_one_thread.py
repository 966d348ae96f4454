"""Children that members start by themselves: operator and agents in one thread (docs/protocol.md, rules 26 to 33)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memoryapi import Key
from onethread import Cluster, running_hub

from processhub.api.naming import ANNOTATION_DRAINED

DEMAND = {"onDemand": {"exec": {"command": ["x"]}}}


def orders(cluster: Cluster) -> dict[str, Any]:
    """What slice 0 of each member says about views."""
    slices = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
    return {item["spec"]["member"]: order for item in slices if (order := item["spec"].get("activation"))}


def is_open(cluster: Cluster, *members: str) -> bool:
    """Whether one view is open to these members, and no other is."""
    now = orders(cluster)
    opened = {member for member, order in now.items() if order["phase"] == "Open"}
    return opened == set(members) and len({now[member]["view"] for member in opened}) == 1


def ask(cluster: Cluster, child: str) -> str:
    """Have every member asked for the child; returns the one that has it now, or ""."""
    return cluster.ask(child)


def on_record(cluster: Cluster) -> dict[str, str]:
    """The member of each child on record."""
    slices = [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]
    return {child: item["spec"]["member"] for item in slices for child in item["spec"]["entries"]}


def drain(hub: Any, member: str) -> None:
    """Have this member drained, or none."""
    hub["metadata"].setdefault("annotations", {})[ANNOTATION_DRAINED] = member


def running(cluster: Cluster) -> dict[str, set[str]]:
    """The members on which each child runs."""
    return {child: places for child, places in cluster.runs_on().items() if places}


def test_what_members_start_is_put_on_record_where_it_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            started = {child: ask(cluster, child) for child in ("a", "b", "c", "d", "e")}
            assert all(started.values())

            await cluster.until(lambda: on_record(cluster) == started, "all is on record")
            assert {child: {member} for child, member in started.items()} == running(cluster)
            starts = [child for _, child, _, begins in cluster.log if begins]
            assert sorted(starts) == sorted(started)

    virtualtime.run(main())


def test_a_member_starts_children_while_no_operator_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            cluster.stops["operator-0"].set()
            assert await cluster.tasks.pop("operator-0") == 0
            before = orders(cluster)

            started = {f"cart-{number}": ask(cluster, f"cart-{number}") for number in range(50)}

            await cluster.until(lambda: all(cluster.runs_on()[child] for child in started), "all run")
            assert on_record(cluster) == {}
            cluster.start_replica("operator-1")
            await cluster.until(lambda: on_record(cluster) == started, "all is on record")
            assert orders(cluster) == before  # a leader change closes no view
            assert len(cluster.log) == len(started)

    virtualtime.run(main())


def test_a_declared_child_of_an_id_that_a_member_has_started_runs_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **DEMAND) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            for number in range(9):
                ask(cluster, f"cart-{number}")
                body = {"hub": "hub", "exec": {"command": ["other"]}}
                cluster.api.create("children", {"metadata": {"name": f"cart-{number}"}, "spec": body})

            await cluster.until(lambda: cluster.reported_running(*(f"cart-{n}" for n in range(9))), "all run")

    virtualtime.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_no_id_runs_twice_and_all_are_on_record_in_the_end(tmp_path: Path, seed: int) -> None:
    """Requests, while members are cut off or restart, Children come and go, and leaders change."""
    chance = random.Random(seed)
    ids = [f"cart-{number}" for number in range(12)]

    async def main() -> None:
        spec = {
            **DEMAND,
            "distribution": {"strategy": "ConsistentHashing", "loadCapPercent": 100},
            "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 1},
            "timeouts": {"leaseSeconds": 6},
        }
        async with running_hub(tmp_path, **spec) as cluster:
            declared: set[str] = set()
            for number in range(80):
                await asyncio.sleep(chance.choice((0.0, 0.01, 0.05, 0.3, 2.0, 9.0)))
                trouble = chance.randrange(14)
                member, child = f"hub-{chance.randrange(3)}", chance.choice(ids)
                wire = cluster.wires[member].whole
                if trouble == 0 and wire.is_set():
                    wire.clear()
                elif trouble == 1:
                    wire.set()
                elif trouble == 2:
                    leader = next(iter(cluster.stops))
                    cluster.stops.pop(leader).set()
                    assert await cluster.tasks.pop(leader) == 0
                    cluster.start_replica(f"operator-{number + 1}")
                elif trouble == 3 and child not in declared:
                    declared.add(child)
                    body = {"hub": "hub", "exec": {"command": ["other"]}}
                    cluster.api.create("children", {"metadata": {"name": child}, "spec": body})
                elif trouble == 4 and child in declared:
                    declared.discard(child)
                    cluster.api.delete("children", child)
                elif trouble == 5:
                    drained = f"hub-{chance.randrange(3)}" if chance.randrange(2) else ""
                    cluster.api.update(Key("hubs", "ns", "hub"), lambda hub, drained=drained: drain(hub, drained))
                else:
                    for each in chance.sample(ids, 4):
                        ask(cluster, each)
                cluster.runs_on()
            for each_wire in cluster.wires.values():
                each_wire.whole.set()
            cluster.api.update(Key("hubs", "ns", "hub"), lambda hub: drain(hub, ""))
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open", within=120)
            for child in ids:
                await cluster.until(lambda child=child: bool(ask(cluster, child)), f"{child} runs", within=60)
            await cluster.until(
                lambda: {child: {member} for child, member in on_record(cluster).items()} == running(cluster),
                f"all is on record: {seed}",
                within=120,
            )

    virtualtime.run(main())


def test_the_next_view_waits_for_a_member_that_has_not_closed_the_last(tmp_path: Path) -> None:
    """It is cut off and starts children by the view that it knows, until its Lease has run out."""

    async def main() -> None:
        spec = {**DEMAND, "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 1}}
        async with running_hub(tmp_path, **spec) as cluster:
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), "a view is open")
            cluster.wires["hub-0"].whole.clear()
            cluster.api.update(Key("hubs", "ns", "hub"), lambda hub: drain(hub, "hub-0"))

            for number in range(40):
                await asyncio.sleep(0.25)
                ask(cluster, f"cart-{number % 20}")
                cluster.runs_on()
            assert {member for places in running(cluster).values() for member in places} >= {"hub-0"}
            assert not is_open(cluster, "hub-1", "hub-2")

            await cluster.until(lambda: is_open(cluster, "hub-1", "hub-2"), "the others have a view")
            for number in range(20):
                await cluster.until(lambda number=number: bool(ask(cluster, f"cart-{number}")), "it runs")
            cluster.wires["hub-0"].whole.set()

    virtualtime.run(main())
