"""etcd is restored from a backup while operator, members and clients keep running."""

from __future__ import annotations

import asyncio
from pathlib import Path

from operatorsite import ControlPlane
from operatorworld import World, never_two
from settling import settles

from processhub import Hub
from processhub.cluster.kinds import CHILDREN

pytest_plugins = ("operatorworld",)
IDS = ["a", "b", "c", "d"]


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
