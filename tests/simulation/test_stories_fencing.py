"""Members and leaders that return, or whose writes come late: each as the shortest run that breaks one rule."""

from __future__ import annotations

import asyncio

import pytest
from memoryrequests import Key

from processhub.api.reasons import State

from .machines import Run
from .naming import HUB
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover
CHILD, NEW = Key("children", "ns", "c0"), Key("children", "ns", "new")
# In a hub that starts children on demand, slice 0 has no entries.
FIRST_IS_EMPTY = hub(onDemand={"exec": {"command": ["x"]}}, distribution={"strategy": "LeastLoaded"})
_LEASE_IS_OVER = 15  # seconds


def declare(told: Story) -> None:
    """Declare the child ``new``."""
    spec = {"hub": "hub", "exec": {"command": ["v"]}}
    told.world.server_request("POST", NEW, {"metadata": {"name": NEW.name}, "spec": spec}, "user")


def here_and_there(told: Story, child_id: str = "c0") -> tuple[str, str]:
    """The member that runs the child, and the other one."""
    run = told.run(child_id)
    assert run is not None
    return run.member, "hub-1" if run.member == "hub-0" else "hub-0"


def order_move(told: Story, key: Key, member: str) -> None:
    """Order a move of a child."""
    told.world.edit(key, {"metadata": {"annotations": {"processhub.dev/move-to": member}}})


@pytest.mark.parametrize("lists", ["read", "old", "lost"])
def test_an_agent_that_was_paused_starts_nothing_that_went_elsewhere(lists: str) -> None:
    """Its watch of the slices delivers nothing once it goes on, and no report of it is answered with its slice."""

    async def story(told: Story) -> None:
        here, there = here_and_there(told)
        weather, process = told.world.network.weather, told.pod(here).container.process
        weather.stall(here, "registryslices")
        process.pause()
        await told.until(lambda: told.running(there) == 4)
        await asyncio.sleep(1)
        weather.refused["registryslices"] = 403
        if lists == "old":
            weather.stale.add((here, "registryslices"))
        elif lists == "lost":
            weather.rates[process.name, "read of registryslices"] = 1.0
        process.resume(told.world.loop)
        await asyncio.sleep(10)
        assert told.running(there) == 4

    tell(hub(migration={"onRestart": "Move"}), 4, story)


def test_a_child_whose_start_was_not_reported_moves_only_when_it_has_ended() -> None:
    async def story(told: Story) -> None:
        declare(told)
        await told.until(lambda: told.run("new"))
        here, there = here_and_there(told, "new")
        process = told.pod(here).container.process
        process.pause()

        order_move(told, NEW, there)
        await asyncio.sleep(5)

        process.resume(told.world.loop)
        await told.until(lambda: told.run("new") and told.running(there) == 1)

    tell(hub(), 0, story)


def test_a_child_whose_entry_may_be_written_yet_is_started_nowhere_else() -> None:
    """The write of its entry was not answered, and was stored when the child was to go to another member.

    The slice could not be written again before.
    """

    async def story(told: Story) -> None:
        weather, first = told.world.network.weather, "hub.hub-0.0"
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        await asyncio.sleep(2)
        weather.next["operator-", f"write of {first}"] = "stored after 8"
        declare(told)
        await told.until(lambda: not weather.next)
        weather.refused[first] = 403
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-0"}}})
        await asyncio.sleep(10)
        assert told.running("hub-0") == 1

    tell(hub(), 0, story)


def test_a_child_whose_slice_may_be_created_yet_is_started_nowhere_else() -> None:
    """The slice was created when the child was to go to another member, and before it was created again."""

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        await asyncio.sleep(2)
        weather.next["operator-", "write of registryslices"] = "stored after 2"
        declare(told)
        await told.until(lambda: not weather.next)
        weather.next["operator-", "write of registryslices"] = "arrives late"
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-0"}}})
        await told.until(lambda: Key("registryslices", "ns", "hub.hub-0.1") in told.world.server.objects)
        await asyncio.sleep(5)

    tell(FIRST_IS_EMPTY, 0, story)


