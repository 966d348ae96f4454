"""Faults of children that requests start, each as the shortest run that shows it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from memoryapi import Json
from memoryrequests import Key

from processhub.core.model.activation import View, chosen_member
from processhub.registry.grammar import parse_assignment

from .childpods import PodRun
from .naming import HUB
from .serving import Asked
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover
CHILD = Key("children", "ns", "c0")


def demand(**template: Any) -> Json:
    """The spec of a hub whose members start children on demand."""
    return hub(onDemand={"exec": {"command": ["x"]}, **template})


async def moved(told: Story) -> tuple[str, str]:
    """Move c0 from the member that the view names for it to the other; returns both."""
    await told.until(told.view_is_open)
    run = told.run("c0")
    assert run is not None
    here = run.member
    there = "hub-1" if here == "hub-0" else "hub-0"
    told.world.edit(CHILD, {"metadata": {"annotations": {"processhub.dev/move-to": there}}})
    await told.until(lambda: (moved := told.run("c0")) and moved.member == there)
    await told.until(told.view_is_open)
    return here, there


def test_a_child_that_is_started_again_where_it_has_just_ended_is_put_on_record() -> None:
    """It ended by ttlSeconds, and a request that waited for it started it again before its end was reported.

    The operator waited for a report of the end, which never came, and put the child on record never again.
    """

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        await told.answered("d")
        await told.until(lambda: told.entry("d"))
        first = told.run("d")
        assert first is not None
        await told.until(lambda: first.ending)

        await told.answered("d")

        second = told.run("d")
        assert second is not first
        await told.until(lambda: told.entry("d"))
        await told.until(lambda: not told.entry("d"))

    tell(demand(ttlSeconds=2), 0, story)


def test_a_child_that_is_declared_while_another_is_restarted_does_not_get_its_state() -> None:
    """The run of the former child still ended, and the state that it left was kept for the Child."""

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        await told.answered("d")
        await told.until(lambda: (run := told.run("d")) and (entry := told.entry("d")) and entry.epoch == run.epoch)
        told.world.edit(HUB, {"spec": {"onDemand": {"exec": {"command": ["y"]}}}})
        await told.until(lambda: (run := told.run("d")) and run.ending)

        spec = {"hub": "hub", "exec": {"command": ["z"]}}
        declared = {"metadata": {"name": "d"}, "spec": spec}
        told.world.server_request("POST", Key("children", "ns", "d"), declared, "user")

        await told.until(lambda: (run := told.run("d")) and run.command == ("z",))

    tell(demand() | {"migration": {"strategy": "HotSwap"}}, 0, story)


def test_a_drained_member_sends_requests_for_new_ids_to_the_members_with_the_view() -> None:
    async def story(told: Story) -> None:
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        await told.until(lambda: told.order("hub-0").get("members") == [{"name": "hub-0", "weight": 1}])

        await told.answered("d", "hub-1")

        assert not [key for key in told.world.server.objects if key.plural == "children"]

    tell(demand(), 0, story)


def test_an_id_whose_record_somebody_deleted_is_not_started_beside_what_runs() -> None:
    """Its slice was deleted, so no slice named it, and the member that the view names for it started it."""

    async def story(told: Story) -> None:
        here, there = await moved(told)
        told.world.network.weather.stall(there, "registryslices")
        for operator in told.world.operators:
            operator.process.pause()
        told.world.server.end(told.slices_of("c0")[0])

        answer = told.call("c0", here)
        await asyncio.sleep(5)

        told.world.mend()
        assert (await answer).startswith("200 ")

    tell(demand(), 1, story)


def test_a_member_that_has_not_read_that_its_slice_is_gone_acknowledges_no_other() -> None:
    """The answer to a report of its own showed it slice 0 as that was written after the deletion, and it observed that.

    So what it still ran by the deleted slice counted as ended.
    """

    async def story(told: Story) -> None:
        _, there = await moved(told)
        server = told.world.server
        told.world.network.weather.stall(there, "registryslices")
        view = View(1, "ConsistentHashing", (("hub-0", 1), ("hub-1", 1)))
        new = next(child_id for child_id in map("d{}".format, range(12)) if chosen_member(view, child_id) == there)
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": there}}})
        server.end(told.slices_of("c0")[0])
        before = server.get("registryslices", f"hub.{there}.0")["metadata"]["generation"]
        await told.until(lambda: server.get("registryslices", f"hub.{there}.0")["metadata"]["generation"] > before)

        # Its report is refused, as slice 0 was written since. The answer to the next try shows slice 0 as it is, and
        # the report after that would observe it.
        told.call(new, there)

        await asyncio.sleep(5)

    tell(demand(), 1, story)


def test_a_new_leader_lets_nobody_start_what_runs_by_a_slice_that_was_deleted_before_it_led() -> None:
    """It did not know of the slice. The agent that the view names for the id was new too, and got a block of epochs."""

    async def story(told: Story) -> None:
        here, there = await moved(told)
        for operator in told.world.operators:
            operator.process.kill()
        told.world.network.weather.stall(there, "registryslices")
        told.world.server.end(told.slices_of("c0")[0])
        before = told.pod(here).container
        before.kill()
        await told.until(lambda: told.pod(here).container is not before)

        for _ in range(25):
            told.call("c0", here)
            await asyncio.sleep(1)

    tell(demand(), 1, story)


def test_a_view_is_not_closed_for_a_member_whose_slice_somebody_deleted() -> None:
    """The member was cut off with the view. Its slice was gone, so the view counted as closed there."""

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        view = told.order("hub-0")["view"]
        told.pod("hub-1").wire.whole.clear()
        told.world.edit(HUB, {"spec": {"onDemand": {"exec": {"command": ["y"]}}}})
        await told.until(lambda: told.order("hub-0")["phase"] == "Closing")
        await asyncio.sleep(2)

        told.world.server.end(Key("registryslices", "ns", "hub.hub-1.0"))

        await asyncio.sleep(2)
        assert told.order("hub-0")["view"] == view

    tell(demand(), 0, story)


def test_a_view_is_not_closed_for_a_member_without_slice_0_that_only_seems_gone() -> None:
    """Its slice named no child, so its Lease was not read. It started an id beside the member that the next view names.

    The watches of its slices and of the operator's Leases delivered nothing, and no slice could be written.
    """

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        order = told.order("hub-0")
        members = tuple((member["name"], member["weight"]) for member in order["members"])
        view = View(order["view"], order["strategy"], members)
        child_id = next(name for name in map("d{}".format, range(12)) if chosen_member(view, name) == "hub-1")
        weather = told.world.network.weather
        weather.stall("hub-1", "registryslices")
        weather.refused["registryslices"] = 403
        told.world.server.end(Key("registryslices", "ns", "hub.hub-1.0"))
        weather.stall("operator-", "leases")
        await asyncio.sleep(12)
        weather.refused.clear()
        await asyncio.sleep(5)

        told.call(child_id, "hub-0")
        told.call(child_id, "hub-1")
        await asyncio.sleep(5)

    tell(demand(), 0, story)


@pytest.mark.parametrize("strategy", ["ConsistentHashing", "LeastLoaded"])
def test_a_child_that_still_ends_leaves_no_room_for_another(strategy: str) -> None:
    """Its entry was gone, so it did not count for onDemand.max, whether its member starts others or is given them."""

    async def story(told: Story) -> None:
        ids = [f"d{number}" for number in range(12)]
        if strategy == "ConsistentHashing":
            await told.until(told.view_is_open)
        answers = {child_id: await told.call(child_id) for child_id in ids}
        started = [child_id for child_id in ids if answers[child_id].startswith("200 ")]
        assert len(started) == 4
        await told.until(lambda: all(told.entry(child_id) for child_id in started))
        run, entry = told.run(started[0]), told.entry(started[0])
        assert run is not None
        assert entry is not None
        orders = json.dumps({started[0]: entry.epoch})
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/stop": orders}}})
        await told.until(lambda: run.ending)
        for child_id in ids:
            if child_id not in started:
                told.call(child_id)

        while run.runs:
            assert len(told.world.checks.runs) <= 4
            await asyncio.sleep(0.01)

    spec = demand(max=4)
    tell(spec | {"distribution": {"strategy": strategy}}, 0, story, seed=1)


@pytest.mark.parametrize("migration", ["ColdSwap", "HotSwap"])
def test_a_move_leaves_no_room_for_more_children_than_max(migration: str) -> None:
    """The child counted for the share of its former member, which had room for another when it was gone.

    With HotSwap the next view is opened while the child is on record on both members.
    """

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        ids = [f"d{number}" for number in range(12)]
        answers = {child_id: await told.call(child_id) for child_id in ids}
        started = [child_id for child_id in ids if answers[child_id].startswith("200 ")]
        assert len(started) == 4
        await told.until(lambda: all(told.entry(child_id) for child_id in started))
        there = dict.fromkeys(started, "hub-1")
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/move-to": json.dumps(there)}}})
        await told.until(lambda: told.running("hub-1") == 4)
        await told.until(lambda: all(len(told.slices_of(child_id)) == 1 for child_id in started))
        await told.until(told.view_is_open)

        answers = {child_id: await told.call(child_id) for child_id in ids}

        assert [child_id for child_id in ids if answers[child_id].startswith("200 ")] == started

    tell(demand(max=4) | {"migration": {"strategy": migration}}, 0, story)


def test_a_child_that_still_ends_is_not_started_by_the_member_that_the_view_names() -> None:
    """Its Child is deleted, and its member does not go on. Its entry leaves the record when its end is reported."""

    async def story(told: Story) -> None:
        here, there = await moved(told)
        process = told.pod(there).container.process
        process.pause()
        told.world.server_request("DELETE", CHILD, {}, "user")
        await asyncio.sleep(1)
        answer = told.call("c0", here)
        await asyncio.sleep(3)
        process.resume(told.world.loop)
        assert (await answer).startswith("200 ")

    tell(demand(), 1, story)


def test_a_declared_child_is_placed_elsewhere_only_when_the_view_is_closed() -> None:
    """The member that the view names is to be drained, and has not read that yet: a request there starts the id."""

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        child_id = named_for(told, "hub-1")
        told.world.network.weather.stall("hub-1", "registryslices")
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        spec = {"hub": "hub", "exec": {"command": ["z"]}}
        declared = {"metadata": {"name": child_id}, "spec": spec}
        told.world.server_request("POST", Key("children", "ns", child_id), declared, "user")
        await asyncio.sleep(2)
        told.call(child_id, "hub-1")
        await asyncio.sleep(5)

    tell(demand(), 0, story)


def test_an_ask_that_is_stored_late_does_not_stand_for_ever() -> None:
    """Nobody waited for the id any more, and its member had written that already: as nothing changed, to no effect.

    So the late write was no conflict. The operator placed the id each time that it had ended.
    """

    async def story(told: Story) -> None:
        container = told.pod("hub-1").container
        told.world.network.weather.next["hub-1", "write of registryslices"] = "stored late"
        begun: list[asyncio.Task[str]] = []
        asked = Asked(1, 0.0, crashes=False)
        container.process.call(
            lambda: begun.append(asyncio.get_running_loop().create_task(container.server.receive("d", asked)))
        )
        await asyncio.sleep(0.1)
        begun[0].cancel()

        def asks() -> object:
            return told.world.server.get("registryslices", "hub.hub-1.0")["status"].get("asks")

        await told.until(asks)
        await told.until(lambda: not asks(), seconds=5)

    tell(demand() | {"distribution": {"strategy": "LeastLoaded"}}, 0, story)


def test_a_member_whose_lease_was_lost_keeps_nothing_under_a_view_that_closes() -> None:
    """It was not asked when its view was closed, and the next view names another member for what it had started."""

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        child_id, weather = named_for(told, "hub-1"), told.world.network.weather
        weather.refused["registryslices"] = 403
        await told.answered(child_id, "hub-1")
        process = told.pod("hub-1").container.process
        process.pause()
        weather.refused.clear()
        await told.until(lambda: [each["name"] for each in told.order("hub-0").get("members", ())] == ["hub-0"])
        weather.refused["registryslices"] = 403
        await told.answered(child_id, "hub-0")

        process.resume(told.world.loop)
        await asyncio.sleep(5)

    tell(demand(), 0, story)


def named_for(told: Story, member: str, begins: str = "d") -> str:
    """An id that no object has, and for which the open view names this member."""
    order = told.order("hub-0")
    members = tuple((each["name"], each["weight"]) for each in order["members"])
    view = View(order["view"], order["strategy"], members)
    return next(name for name in (f"{begins}{number}" for number in range(12)) if chosen_member(view, name) == member)


async def _ask_beside(told: Story, run: PodRun, members: tuple[str, ...], seconds: int) -> None:
    """Ask for the id of a Pod at these members, and see that nothing of it runs beside the Pod."""
    for _ in range(10 * seconds):
        for member in members:
            told.call(run.child_id, member)
        await asyncio.sleep(0.1)
        assert not run.runs or told.run(run.child_id) is run


def test_a_request_starts_nothing_while_the_pod_of_its_id_is_there() -> None:
    """Its member's agent had restarted, and started the id beside the Pod, which still ended: no slice named it."""

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        run = told.run("c0")
        assert isinstance(run, PodRun)
        before = told.pod(run.member).container
        before.kill()
        told.world.server_request("DELETE", CHILD, {}, "user")
        await told.until(lambda: told.pod(run.member).container is not before)

        await _ask_beside(told, run, ("hub-0", "hub-1"), 40)

        assert not run.runs

    tell(demand(), 6, story, pods=True)


