"""A child that misbehaves affects no other child and no member."""

from __future__ import annotations

import pytest
from operatorworld import CONFIG_MAPS, World, untouched
from settling import settles, stays

from processhub.cluster.kinds import LEASES

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(6)]
MISFITS = """
import asyncio
import os
import time

from processhub import Actor


class Blocked(Actor):
    async def init(self, args):
        asyncio.get_running_loop().call_later(0.2, time.sleep, 60)


class Slow(Actor):
    async def init(self, args):
        await asyncio.sleep(60)


class Raising(Actor):
    async def init(self, args):
        raise ValueError("no")


class Exiting(Actor):
    async def init(self, args):
        asyncio.get_running_loop().call_later(0.1, os._exit, 3)
"""
CALM = """
from processhub import Actor


class Calm(Actor):
    async def init(self, args):
        self.state = 0
"""
IN_CALM = {"target": "calm:Calm"}


async def with_modules(world: World, **spec: object) -> None:
    """Create a hub of one member (all children share it) with the actors on its Python path, and start sleepers."""
    config = {"metadata": {"name": "code"}, "data": {"misfits.py": MISFITS + CALM, "calm.py": CALM}}
    await world.api.create(CONFIG_MAPS, world.namespace, config)
    await world.hub(members={"replicas": 1, "python": {"configMap": "code"}}, **spec)
    await world.children(IDS)
    await world.child("calm", python=IN_CALM)
    await world.ready("calm", *IDS)


async def bystanders(world: World, *more: str) -> dict[str, tuple[int, int]]:
    """Return the pid and restart count of the children that must not be affected."""
    record = await world.record()
    return {name: (record[name][0].pid, record[name][0].restarts) for name in ("calm", *IDS, *more)}


async def test_an_actor_that_sleeps_a_minute_affects_no_other_child(world: World) -> None:
    await with_modules(world)
    await world.child("beside", python={"target": "misfits:Calm"})  # in the same runner
    await world.child("blocked", python={"target": "misfits:Blocked"})
    await world.ready("beside", "blocked")
    before = await bystanders(world, "beside")
    lease = await world.api.get(LEASES, world.namespace, "hub.hub-0")

    async def untroubled() -> None:
        assert await bystanders(world, "beside") == before
        assert [member.ready for member in (await world.get_hub()).status.members] == [True]

    await stays(untroubled, 8)  # longer than the Lease
    now = await world.api.get(LEASES, world.namespace, "hub.hub-0")
    assert (now.spec.lease_transitions, now.spec.holder_identity) == (
        lease.spec.lease_transitions,
        lease.spec.holder_identity,
    )

    await world.child("late-exec")
    await world.child("late-actor", python=IN_CALM)
    await world.child("late-beside", python={"target": "misfits:Calm"})
    await world.ready("late-exec", "late-actor", "late-beside")
    await world.delete_children("blocked")

    async def ended() -> None:
        assert "blocked" not in await world.record()
        assert not any("blocked" in item.status.reports for item in await world.slices())

    await settles(ended)
    assert {name: pid for name, (pid, _) in (await bystanders(world)).items()} == {
        name: before[name][0] for name in ("calm", *IDS)
    }


async def test_a_child_that_starts_slowly_leaves_its_member_ready(world: World) -> None:
    await with_modules(world, timeouts={"startSeconds": 300})
    await world.child("slow", python={"target": "misfits:Slow"})
    await world.condition("slow", "Ready", "False", "Starting")

    async def ready() -> None:
        assert [member.ready for member in (await world.get_hub()).status.members] == [True]
        assert (await world.get_child("slow")).status.state == "Starting"

    await stays(ready, 5)  # longer than two probes


@pytest.mark.parametrize("target", ["misfits:Raising", "misfits:Exiting"])
async def test_a_crashing_actor_is_restarted_and_affects_no_other_child(world: World, target: str) -> None:
    await with_modules(world)
    before = await bystanders(world)
    await world.child("crashing", python={"target": target})

    async def crashed_often() -> None:
        (place,) = (await world.record())["crashing"]
        assert place.restarts >= 3

    await settles(crashed_often)
    assert await bystanders(world) == before


async def test_a_restart_storm_affects_no_child_of_the_member(world: World) -> None:
    await world.hub(members={"replicas": 1})
    await world.children(IDS)
    before = await world.running(IDS)
    storm = [f"storm{number}" for number in range(15)]
    await world.children(storm, command=["false"])

    async def raging() -> None:
        for name in storm:
            (place,) = (await world.record())[name]
            assert place.restarts >= 3, (name, place)

    await settles(raging)
    await world.child("late")
    await world.ready("late")

    record = await world.record()
    untouched(before, {name: record[name][0] for name in IDS})
    assert [member.ready for member in (await world.get_hub()).status.members] == [True]
    backing_off = await world.condition("storm0", "Ready", "False", "Exited")
    assert "exit code 1" in backing_off.message
