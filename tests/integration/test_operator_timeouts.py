"""Each of a Hub's timeouts and its restart limit takes effect, also when it is changed."""

from __future__ import annotations

import asyncio
import itertools
import time

from operatorworld import CONFIG_MAPS, World, command_of, never_two
from processwatch import Run
from settling import settles

from processhub.cluster.kinds import LEASES

pytest_plugins = ("operatorworld",)
ONE = {"members": {"replicas": 1}}
# Ignores the order to stop once it has become the sleep.
STUBBORN = ["sh", "-c", "trap '' TERM; exec sleep 100000"]
NEVER_UP = """
import asyncio

from processhub import Actor


class NeverUp(Actor):
    async def init(self, args):
        await asyncio.sleep(600)
"""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_stop_seconds_is_the_time_before_a_child_is_killed(world: World) -> None:
    await asyncio.gather(
        world.hub("quick", **ONE, timeouts={"stopSeconds": 1}), world.hub("slow", **ONE, timeouts={"stopSeconds": 5})
    )
    await asyncio.gather(world.child("a", "quick", command=STUBBORN), world.child("b", "slow", command=STUBBORN))
    await world.ready("a", "b")

    async def both_ignore() -> None:
        for hub, child_id in (("quick", "a"), ("slow", "b")):
            (run,) = world.watch.live(hub)[child_id]
            assert command_of(run.pid)[0] == "sleep"

    await settles(both_ignore)

    began = now()
    await world.delete_children("a", "b")

    async def both_over() -> dict[str, Run]:
        runs = {hub: world.watch.runs(hub)[child_id][0] for hub, child_id in (("quick", "a"), ("slow", "b"))}
        assert all(run.ended for run in runs.values())
        return runs

    runs = await settles(both_over)
    assert runs["quick"].seen - began >= 0.9
    assert runs["slow"].seen - began >= 4.9
    assert runs["quick"].seen < runs["slow"].seen


async def test_a_start_may_take_start_seconds(world: World) -> None:
    config = {"metadata": {"name": "code"}, "data": {"never.py": NEVER_UP}}
    await world.api.create(CONFIG_MAPS, world.namespace, config)
    await world.hub(members={"replicas": 1, "python": {"configMap": "code"}}, timeouts={"startSeconds": 300})
    await world.child("never", python={"target": "never:NeverUp"})
    await world.condition("never", "Ready", "False", "Starting")

    # A start has the limit that was in force at its beginning.
    await world.edit_hub(timeouts={"startSeconds": 2})
    await world.hub_observed()
    await world.child("never-too", python={"target": "never:NeverUp"})

    failed = await world.condition("never-too", "Ready", "False", "StartTimeout")
    assert "not up within 2 s" in failed.message
    await world.condition("never", "Ready", "False", "Starting")


async def test_a_members_lease_has_the_duration_lease_seconds(world: World) -> None:
    await world.hub(**ONE, timeouts={"leaseSeconds": 6})

    async def lease_of(seconds: int) -> None:
        lease = await world.api.get(LEASES, world.namespace, "hub.hub-0")
        assert lease.spec.lease_duration_seconds == seconds

    await settles(lambda: lease_of(6))
    holder = (await world.api.get(LEASES, world.namespace, "hub.hub-0")).spec.holder_identity

    await world.edit_hub(timeouts={"leaseSeconds": 20})

    await settles(lambda: lease_of(20))
    lease = await world.api.get(LEASES, world.namespace, "hub.hub-0")
    assert lease.spec.holder_identity == holder, "the member keeps it"


async def test_more_restarts_than_allowed_within_the_window_fail_the_child_until_its_spec_changes(world: World) -> None:
    await world.hub(**ONE, restarts={"max": 3, "windowSeconds": 600})
    await world.child("a", command=["false"])
    await world.child("b")
    before = await world.ready("b")

    failed = await world.condition("a", "Ready", "False", "RestartsExceeded")

    assert failed.message.startswith("more than 3 restarts in 600 s, the last one: exit code 1")
    child = await world.get_child("a")
    assert child.status.state == "Failed"
    assert child.status.nodes[0].restarts == 3

    await world.edit_child("a", exec={"command": ["sleep", "100000"]})

    after = await world.ready("a", "b")
    assert after["b"].status.nodes == before["b"].status.nodes


async def test_restarts_back_off(world: World) -> None:
    await world.hub(**ONE)
    # Up long enough to be seen, and then it ends again.
    await world.child("a", command=["sleep", "0.15"])

    async def six_starts() -> list[Run]:
        runs = world.watch.runs()["a"]
        assert len(runs) >= 6
        return runs[:6]

    runs = await settles(six_starts)
    gaps = [after.started - before.seen for before, after in itertools.pairwise(runs)]
    # At once, then after 0.1, 0.2, 0.4, 0.8 s; a gap may seem shorter by a tick and one look at /proc.
    for gap, least in zip(gaps[1:], (0.1, 0.2, 0.4, 0.8), strict=True):
        assert gap >= least - 0.02, gaps
    never_two(world.watch)


async def test_children_restart_by_their_restart_policy(world: World) -> None:
    await world.hub(**ONE)
    await world.child("permanent", command=["true"], restartPolicy="Permanent")
    await world.child("transient", command=["true"], restartPolicy="Transient")
    await world.child("transient-failing", command=["false"], restartPolicy="Transient")
    await world.child("temporary", command=["false"], restartPolicy="Temporary")

    async def as_each_asks() -> None:
        record = {name: places[0] for name, places in (await world.record()).items()}
        assert (record["transient"].state, record["transient"].restarts) == ("Stopped", 0)
        assert (record["temporary"].state, record["temporary"].restarts) == ("Stopped", 0)
        assert record["permanent"].restarts >= 2
        assert record["transient-failing"].restarts >= 2

    await settles(as_each_asks)
    await world.condition("transient", "Ready", "False", "Completed")
    await world.condition("temporary", "Ready", "False", "Exited")


async def test_a_child_that_cannot_be_started_reports_it_within_two_seconds(world: World) -> None:
    await world.hub(**ONE)

    async def reason_of(name: str, reason: str, **spec: object) -> float:
        began = time.monotonic()
        await world.child(name, **spec)
        await world.condition(name, "Ready", "False", reason)
        return time.monotonic() - began

    took = await asyncio.gather(
        reason_of("no-command", "CommandNotFound", command=["/no/such/program"]),
        reason_of("no-module", "ImportError", python={"target": "no_such_module:Actor"}),
        reason_of("exits", "Exited", command=["sh", "-c", "exit 7"]),
    )

    # Two seconds on an idle machine; here other tests run at the same time.
    assert max(took) <= 10
