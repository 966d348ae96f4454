"""Faults by which the state of a child was lost, each as the shortest run that shows it."""

from __future__ import annotations

import pytest
from memoryapi import Json
from memoryrequests import Key

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
