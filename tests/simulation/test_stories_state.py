"""Faults by which the state of a child was lost, each as the shortest run that shows it."""

from __future__ import annotations

import asyncio

import pytest
from memoryapi import Json
from memoryrequests import Key

from builders import reports_of
from processhub.api.reasons import State

from .machines import Run
from .naming import HUB
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover
CHILD = Key("children", "ns", "c0")
HOT = hub(migration={"strategy": "HotSwap", "onRestart": "Hold", "holdSeconds": 30})


def run_of(told: Story) -> Run:
    """The only run of c0, a process."""
    run = told.run("c0")
    assert isinstance(run, Run)
    return run


def move(told: Story, member: str) -> None:
    """Order c0 to a member."""
    told.world.edit(CHILD, {"metadata": {"annotations": {"processhub.dev/move-to": member}}})


@pytest.mark.parametrize("change", [{"suspend": True}, {"exec": {"command": ["edited"]}}], ids=["suspended", "edited"])
def test_a_child_that_is_changed_while_it_leaves_for_a_move_keeps_its_state(change: Json) -> None:
    """The move was given up, so the run that was about to hand its state over ended without.

    An edited child stays where a move can't go on: its target is drained.
    """

    async def story(told: Story) -> None:
        run = run_of(told)
        there = "hub-1" if run.member == "hub-0" else "hub-0"
        move(told, there)
        await told.until(lambda: run.ending)
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": there}}})
        told.world.edit(CHILD, {"spec": change})
        await told.until(lambda: not run.runs)
        assert run.left
        told.world.edit(CHILD, {"spec": {"suspend": False}})

        await told.until(lambda: told.run("c0"))
        assert run_of(told).member == run.member
        assert run_of(told).state == run.left

    tell(HOT, 1, story)


def crash(told: Story, member: str) -> None:
    """Crash the run of c0 on a member before it is up."""
    if isinstance(run := told.run("c0"), Run) and run.member == member:
        run.crash()


async def left_with_its_target(told: Story) -> tuple[str, bytes]:
    """Drain the member of c0, which does not come up on the other one.

    Returns the other member and the state, which only that member has then.
    """
    run = run_of(told)
    here, there = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
    told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": here}}})

    def done() -> bool:
        crash(told, there)
        return not told.entry_on(here, "c0") and told.is_reported(there, "c0", State.FAILED)

    await told.until(done, every=0.001)
    assert run.left
    return there, run.left


@pytest.mark.parametrize("change", [{"exec": {"command": ["mended"]}}, {"tags": ["eu"]}], ids=["workload", "tags"])
def test_an_edited_child_that_never_came_up_on_its_target_starts_with_its_state(change: Json) -> None:
    """Its source was emptied, so nobody else had the state. The edited entry did not name it any more."""

    async def story(told: Story) -> None:
        there, left = await left_with_its_target(told)
        before = told.entry_on(there, "c0")
        told.world.edit(CHILD, {"spec": change})
        await told.until(lambda: crash(told, there) or told.entry_on(there, "c0") != before, every=0.001)
        await asyncio.sleep(0.1)  # until its agent has read that
        crash(told, there)
        await told.until(lambda: told.is_reported(there, "c0", State.RUNNING))
        assert (run_of(told).member, run_of(told).state) == (there, left)

    tell(HOT, 1, story)


def test_a_child_that_never_came_up_on_its_target_moves_on_with_its_state() -> None:
    """Its source was emptied, and its target next, as in a roll-out. The target said that the child has no state."""

    async def story(told: Story) -> None:
        there, left = await left_with_its_target(told)
        back = "hub-1" if there == "hub-0" else "hub-0"
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": there}}})
        await told.until(lambda: crash(told, there) or told.running(back), every=0.001)
        assert run_of(told).state == left

    tell(HOT, 1, story)