def test_a_pod_on_a_lost_node_keeps_no_other_id_from_being_started() -> None:
    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        run = told.run("c0")
        assert isinstance(run, PodRun)
        told.pod(run.member).cut()
        told.world.child_pods.lose(run.pod.node, reboots=False)
        other = "hub-1" if run.member == "hub-0" else "hub-0"

        await _ask_beside(told, run, (other,), 40)

        assert run.runs
        conditions = told.world.server.objects[CHILD]["status"]["conditions"]
        assert any(run.pod.key.name in condition["message"] for condition in conditions)
        await told.answered("d", other)

    tell(demand() | {"migration": {"onRestart": "Move"}}, 6, story, pods=True)


async def _stop_where_one_is_refused(told: Story, epoch: int, refused: str) -> None:
    """Order the run of d to stop while writes of a slice are refused, and wait until no slice has it."""
    told.world.network.weather.refused[refused] = 422
    told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/stop": json.dumps({"d": epoch})}}})
    await told.until(lambda: len(told.slices_of("d")) == 1)
    await asyncio.sleep(10)
    told.world.network.weather.refused.clear()

    await told.until(lambda: not told.slices_of("d"))


def test_a_stop_that_was_carried_out_in_one_slice_is_carried_out_in_the_others() -> None:
    """The order named the active copy. When that had left the record, the passive one was made active instead."""

    async def story(told: Story) -> None:
        await told.answered("d")
        entries = {key.name: told.world.server.objects[key]["spec"]["entries"]["d"] for key in told.slices_of("d")}
        assert len(entries) == 2
        (passive,) = (name for name, text in entries.items() if " Passive " in text)
        epoch = next(parse_assignment(text).epoch for text in entries.values() if " Active " in text)
        await _stop_where_one_is_refused(told, epoch, passive)

    redundancy = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive"}
    tell(demand() | {"redundancy": redundancy}, 0, story)


def test_a_stop_that_was_carried_out_in_the_slice_that_it_names_ends_the_older_copies_too() -> None:
    """The order named the newest of two active copies. When that had left the record, the other one ran on."""

    async def story(told: Story) -> None:
        await told.answered("d")
        await told.until(lambda: len(told.slices_of("d")) == 2)
        epochs = {
            key.name: parse_assignment(told.world.server.objects[key]["spec"]["entries"]["d"]).epoch
            for key in told.slices_of("d")
        }
        older, newer = sorted(epochs, key=epochs.__getitem__)
        await _stop_where_one_is_refused(told, epochs[newer], older)

    redundancy = {"strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActiveActive"}
    tell(demand() | {"redundancy": redundancy}, 0, story)
