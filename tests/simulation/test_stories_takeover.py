"""Local takeovers: two slices are written to put one on record, and either write may be refused."""

from __future__ import annotations

import asyncio

import pytest

from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize("refused", ["hub-0", "hub-1"])
def test_a_takeover_of_which_one_write_is_refused_goes_on_and_is_on_record_in_the_end(refused: str) -> None:
    async def story(told: Story) -> None:
        world = told.world
        await told.answered("d", "hub-0")
        await told.answered("e", "hub-1")  # so that the slice is there
        await told.until(lambda: told.entry("d") and told.entry("e"))
        world.network.parted.add(frozenset({"hub-0", "hub-1"}))
        world.network.weather.refused |= {key.name: 422 for key in told.slices_of_member(refused)}
        await told.answered("d", "hub-1")
        (taken,) = (run for run in world.checks.runs if run.child_id == "d" and run.member == "hub-1")
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert told.slices_of("d")

        world.network.weather.refused.clear()
        await told.until(lambda: [run for run in world.checks.runs if run.child_id == "d"] == [taken])
        assert [key.name for key in told.slices_of("d")] == ["hub.hub-1.1"]

    spec = hub(
        partitionTolerance={"strategy": "Divergence"},
        distribution={"strategy": "Local"},
        onDemand={"exec": {"command": ["x"]}, "onOwnerLost": "Local"},
    )
    tell(spec, 0, story)