def test_a_drain_waits_for_no_state_for_ever_once_the_hub_hands_over_none() -> None:
    """The hub was changed to ColdSwap during a handover that could not go on. Its next order had no time limit."""

    async def story(told: Story) -> None:
        run = run_of(told)
        here, there = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
        told.world.network.parted.add(frozenset((here, there)))
        move(told, there)
        await told.until(lambda: not run.runs)
        told.world.edit(HUB, {"spec": {"migration": {"strategy": "ColdSwap"}}})
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": here}}})
        await told.until(lambda: told.running(there), seconds=40)

    tell(HOT, 1, story)


def test_a_child_that_was_up_on_its_target_before_it_was_suspended_keeps_what_it_left_there() -> None:
    """The operator read that it had been up only after it was resumed. Its source was to hand its copy over again."""

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        there = "hub-1" if run_of(told).member == "hub-0" else "hub-0"
        move(told, there)
        await told.until(lambda: (entry := told.entry_on(there, "c0")) and entry.state)
        weather.stall("operator-", "registryslices")
        await told.until(lambda: told.is_reported(there, "c0", State.RUNNING))
        run = run_of(told)
        told.world.edit(CHILD, {"spec": {"suspend": True}})
        await told.until(lambda: not run.runs and told.is_reported(there, "c0", State.PENDING))
        assert run.left
        told.world.edit(CHILD, {"spec": {"suspend": False}})
        await asyncio.sleep(1)
        weather.clear()

        await told.until(lambda: told.run("c0"))
        assert run_of(told).state == run.left

    tell(HOT, 1, story)


def test_a_child_runs_on_until_its_target_waits_for_it() -> None:
    """The target's slice could not be written. The child left its state, and started again, in each round."""

    async def story(told: Story) -> None:
        run = run_of(told)
        there = "hub-1" if run.member == "hub-0" else "hub-0"
        told.world.network.weather.refused[f"hub.{there}.0"] = 403
        move(told, there)
        await asyncio.sleep(10)
        assert told.run("c0") is run
        assert not run.ending
        told.world.network.weather.clear()
        await told.until(lambda: told.running(there))

    tell(HOT, 1, story)


def got(told: Story, member: str) -> bool:
    """Whether slice 0 of a member reports that the state of c0 has arrived."""
    return " got=" in reports_of(told.world.server.get("registryslices", f"hub.{member}.0")).get("c0", "")


def test_a_child_whose_source_is_lost_starts_with_the_state_that_its_target_has_got() -> None:
    """The operator had not read that the target had got it, so the entry of the target named no state."""

    async def story(told: Story) -> None:
        run = run_of(told)
        here, there = run.member, "hub-1" if run.member == "hub-0" else "hub-0"
        move(told, there)
        await told.until(lambda: (entry := told.entry_on(here, "c0")) and entry.to)
        told.world.network.weather.stall("operator-", "registryslices")
        await told.until(lambda: got(told, there), every=0.001)
        told.pod(here).container.kill()

        await told.until(lambda: told.run("c0"))
        assert (run_of(told).member, run_of(told).state) == (there, run.left)

    tell(hub(migration={"strategy": "HotSwap", "onRestart": "Move"}), 1, story)


def test_a_child_that_ran_on_after_a_move_that_failed_does_not_get_the_state_that_its_target_had_got() -> None:
    """The target's entry was still there, as it could not be written, when the source was lost."""

    async def story(told: Story) -> None:
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-0"}}})
        await told.until(lambda: told.running("hub-1") and told.running("hub-0") == 0)
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": None}}})
        await told.until(lambda: told.run("c0") and not told.entry_on("hub-0", "c0"))
        await asyncio.sleep(2)
        weather, container = told.world.network.weather, told.pod("hub-1").container
        weather.rates[container.process.name, "write of handovers"] = 1.0  # no receipt arrives
        move(told, "hub-0")
        await told.until(lambda: got(told, "hub-0"))
        weather.refused["hub.hub-0.0"] = 403
        await told.until(lambda: told.is_reported("hub-1", "c0", State.RUNNING), every=0.001)
        container.kill()
        await asyncio.sleep(2)
        weather.clear()

        await told.until(lambda: (run := told.run("c0")) and run.member == "hub-0")

    tell(HOT, 1, story)
