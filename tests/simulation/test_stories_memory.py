"""What operator and agents write at rest, and what they keep in memory of what is gone."""

from __future__ import annotations

import asyncio

import pytest
from memoryrequests import Key

from .budget import overspent
from .leftovers import leftovers
from .naming import HUB, pod_workload
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover


def test_nothing_is_kept_of_children_and_members_that_are_gone() -> None:
    async def story(told: Story) -> None:
        world, demanded = told.world, [f"d{number}" for number in range(6)]
        await told.until(told.view_is_open)
        for child_id in demanded:
            await told.answered(child_id)
        world.server_request("POST", Key("childsets", "ns", "s"), _set(), "user")
        await told.until(lambda: told.run("s-1"))
        world.edit(Key("children", "ns", "c0"), {"spec": {"exec": None, **pod_workload("v")}})
        await told.until(lambda: (run := told.run("c0")) and run.command == ("v",))
        for number in range(4):
            world.edit(Key("children", "ns", f"c{number}"), {"metadata": {"annotations": _move("hub-2")}})
        await told.until(lambda: told.running("hub-2") >= 4)
        before = told.pod("hub-2").container
        before.kill()
        await told.until(lambda: told.pod("hub-2").container is not before and told.running("hub-2") >= 4)
        told.pod("hub-2").container.kill()
        await told.until(lambda: "terminated" in _state(told, "hub-2"))
        await asyncio.sleep(0.05)
        world.edit(HUB, {"spec": {"members": {"replicas": 2}}})
        await told.until(lambda: not told.slices_of_member("hub-2"))
        for number in range(8):
            world.server_request("DELETE", Key("children", "ns", f"c{number}"), {}, "user")
        world.server_request("DELETE", Key("childsets", "ns", "s"), {}, "user")
        world.edit(HUB, {"spec": {"onDemand": None}})
        await told.until(lambda: not world.checks.runs)

        await asyncio.sleep(600)
        assert "\n".join(f"{count} {way}" for way, count in leftovers(world).items()) == ""

    tell(hub(members={"replicas": 3}, onDemand={"exec": {"command": ["x"]}}), 8, story)


def test_at_rest_only_leases_are_renewed() -> None:
    async def story(told: Story) -> None:
        world = told.world
        since = len(world.server.requests)
        await asyncio.sleep(60)
        written = {(sent.method, sent.plural) for sent in world.server.requests[since:] if sent.method != "GET"}
        assert written == {("PUT", "leases")}

        for number in range(20):
            world.edit(Key("children", "ns", "c0"), {"metadata": {"labels": {"a": str(number)}}})
            await asyncio.sleep(0.1)
        assert ["other writes" in each for each in overspent(world)] == [True]

    tell(hub(), 4, story)


def _state(told: Story, member: str) -> dict[str, object]:
    """The state of a member's container, as its kubelet has reported it."""
    state: dict[str, object] = told.world.server.get("pods", member)["status"]["containerStatuses"][0]["state"]
    return state


def _set() -> dict[str, object]:
    template = {"exec": {"command": ["y"]}}
    return {"metadata": {"name": "s"}, "spec": {"hub": "hub", "replicas": 2, "template": template}}


def _move(member: str) -> dict[str, str]:
    return {"processhub.dev/move-to": member}
