"""etcd is restored from a backup while operator, members and clients run on; and what only looks like that."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from operatorsite import ControlPlane, Operators
from operatorworld import World, never_two, untouched
from settling import settles

from processhub import Hub
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.kinds import CHILDREN, untyped

pytest_plugins = ("operatorworld",)
IDS = ["a", "b", "c", "d"]
CRDS = untyped("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)
SETTINGS = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/settings/properties"


@pytest.mark.nightly
async def test_operator_members_and_clients_follow_the_restored_objects(world: World, tmp_path: Path) -> None:
    control_plane = ControlPlane(world.site)
    await world.hub(members={"replicas": 2})
    await world.children(IDS)
    before = await world.running(IDS)
    async with Hub.connect("hub", namespace=world.namespace, kubeconfig=str(world.cluster.kubeconfig)) as client:
        await asyncio.to_thread(control_plane.back_up, tmp_path / "etcd")
        # The restored objects will know nothing of the changes from here on.
        await world.kubectl("annotate", "child", "a", f"processhub.dev/move-to={other(before['a'].member)}")
        await world.delete_children("b")
        await world.children(["later"])
        await settles(lambda: is_moved(world, before["a"].member))
        await world.running(["a", "c", "d", "later"])
        await settles(lambda: client_knows(client, {"a", "c", "d", "later"}))

        await control_plane.restore(tmp_path / "etcd")

        await world.running(IDS, within=90)
        assert (await world.running(IDS))["a"].member == before["a"].member
        await world.hub_ready()
        await world.children(["new"])
        after = await world.running([*IDS, "new"])
        assert after["new"].epoch > max(place.epoch for place in before.values())
        await settles(lambda: client_knows(client, {*IDS, "new"}))
    items, _ = await world.api.list(CHILDREN, world.namespace)
    assert len(items) == len(IDS) + 1
    never_two(world.watch)


async def test_a_crd_of_an_older_version_is_named_and_ends_no_child(world: World) -> None:
    """The API server drops a field that it lacks from stored slices, too, without a new generation."""
    await world.hub(members={"replicas": 2}, timeouts={"requestSeconds": 7})
    await world.children(IDS)
    before, leader = await world.running(IDS), await Operators(world.site).holder()
    crd = await world.api.get(CRDS, None, "registryslices.processhub.dev")
    field = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["settings"][
        "properties"
    ]["requestSeconds"]

    async def patch_crd(operation: dict[str, object]) -> None:
        patch = [{"path": f"{SETTINGS}/requestSeconds", **operation}]
        await world.api.patch(CRDS, None, "registryslices.processhub.dev", patch, content_type=JSON_PATCH)

    await patch_crd({"op": "remove"})
    try:
        stalled = await world.hub_condition("Stalled", "True", "CRDOutdated")
        assert "CRD registryslices.processhub.dev in this cluster lacks spec.settings.requestSeconds" in stalled.message
        await settles(lambda: requests_are_limited_to(world, 5))
        # The child's member reports its end, and the API server stores the slice without the field.
        os.kill(before["a"].pid, signal.SIGKILL)
        await settles(lambda: runs_again(world, "a", before["a"].pid))
        # A member that read the slice again only when the CRD has the field again would take the field for restored.
        await settles(lambda: members_say(world, "the API server drops spec.settings.requestSeconds"))
        untouched(before, await world.running(IDS), ["b", "c", "d"])
    finally:
        await patch_crd({"op": "add", "value": field})

    await settles(lambda: requests_are_limited_to(world, 7))
    await world.hub_ready()
    untouched(before, await world.running(IDS), ["b", "c", "d"])
    assert await Operators(world.site).holder() == leader


async def requests_are_limited_to(world: World, seconds: int) -> None:
    """Assert that the API server gives slices with this requestSeconds."""
    slices = await world.slices()
    assert {item.spec.settings.request_seconds for item in slices} == {seconds}


async def members_say(world: World, text: str) -> None:
    """Assert that each member has logged the text."""
    for pod in ("hub-0", "hub-1"):
        assert text in await world.kubectl("logs", pod)


async def runs_again(world: World, child_id: str, pid: int) -> None:
    """Assert that the child runs as another process than this one."""
    (place,) = (await world.record())[child_id]
    assert place.state == "Running"
    assert place.pid != pid


def other(member: str) -> str:
    """Return the other member."""
    return "hub-1" if member == "hub-0" else "hub-0"


async def is_moved(world: World, source: str) -> None:
    """Assert that the child is recorded only on the other member."""
    (place,) = (await world.record())["a"]
    assert place.member != source
    assert place.state == "Running"


async def client_knows(client: Hub, ids: set[str]) -> None:
    """Assert that the client finds exactly these children."""
    assert client.registry_dump().keys() == ids
