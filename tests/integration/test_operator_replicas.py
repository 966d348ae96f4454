"""Several copies of a child on real members: roles assigned, passed on after a loss, and never two active at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from signal import SIGUSR1
from typing import Any

import pytest
import pytest_asyncio
from operatorworld import World
from roles import MODULE, active_members, rows_in, two_active
from settling import settles
from waiting import catches, until

from localcluster.faults import FaultRefusedError
from processhub.api.child import NodeStatus
from processhub.cluster.kinds import NODES

pytest_plugins = ("operatorworld",)
STANDBY = {"strategy": "Replication", "replicationModel": "ActivePassive", "redundancySignal": "All"}


async def copies(world: World, name: str, count: int) -> tuple[NodeStatus, ...]:
    """Return the child's copies, the active one first, once this many run and exactly one is active."""

    async def check() -> tuple[NodeStatus, ...]:
        nodes = (await world.get_child(name)).status.nodes
        assert [node.state for node in nodes] == ["Running"] * count, nodes
        assert [node.role for node in nodes] == ["Active"] + ["Passive"] * (count - 1), nodes
        return nodes

    return await settles(check)


async def code(world: World) -> None:
    """Create a ConfigMap with the worker's module."""
    await world.kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"roles_worker.py": MODULE}}
        ),
    )


def worker(folder: Path) -> dict[str, Any]:
    return {"target": "roles_worker:Worker", "args": {"folder": str(folder)}}


async def test_the_passive_copy_takes_over_and_the_returning_copy_is_passive(world: World, tmp_path: Path) -> None:
    await world.hub(redundancy=STANDBY)
    script = (
        'echo "$HUB_MEMBER start $(cat $HUB_ROLE_FILE)" >> {0}\n'
        "trap 'echo $HUB_MEMBER told $(cat $HUB_ROLE_FILE) $(cat $HUB_EPOCH_FILE) >> {0}' USR1\n"
        "while :; do sleep 0.1; done"
    )
    log = tmp_path / "log"
    await world.child("a", exec={"command": ["sh", "-c", script.format(log)], "roleSignal": "SIGUSR1"})
    first, second = await copies(world, "a", 2)
    await until(lambda: catches(second.pid, SIGUSR1), "it listens")

    await world.kill_agent(first.name)

    async def swapped() -> tuple[NodeStatus, ...]:
        nodes = await copies(world, "a", 2)
        assert nodes[0].name == second.name
        return nodes

    now = await settles(swapped)
    assert now[0].pid == second.pid
    assert now[0].epoch > first.epoch
    assert now[1].name == first.name

    async def reported() -> None:
        lines = log.read_text().splitlines()
        assert f"{second.name} told Active {now[0].epoch}" in lines
        assert lines[-1] == f"{first.name} start Passive"
        child = await world.get_child("a")
        assert (child.status.member, child.status.role) == (second.name, "Active")
        hub = await world.get_hub()
        assert hub.status.children is not None
        assert (hub.status.children.desired, hub.status.children.running) == (1, 1)

    await settles(reported)


async def test_python_children_are_notified_of_the_roles_that_the_hub_names(world: World, tmp_path: Path) -> None:
    await code(world)
    await world.hub(
        members={"replicas": 3, "python": {"configMap": "code"}}, redundancy={**STANDBY, "redundancySignal": "Active"}
    )
    await world.child("a", python=worker(tmp_path))
    first, second = await copies(world, "a", 2)

    async def reported() -> None:
        last = {row.member: row.told for row in rows_in(tmp_path)}
        assert last == {first.name: "Active", second.name: None}

    await settles(reported)
    await world.kill_agent(first.name)

    async def told_again() -> None:
        last = {row.member: (row.role, row.told) for row in rows_in(tmp_path)}
        assert last == {first.name: ("Passive", None), second.name: ("Active", "Active")}

    await settles(told_again)


@pytest.mark.nightly
async def test_a_copy_on_a_lost_node_is_replaced(world: World) -> None:
    hub = await world.hub(redundancy=STANDBY)
    await world.child("a")
    first, second = await copies(world, "a", 2)
    node = next(member.node for member in hub.status.members if member.name == first.name)

    await world.kill_node(node)

    async def replaced() -> None:
        nodes = await copies(world, "a", 2)
        assert nodes[0].name == second.name
        assert first.name not in {copy.name for copy in nodes}

    await settles(replaced)


