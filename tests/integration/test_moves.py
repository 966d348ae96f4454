"""Children moved and members drained by hand, with the client and the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hubcli import Cli
from livehub import SLEEP, WAIT, Live, live, places, sleepers
from waiting import eventually, until

from localcluster.cluster import Cluster
from processhub.api.grouporders import parse_move_orders
from processhub.api.meta import API_VERSION
from processhub.api.naming import ANNOTATION_LOAD, ANNOTATION_MOVE_REFUSED, ANNOTATION_MOVE_TO, lease_name
from processhub.api.usage import parse_usage
from processhub.client.errors import HubError
from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, HUBS, LEASES

IDS = [f"c{number}" for number in range(12)]


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("moves")) as running:
        yield running


async def test_a_drain_empties_a_member_and_an_undrain_returns_its_share(product: Live) -> None:
    # Without the load cap: it would keep a child that overflowed onto the member from returning there.
    name = await product.hub(replicas=3, distribution={"loadCapPercent": 1000})
    async with product.connect(name) as hub:
        assert (await hub.start_children(sleepers(*IDS), wait=True, timeout=WAIT)).ok
        before = places(hub)
        here = {child_id for child_id, member in before.items() if member == f"{name}-1"}
        assert here

        out, err, code = await Cli(product, name)(f"drain {name}-1 --wait")

        assert (out, err, code) == (f"member/{name}-1 drained\n", "", 0)

        def moved() -> bool:
            now = places(hub)  # as this client sees it, which has not sent the drain
            return now.keys() == before.keys() and {each for each in IDS if now[each] != before[each]} == here

        await until(moved, "its children, and no others, have moved")
        assert (await hub.start_children(sleepers("late"), wait=True, timeout=WAIT)).ok
        assert places(hub)["late"] != f"{name}-1"

        out, err, code = await Cli(product, name)(f"undrain {name}-1 -o json")

        assert (json.loads(out), err, code) == ({"member": f"{name}-1", "drained": False, "changed": True}, "", 0)

        async def back() -> bool:
            return {child_id: member for child_id, member in places(hub).items() if child_id in here} == dict.fromkeys(
                here, f"{name}-1"
            )

        await eventually(back, "its share is back")
        assert not await hub.undrain(f"{name}-1")


async def test_a_drain_names_the_children_that_cannot_move_and_stops_them_with_force(product: Live) -> None:
    name = await product.hub(replicas=2, distribution={"strategy": "Guided"})
    async with product.connect(name) as hub:
        mapping = {"bound": [f"{name}-1"], "other": [f"{name}-0"]}
        assert (await hub.start_children(sleepers(*mapping), wait=True, timeout=WAIT, child_mapping=mapping)).ok

        out, err, code = await Cli(product, name)(f"drain {name}-1 --wait")
        assert code == 1
        assert f"1 child can't leave {name}-1: bound (guided to it by its nodes); " in err
        assert hub.is_alive("bound")

        out, err, code = await Cli(product, name)(f"drain {name}-1 --force --wait")
        assert (out, err, code) == (f"member/{name}-1 drained\n", "", 0)
        await until(lambda: not hub.is_alive("bound"), "stopped")
        assert hub.is_alive("other")

        await hub.undrain(f"{name}-1")
        assert (await hub.wait_children(["bound"], timeout=WAIT)).ok


async def test_a_forced_drain_stops_bound_copies_and_another_copy_becomes_active(product: Live) -> None:
    redundancy = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
    name = await product.hub(replicas=2, redundancy=redundancy, distribution={"strategy": "Guided"})
    first, second = f"{name}-0", f"{name}-1"
    await product.child("bound-copies", name, nodes=[first, second])

    async def roles() -> dict[str, str]:
        """Return the roles of running copies, the active one first."""
        child = await product.api.get(CHILDREN, product.namespace, "bound-copies")
        return {node.name: node.role for node in child.status.nodes if node.state == "Running"}

    async def both() -> bool:
        return await roles() == {first: "Active", second: "Passive"}

    await eventually(both, "two copies")
    out, err, code = await Cli(product, name)(f"drain {first} --wait")
    assert code == 1
    assert f"1 child can't leave {first}: bound-copies (guided to it by its nodes); " in err
    assert await both()

    out, err, code = await Cli(product, name)(f"drain {first} --force --wait")

    async def taken_over() -> bool:
        return await roles() == {second: "Active"}

    assert (out, err, code) == (f"member/{first} drained\n", "", 0)
    await eventually(taken_over, "the other copy is active")

    await Cli(product, name)(f"undrain {first}")

    async def back() -> bool:
        return await roles() == {second: "Active", first: "Passive"}

    await eventually(back, "it is back, and takes no role")


async def test_a_child_that_was_moved_stays_there(product: Live) -> None:
    name = await product.hub(replicas=3)
    async with product.connect(name) as hub:
        assert (await hub.start_children(sleepers("a"), wait=True, timeout=WAIT)).ok
        target = next(member for member in hub.nodes() if member != places(hub)["a"])

        out, err, code = await Cli(product, name)(f"move a {target} --wait")

        assert (out, err, code) == (f"a running on {target}\n", "", 0)
        await until(lambda: places(hub) == {"a": target}, "seen there")

        async def taken_off() -> bool:
            child = await product.api.get(CHILDREN, product.namespace, "a")
            return ANNOTATION_MOVE_TO not in child.metadata.annotations

        await eventually(taken_off, "the order is done with")
        await explained(product, name, "a", "a move was requested")

        other = next(member for member in hub.nodes() if member != target)
        await hub.migrate_child("a", other, wait=True)
        assert places(hub) == {"a": other}
        for member, sentence in (("nobody", "has no member 'nobody'; it has"), (f"{name}-7", "has no member")):
            with pytest.raises(HubError, match=sentence):
                await hub.migrate_child("a", member)
        with pytest.raises(HubError, match="no child 'z'"):
            await hub.migrate_child("z", target)
        assert (await Cli(product, name)(f"move a {name}-9"))[2] == 1


async def test_a_rejected_move_request_is_removed_with_a_reason(product: Live) -> None:
    name = await product.hub(replicas=2)
    await product.child("stuck", name, pinned=True)
    patch = {"metadata": {"annotations": {ANNOTATION_MOVE_TO: f"{name}-9"}}}

    async def placed() -> bool:
        return bool((await product.api.get(CHILDREN, product.namespace, "stuck")).status.member)

    await eventually(placed, "placed")
    await product.api.patch(CHILDREN, product.namespace, "stuck", patch)

    async def refused() -> str | None:
        annotations = (await product.api.get(CHILDREN, product.namespace, "stuck")).metadata.annotations
        return None if ANNOTATION_MOVE_TO in annotations else annotations.get(ANNOTATION_MOVE_REFUSED)

    assert await eventually(refused, "refused") == f"{name}-9: it is pinned; set spec.pinned to false first"


async def test_a_move_on_a_guided_hub_leaves_the_spec_unchanged(product: Live) -> None:
    name = await product.hub(replicas=2, distribution={"strategy": "Guided"})
    async with product.connect(name) as hub:
        mapping = {"g": [f"{name}-0"]}
        assert (await hub.start_children(sleepers("g"), wait=True, timeout=WAIT, child_mapping=mapping)).ok

        await hub.migrate_child("g", f"{name}-1", wait=True)

        assert places(hub) == {"g": f"{name}-1"}
        assert (await product.api.get(CHILDREN, product.namespace, "g")).spec.nodes == (f"{name}-0",)


async def test_a_moved_child_of_a_set_stays_there(product: Live) -> None:
    name = await product.hub(replicas=3)
    manifest: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "ChildSet",
        "metadata": {"name": "web"},
        "spec": {"hub": name, "replicas": 4, "template": {"exec": SLEEP}},
    }
    await product.api.create(CHILD_SETS, product.namespace, manifest)
    async with product.connect(name) as hub:
        assert (await hub.wait_children([f"web-{number}" for number in range(4)], timeout=WAIT)).ok
        before = places(hub)
        target = next(member for member in hub.nodes() if member != before["web-1"])

        out, err, code = await Cli(product, name)(f"move web-1 {target} --wait")
        assert (out, err, code) == (f"web-1 running on {target}\n", "", 0)
        await until(lambda: places(hub) == {**before, "web-1": target}, "seen there")

        # Later updates of its set leave it there.
        await product.api.patch(CHILD_SETS, product.namespace, "web", {"spec": {"replicas": 5}})
        assert (await hub.wait_children(["web-4"], timeout=WAIT)).ok
        assert places(hub)["web-1"] == target

        order = {ANNOTATION_MOVE_TO: json.dumps({"web-1": "nobody", "web-9": target})}
        await product.api.patch(CHILD_SETS, product.namespace, "web", {"metadata": {"annotations": order}})

        async def refused() -> dict[str, str] | None:
            annotations = (await product.api.get(CHILD_SETS, product.namespace, "web")).metadata.annotations
            text = annotations.get(ANNOTATION_MOVE_REFUSED, "{}")
            return None if ANNOTATION_MOVE_TO in annotations else parse_move_orders(text)

        assert await eventually(refused, "refused") == {
            "web-1": f"nobody: the hub has no member 'nobody'; its members are {name}-0, {name}-1, {name}-2",
            "web-9": f"{target}: childset/web has no such child",
        }
        assert places(hub)["web-1"] == target


async def test_a_move_activates_the_copy_on_the_target_or_starts_one_there(product: Live) -> None:
    redundancy = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
    name = await product.hub(replicas=3, redundancy=redundancy)
    async with product.connect(name) as hub:
        assert (await hub.start_children(sleepers("twice"), wait=True, timeout=WAIT)).ok

        async def both_run() -> dict[str, int] | None:
            """Return member → pid, the active copy first."""
            nodes = (await product.children(name))["twice"].status.nodes
            steady = [node.role for node in nodes if node.state == "Running"] == ["Active", "Passive"]
            return {node.name: node.pid for node in nodes} if steady else None

        async def as_asked(*members: str) -> dict[str, int]:
            async def both() -> dict[str, int] | None:
                running = await both_run()
                return running if running and list(running) == list(members) else None

            return await eventually(both, f"copies on {members}")

        before = await eventually(both_run, "two copies")
        first, second = before

        out, err, code = await Cli(product, name)(f"move twice {second} --wait")

        assert (out, err, code) == (f"twice running on {second}\n", "", 0)
        after = await as_asked(second, first)
        assert after[second] == before[second], "it ran on"
        assert after[first] != before[first], "only its end proves that it is active no more"

        (third,) = set(hub.nodes()) - {first, second}
        await hub.migrate_child("twice", third, wait=True, timeout=WAIT)

        await as_asked(third, first)
        await explained(product, name, "twice", f"from {first} to {second}: a move was requested")
        await explained(product, name, "twice", f"from {second} to {third}: a move was requested")


async def explained(product: Live, hub: str, child_id: str, sentence: str) -> None:
    """Wait until the history of the child has this: Events are posted after the fact."""

    async def said() -> bool:
        return sentence in (await Cli(product, hub)(f"explain {child_id}")).out

    await eventually(said, f"{child_id}: {sentence}")


def keeper(child_id: str, megabytes: int) -> dict[str, Any]:
    """A child that uses memory: the CPU that it gets depends on the load of the machine."""
    command = ["sh", "-c", f"(head -c {megabytes}000000 /dev/zero; sleep 1000) | tail"]
    return {"id": child_id, "exec": {"command": command}}


async def test_top_shows_the_usage_of_members_and_least_loaded_places_by_it(product: Live) -> None:
    name = await product.hub(
        replicas=2, distribution={"strategy": "LeastLoaded", "loadCapPercent": 1000}, timeouts={"leaseSeconds": 6}
    )
    async with product.connect(name) as hub:
        assert (await hub.start_children([keeper("heavy", 200)], wait=True, timeout=WAIT)).ok
        assert (await hub.start_children([keeper("light", 40)], wait=True, timeout=WAIT)).ok
        hot, cool = places(hub)["heavy"], places(hub)["light"]
        assert hot != cool

        async def reported() -> bool:
            """Wait until each member reports its one child: a member that came later counts with the hub's mean."""
            members = (await product.api.get(HUBS, product.namespace, name)).status.members
            memory = {member.name: int(member.memory.removesuffix("Mi") or 0) for member in members}
            leases = [await product.api.get(LEASES, product.namespace, lease_name(name, member)) for member in memory]
            counted = [parse_usage(lease.metadata.annotations.get(ANNOTATION_LOAD, "")) for lease in leases]
            return memory[hot] >= 150 > memory[cool] >= 30 and all(usage and usage.children == 1 for usage in counted)

        await eventually(reported, "the members' loads", within=60)
        out, _, code = await Cli(product, name)("top -o json")
        told = {member["name"]: member for member in json.loads(out)["members"]}
        assert code == 0
        assert int(told[hot]["memory"].removesuffix("Mi")) >= 150
        assert told[cool]["cpu"].endswith("m")
        assert (await Cli(product, name)("top"))[0].splitlines()[0].split() == [
            *("MEMBER", "READY", "CHILDREN", "CPU", "MEMORY")
        ]

        assert (await hub.start_children(sleepers("next"), wait=True, timeout=WAIT)).ok
        assert places(hub)["next"] == cool
