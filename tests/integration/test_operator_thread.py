"""The whole path of a Hub and a Child: from kubectl apply to a running process and back to nothing."""

from __future__ import annotations

import json

from operatorworld import SLEEP, World, command_of, never_two, started_once
from settling import settles
from waiting import alive

from processhub.api.meta import find_condition

pytest_plugins = ("operatorworld",)


async def test_a_child_runs_from_its_creation_to_its_deletion(world: World) -> None:
    hub = {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub"}, "spec": {}}
    child = {
        "apiVersion": "processhub.dev/v1alpha1",
        "kind": "Child",
        "metadata": {"name": "x"},
        "spec": {"hub": "hub", "exec": {"command": SLEEP}},
    }

    await world.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, (hub, child))))
    await world.kubectl("wait", "--for=condition=Ready", "child/x", "--timeout=60s")

    status = (await world.get_child("x")).status
    (node,) = status.nodes
    assert alive(node.pid)
    assert command_of(node.pid)[:2] == SLEEP
    assert (status.id, status.member, status.role, status.state) == ("x", node.name, "Active", "Running")
    assert find_condition(status.conditions, "Placed").message == f"on {node.name}"  # type: ignore[union-attr]

    ready = await world.hub_ready("hub")

    async def registry_shows_it() -> None:
        now = await world.get_hub("hub")
        assert now.status.registry_size == 1
        (entry,) = now.status.registry
        (place,) = entry.nodes
        assert (entry.id, place.name, place.pod) == ("x", node.name, node.pod)
        assert (place.state, place.pid, place.epoch, place.role) == ("Running", node.pid, node.epoch, "Active")
        assert now.status.summary is not None
        assert (now.status.summary.members, now.status.summary.children) == ("3/3", "1/1")

    await settles(registry_shows_it)
    assert [member.name for member in ready.status.members] == ["hub-0", "hub-1", "hub-2"]
    assert all(member.pod_ip.startswith("127.") and member.node for member in ready.status.members)

    await world.kubectl("delete", "child", "x", "--wait=false")
    await world.kubectl("wait", "--for=delete", "child/x", "--timeout=30s")

    await world.no_process("x")

    async def no_entry_left() -> None:
        assert await world.record() == {}
        assert [item.status.reports for item in await world.slices()] == [{}, {}, {}]
        assert (await world.get_hub("hub")).status.registry == ()

    await settles(no_entry_left)
    started_once(world.watch.runs())
    never_two(world.watch)


async def test_kubectl_waits_for_a_ready_hub_and_shows_it_in_columns(world: World) -> None:
    await world.hub("small", members={"replicas": 2}, ready=False)
    await world.kubectl("wait", "--for=condition=Ready", "hub/small", "--timeout=60s")
    await world.child("a", "small", tags=["eu"])
    await world.ready("a")

    columns = (await world.kubectl("get", "children", "a", "--no-headers")).split()
    assert columns[:4] == ["a", "a", "small", columns[3]]
    assert columns[3] in ("small-0", "small-1")
    assert columns[4:6] == ["Active", "Running"]

    async def hub_columns() -> None:
        assert (await world.kubectl("get", "hub", "small", "--no-headers")).split()[1:3] == ["2/2", "1/1"]

    await settles(hub_columns)

    async def reported() -> None:
        assert "on small-" in (await world.events("a", "Placed"))[0]

    await settles(reported)


async def test_objects_of_a_hub_are_deleted_with_it_without_finalizers(world: World) -> None:
    await world.hub(members={"replicas": 2}, children=[{"id": "static", "exec": {"command": SLEEP}}])
    await world.child("mine")
    await world.ready("static", "mine")
    objects = "hubs,children,rslice,leases,pods,statefulsets,services,serviceaccounts,rolebindings,pdb"
    made = json.loads(await world.kubectl("get", objects, "-o", "json"))["items"]

    for item in made:
        metadata = item["metadata"]
        assert not metadata.get("finalizers"), (item["kind"], metadata["name"], metadata["finalizers"])
        assert not [name for name in metadata.get("annotations", {}) if "kopf" in name], metadata

    await world.kubectl("delete", "hub", "hub", "--timeout=30s")

    await world.condition("mine", "Accepted", "False", "HubNotFound")
    await world.gone("static")

    async def nothing_owned_is_left() -> None:
        left = json.loads(await world.kubectl("get", objects, "-o", "json"))["items"]
        names = {(item["kind"], item["metadata"]["name"]) for item in left}
        assert names == {("Child", "mine"), ("ServiceAccount", "default")}, names
        assert world.watch.live() == {}

    await settles(nothing_owned_is_left, within=120)
    never_two(world.watch)


async def test_a_hub_with_a_users_image_gets_the_agent_from_an_init_container(world: World) -> None:
    """An image is only a name here: no container is created. The tests on kind show that the agent needs no more."""
    await world.hub(members={"replicas": 1, "image": "registry.example/tools:1"})
    await world.children(["a", "b"])

    await world.running(["a", "b"])

    statuses = ".status.initContainerStatuses[*]"
    path = f"{{.spec.containers[*].image}} {{{statuses}.name}} {{{statuses}.ready}}"
    said = await world.kubectl("get", "pod", "hub-0", "-o", f"jsonpath={path}")
    assert said.split() == ["registry.example/tools:1", "inject-agent", "true"]