def test_an_agent_starts_nothing_by_a_slice_that_a_former_leader_has_created_late() -> None:
    """The next leader knew nothing of it, and had given the child to another member."""

    async def story(told: Story) -> None:
        world, weather = told.world, told.world.network.weather
        late = Key("registryslices", "ns", "hub.hub-0.1")
        world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        await asyncio.sleep(2)
        weather.next["operator-", "write of registryslices"] = "stored after 20"
        declare(told)
        await told.until(lambda: not weather.next)
        for operator in world.operators:
            operator.process.kill()
        world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-0"}}})
        await told.until(lambda: told.running("hub-1") == 1)

        assert late not in world.server.objects
        await told.until(lambda: late in world.server.objects)
        await asyncio.sleep(2)

    tell(FIRST_IS_EMPTY, 0, story)


def test_a_member_whose_renewals_are_not_seen_is_not_gone() -> None:
    async def story(told: Story) -> None:
        runs = list(told.world.checks.runs)
        told.world.network.weather.stall("operator-", "leases")
        await asyncio.sleep(_LEASE_IS_OVER)
        assert list(told.world.checks.runs) == runs

    tell(hub(), 4, story)


def test_no_child_ends_while_the_api_server_takes_no_renewals() -> None:
    """Nobody could renew a Lease for longer than leaseSeconds, and one member reached the API server again later."""

    async def story(told: Story) -> None:
        runs, weather = list(told.world.checks.runs), told.world.network.weather
        wire = told.pod("hub-0").wire.whole
        weather.refused["leases"] = 500
        await asyncio.sleep(7)
        wire.clear()
        await asyncio.sleep(0.9)  # The leader renewed its own Lease 2 s before at most, and has 10 s for the next time.
        weather.clear()
        await asyncio.sleep(5)
        wire.set()
        await asyncio.sleep(5)
        assert list(told.world.checks.runs) == runs

    timeouts = {"leaseSeconds": 6, "stopSeconds": 10}
    tell(hub(timeouts=timeouts, partitionTolerance={"strategy": "Divergence"}), 4, story)


def test_a_status_that_was_refused_is_written_later() -> None:
    async def story(told: Story) -> None:
        told.world.network.weather.refused["children"] = 403
        declare(told)
        await told.until(lambda: told.run("new"))
        await asyncio.sleep(3)
        told.world.network.weather.clear()

    tell(hub(), 1, story)


def test_an_entry_that_was_refused_is_written_later() -> None:
    async def story(told: Story) -> None:
        told.world.network.weather.refused["registryslices"] = 403
        declare(told)
        await asyncio.sleep(3)
        told.world.network.weather.clear()
        await told.until(lambda: told.run("new"), seconds=20)

    tell(hub(), 1, story)


def test_an_agent_that_was_replaced_ends_its_children_when_it_sees_the_next_holder() -> None:
    """Its pod was deleted by force while its node was cut off, and its kubelet does not know that yet."""

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        former = told.pod(run.member)
        former.cut()
        told.world.server.end(former.key, 0)
        runs = told.world.checks.runs
        await told.until(lambda: any(each.child_id == "c0" and each is not run for each in runs))
        assert run in runs
        former.wire.whole.set()

        await told.until(lambda: run not in runs, seconds=10)

    tell(hub(partitionTolerance={"strategy": "Divergence"}), 1, story)


def test_an_answer_that_comes_late_replaces_nothing_that_was_seen_since() -> None:
    """The answer to the write of an entry arrived after the report of what that had started."""

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        weather.next["operator-", "write of registryslices"] = "answered late"
        declare(told)
        await told.until(lambda: told.run("new"))
        assert not weather.next

    tell(hub(), 1, story)


