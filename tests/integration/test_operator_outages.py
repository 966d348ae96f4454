"""Changes while the API server is down or the operator sees nothing are neither lost nor acted on wrongly."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from namespaces import NAMESPACES
from operatorsite import ControlPlane, Operators
from operatorworld import SHORT, World, never_two, untouched
from settling import settles

from processhub.cluster.errors import ApiError, NotFoundError
from processhub.cluster.kinds import CHILDREN, HUBS, LEASES, PODS, SLICES

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(12)]
ATTEMPTS = 3


async def test_an_api_server_outage_moves_and_restarts_no_child(world: World) -> None:
    await world.hub()
    await world.children(IDS)
    before = await world.running(IDS)

    with world.stopped([ControlPlane(world.site).api_server()]):
        # There is no condition to wait for: every member's Lease must expire.
        await asyncio.sleep(SHORT["leaseSeconds"] + 2)

    async def unmoved() -> None:
        untouched(before, await world.running(IDS))

    await settles(unmoved)
    await world.child("after")
    untouched(before, await world.running([*IDS, "after"]), IDS)
    await world.hub_ready()
    assert {len(runs) for runs in world.watch.runs().values()} == {1}
    assert await world.events("hub", "MemberLost") == []
    never_two(world.watch)


@pytest.mark.nightly
async def test_deletions_missed_because_of_a_410_are_seen_by_the_next_list(world: World) -> None:
    """The leader is stopped while objects are deleted and the API server forgets them: no watch is resumed."""
    await other_namespaces_gone(world)
    await restart(world, "--shutdown-watch-termination-grace-period=10s")  # so that it ends watches in order
    await world.hub(members={"replicas": 2})
    await world.hub("other", ready=False, members={"replicas": 0})
    await world.child("lone", hub="other")
    await world.condition("lone", "Accepted", "True")
    await world.children(IDS)
    await world.running(IDS)
    remaining = list(IDS)

    for _ in range(ATTEMPTS):
        # On a busy machine leadership may be lost, and a standby lists afresh: that would prove nothing.
        gone, remaining = remaining[:3], remaining[3:]
        told = await forget(world, world.operators, gone)
        await world.running(remaining)
        await world.condition("lone", "Accepted", "False", "HubNotFound")
        if told:
            break
    else:
        raise AssertionError("the leader never kept its Lease for as long as the API server takes to start")

    async def the_rest_alone() -> None:
        assert set(world.watch.live()) == set(remaining)

    await settles(the_rest_alone)
    assert {len(runs) for runs in world.watch.runs().values()} == {1}


async def forget(world: World, operators: Operators, names: list[str]) -> bool:
    """Delete Children while the leader is stopped; return whether it kept leading and got a 410."""
    holder = await renewed(operators)
    pod = holder.rpartition("_")[0]
    await world.faults.pause_pod(f"{operators.namespace}/{pod}")
    try:
        await world.delete_children(*names)
        with contextlib.suppress(NotFoundError):
            await world.api.delete(HUBS, world.namespace, "other")
        await restart(world)
    finally:
        await world.faults.resume_pod(f"{operators.namespace}/{pod}")

    async def seen() -> None:
        record = await world.record()
        assert not record.keys() & set(names)

    await settles(seen)
    said = await operators.logs(pod, tailLines="200")
    return await operators.holder() == holder and "watch of children is too old, listing again" in said


async def restart(world: World, *options: str) -> None:
    """Restart the API server with these options added, and wait until it serves watches."""
    await asyncio.to_thread(ControlPlane(world.site).restart_api_server, *options)

    async def serves() -> None:
        try:
            await world.api.raw("GET", "/readyz")
            for kind in (CHILDREN, HUBS, SLICES, LEASES, PODS):
                await world.api.raw("GET", kind.path(), query={"resourceVersion": "0", "limit": "1"})  # from its cache
        except ApiError as error:
            raise AssertionError(error.message) from error

    await settles(serves, within=90, every=0.05)


async def other_namespaces_gone(world: World) -> None:
    """Wait until no namespace is being deleted: the controller takes objects that it can't list for deleted."""

    async def check() -> None:
        items, _ = await world.api.list(NAMESPACES)
        ending = [item["metadata"]["name"] for item in items if item["status"]["phase"] == "Terminating"]  # type: ignore[index]
        assert not ending

    await settles(check, within=90)


async def renewed(operators: Operators) -> str:
    """Return the leader's identity, right after it renewed its Lease."""
    before = (await operators.lease()).spec.renew_time

    async def check() -> str:
        lease = await operators.lease()
        assert lease.spec.renew_time != before
        return lease.spec.holder_identity or ""

    return await settles(check, every=0.05)
