"""Views and their blocks: each story as the shortest run that breaks one rule of children on demand."""

from __future__ import annotations

import asyncio

import pytest
from memoryrequests import Key

from .machines import Run
from .naming import HUB
from .stories import Story, hub, tell
from .test_stories_demand import demand, named_for

pytestmark = pytest.mark.no_cover


def test_the_next_agent_of_a_member_gives_no_epoch_of_the_former_one_again() -> None:
    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        first, second = (named_for(told, "hub-1", among) for among in ("d", "e"))
        await told.answered(first, "hub-1")
        before = told.pod("hub-1").container
        before.kill()
        await told.until(lambda: told.pod("hub-1").container is not before)
        await told.until(lambda: told.pod("hub-1").container.ready)
        told.call(second, "hub-1")
        await asyncio.sleep(2)

    tell(demand(), 0, story)


def test_a_member_whose_lease_was_lost_starts_nothing_before_it_has_read_its_slices() -> None:
    """By the slices that it knew, the id was its own to start. The next view names another member."""

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        child_id, weather = named_for(told, "hub-1"), told.world.network.weather
        pod = told.pod("hub-1")
        pod.wire.whole.clear()
        weather.stall("hub-1", "registryslices")
        weather.rates[pod.container.process.name, "read of registryslices"] = 1.0
        await told.until(lambda: [each["name"] for each in told.order("hub-0").get("members", ())] == ["hub-0"])
        await told.answered(child_id, "hub-0")

        renewed = lease(told)
        pod.wire.whole.set()
        await told.until(lambda: lease(told) != renewed)
        for _ in range(20):
            told.call(child_id, "hub-1")
            await asyncio.sleep(0.1)

    tell(demand(), 0, story)


def lease(told: Story) -> object:
    """When the Lease of hub-1 was renewed."""
    return told.world.server.objects[Key("leases", "ns", "hub.hub-1")]["spec"]["renewTime"]


def test_a_member_starts_no_id_before_it_has_read_what_others_have_started() -> None:
    """The answer to a report shows it a view in which the id is its own. Its watch has not come so far."""

    async def story(told: Story) -> None:
        run = told.run("c0")
        assert run is not None
        here, there = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
        told.world.edit(Key("children", "ns", "c0"), {"spec": {"pinned": True}})
        # From here on slice 0 has no new entries. That of c0 stays there.
        told.world.edit(HUB, {"spec": demand()})
        await told.until(told.view_is_open)
        child_id = named_for(told, here)
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": here}}})
        await told.until(lambda: [each["name"] for each in told.order(there).get("members", ())] == [there])
        await asyncio.sleep(2)
        told.world.network.weather.stall(here, "registryslices")
        await told.answered(child_id, there)
        await told.until(lambda: told.entry(child_id))
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": None}}})
        await told.until(told.view_is_open)
        assert isinstance(run, Run)
        run.crash()
        await asyncio.sleep(2)
        told.call(child_id, here)
        await asyncio.sleep(5)

    # Otherwise what others have started moves to the member that is not drained any more.
    tell(hub(distribution={"rebalance": {"onJoin": False}}), 1, story)


def test_no_view_is_opened_while_an_id_comes_onto_the_record() -> None:
    """The write of its entry took longer than that of the view, by which another member started the id.

    All of the ids are that member's by the view. By the load cap some are declared on the other one.
    """

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        ids, weather = [named_for(told, "hub-1", begins) for begins in "defghijk"], told.world.network.weather
        told.world.edit(HUB, {"spec": {"onDemand": None}})
        await told.until(lambda: told.order("hub-1")["phase"] == "Closing")
        await asyncio.sleep(2)
        for operator in told.world.operators:
            operator.process.pause()
        for child_id in ids:
            declared = {"metadata": {"name": child_id}, "spec": {"hub": "hub", "exec": {"command": ["z"]}}}
            told.world.server_request("POST", Key("children", "ns", child_id), declared, "user")
        told.world.edit(HUB, {"spec": demand()})
        await asyncio.sleep(1)
        weather.next["operator-", "write of hub.hub-0.1"] = "arrives late"
        for operator in told.world.operators:
            operator.process.resume(told.world.loop)

        await told.until(lambda: not weather.next)
        await asyncio.sleep(0.1)
        for child_id in ids:
            told.call(child_id, "hub-1")
        await asyncio.sleep(5)

    tell(demand(), 4, story)