def test_a_removal_that_was_refused_keeps_no_copy_from_becoming_active() -> None:
    """The copy was on record and ran all along, and counted as one that had not been seen to stop."""

    async def story(told: Story) -> None:
        weather, child = told.world.network.weather, Key("children", "ns", "c0")
        weather.refused["registryslices"] = 422
        told.world.edit(child, {"spec": {"suspend": True}})
        await asyncio.sleep(5)
        told.world.edit(child, {"spec": {"suspend": False}})
        await asyncio.sleep(5)
        weather.refused.clear()
        runs = {run.member: run for run in told.world.checks.runs}
        assert len(runs) == 2

        active = next(member for member, run in runs.items() if run.role_now == "Active")
        told.pod(active).cut()

        left = [run for member, run in runs.items() if member != active]
        await told.until(lambda: left[0].role_now == "Active")

    redundancy = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
    tell(hub(redundancy=redundancy, migration={"onRestart": "Move"}), 1, story)


def test_a_member_that_was_paused_is_ready_again_whichever_of_two_sessions_reads_its_slices_first() -> None:
    """The answer to a renewal was seen after the pause, and the next renewal began another session of the Lease.

    The first session read the slices later than the second one, and its permit replaced that one's.
    """

    async def story(told: Story) -> None:
        weather, lease = told.world.network.weather, Key("leases", "ns", "hub.hub-1")
        pod = told.pod("hub-1")

        def renewed() -> str:
            return str(told.world.server.objects[lease]["spec"]["renewTime"])

        weather.next["hub-1/", "write of leases"] = "answered late"
        await told.until(lambda: not weather.next)
        before = renewed()
        await told.until(lambda: renewed() != before)
        pod.container.process.pause()
        await asyncio.sleep(20)
        weather.next["hub-1/", "read of registryslices"] = "answered late"
        pod.container.process.resume(told.world.loop)

        await told.until(lambda: not weather.next)
        await asyncio.sleep(10)
        assert pod.container.ready

    tell(hub(partitionTolerance={"strategy": "Divergence"}), 1, story)


def test_an_agent_starts_nothing_that_was_granted_to_the_one_before_it() -> None:
    """What it would start crashes, and waits for its next start when the operator gives it to another member."""

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        here, there = here_and_there(told)
        for plural in ("leases", "pods"):
            weather.stall("operator-", plural)
        before = told.pod(here).container
        before.kill()
        await told.until(lambda: told.pod(here).container is not before)
        for _ in range(60):
            await asyncio.sleep(0.05)
            if isinstance(again := told.run("c0"), Run):
                again.crash()
        starts = (State.STARTING, State.RUNNING)
        await told.until(
            lambda: not told.run("c0") and not any(told.is_reported(here, "c0", state) for state in starts)
        )

        weather.stall(here, "registryslices")
        for plural in ("leases", "pods"):
            weather.go_on("operator-", plural)
        await told.until(lambda: told.running(there) == 1)
        await asyncio.sleep(5)

    tell(hub(migration={"onRestart": "Move"}), 1, story)


def test_an_agent_starts_nothing_by_what_a_slice_once_said_that_is_gone() -> None:
    """It was cut off when a slice was made for it, emptied and deleted, and learned of that in this order.

    It had its Lease back by then, and had read that there was no such slice.
    """

    async def story(told: Story) -> None:
        world, weather, pod = told.world, told.world.network.weather, told.pod("hub-1")
        late = Key("registryslices", "ns", "hub.hub-1.1")
        world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-0"}}})
        await asyncio.sleep(2)
        weather.stall("hub-1", "registryslices")
        pod.wire.whole.clear()
        declare(told)
        await told.until(lambda: late in world.server.objects)
        world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": None}}})
        await told.until(lambda: told.running("hub-0") == 1)
        world.server.end(late)
        pod.wire.whole.set()
        await asyncio.sleep(5)
        assert pod.container.ready

        weather.clear()
        await asyncio.sleep(2)

    tell(FIRST_IS_EMPTY | {"migration": {"onRestart": "Move"}}, 0, story)