async def test_with_for_each_copies_follow_joins_and_leaves(world: World) -> None:
    await world.hub(members={"replicas": 2}, distribution={"strategy": "ForEach"})
    await world.child("a")

    async def on(*names: str) -> None:
        nodes = (await world.get_child("a")).status.nodes
        assert {node.name: (node.role, node.state) for node in nodes} == dict.fromkeys(names, ("Active", "Running"))

    await settles(lambda: on("hub-0", "hub-1"))
    await world.edit_hub(members={"replicas": 3})
    await settles(lambda: on("hub-0", "hub-1", "hub-2"))
    await world.edit_hub(members={"replicas": 1})
    await settles(lambda: on("hub-0"))


@pytest_asyncio.fixture
async def zones(world: World) -> AsyncIterator[dict[str, str]]:
    """Label the nodes with zones: the first node is alone in its zone."""
    nodes, _ = await world.api.list(NODES)
    names = sorted(node.metadata.name for node in nodes)
    found = {name: f"z{min(number, 1)}" for number, name in enumerate(names)}

    async def label(given: Mapping[str, str | None]) -> None:
        for name, zone in given.items():
            labels = {"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}
            await world.api.patch(NODES, None, name, labels)

    await label(found)
    yield found
    await label(dict.fromkeys(names))


async def test_copies_run_in_different_zones(world: World, zones: dict[str, str]) -> None:
    # By default the scheduler spreads members over nodes, and may leave out a zone with one node.
    spread_over_zones = {
        "topologyKey": "topology.kubernetes.io/zone",
        "maxSkew": 1,
        "minDomains": 2,  # the scheduler may know of one zone before it knows of the other
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"processhub.dev/hub": "hub"}},
    }
    hub = await world.hub(
        members={"replicas": 4, "template": {"spec": {"topologySpreadConstraints": [spread_over_zones]}}},
        redundancy={**STANDBY, "replicationModel": "ActiveActive"},
    )
    where = {member.name: zones[member.node] for member in hub.status.members}
    assert len(set(where.values())) == 2
    names = await world.children([f"c{number}" for number in range(8)])

    for name in names:

        async def spread(name: str = name) -> None:
            found = (await world.get_child(name)).status.nodes
            assert [node.state for node in found] == ["Running", "Running"]
            assert len({where[node.name] for node in found}) == 2

        await settles(spread)


async def test_guided_copies_must_name_as_many_members_as_the_factor(world: World) -> None:
    await world.hub(redundancy=STANDBY, distribution={"strategy": "Guided"})

    await world.child("a", nodes=["hub-2", "hub-0"])
    await world.child("b", nodes=["hub-2"])

    nodes = await copies(world, "a", 2)
    assert [node.name for node in nodes] == ["hub-2", "hub-0"]
    await world.condition("b", "Accepted", "False", "ChildReplicationMismatch")


EVENTS = int(os.environ.get("REPLICA_EVENTS", "12"))  # 200 by hand: CHANGELOG and docs cite that run


@pytest.mark.timeout(1800)
async def test_exactly_one_copy_is_active_whatever_happens_to_the_members(world: World, tmp_path: Path) -> None:
    chance = random.Random(7)
    await code(world)
    await world.hub(members={"replicas": 4, "python": {"configMap": "code"}}, redundancy=STANDBY)
    names = await world.children([f"c{number}" for number in range(60)], python=worker(tmp_path))

    async def all_well() -> None:
        members = {member.name for member in (await world.hub_ready()).status.members}
        for name in names:
            nodes = (await world.get_child(name)).status.nodes
            assert Counter(node.role for node in nodes) == {"Active": 1, "Passive": 1}, (name, nodes)
            assert all(node.state == "Running" and node.name in members for node in nodes), (name, nodes)

    await settles(all_well, within=90)
    replicas = 4
    for _ in range(EVENTS):
        event = chance.choice(["kill", "kill", "two kills", "scale", "settle", "edit"])
        if event == "scale":
            replicas = chance.choice([3, 4, 5])
            await world.edit_hub(members={"replicas": replicas})
        elif event == "settle":
            await settles(all_well, within=120)
        elif event == "edit":
            await world.edit_child(chance.choice(names), tags=[str(chance.random())])
        else:
            ready = [member.name for member in (await world.get_hub()).status.members if member.ready]
            for member in chance.sample(ready, min(len(ready), 2 if event == "two kills" else 1)):
                with contextlib.suppress(FaultRefusedError):  # a member that is scaled away may be gone
                    await world.kill_agent(member)
    await settles(all_well, within=180)

    rows = rows_in(tmp_path)
    assert two_active(rows) == []
    hands = active_members(rows)
    assert hands.keys() == set(names)
    assert any(len(members) > 1 for members in hands.values()), "no role ever went to another member"
