"""Faults that the simulator or a reader of its rules has found, each as the shortest run that shows it."""

from __future__ import annotations

import asyncio

import pytest

from builders import reports_of
from processhub.api.reasons import State
from processhub.registry.grammar import has_state

from .stories import Story, hub, tell
from .world import HUB

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize("late", ["leases", "leases and pods"])
def test_a_child_counts_as_running_once_the_lease_of_its_reporter_is_seen(late: str) -> None:
    """The operator saw the reports of a member's next agent before the Lease that this agent took.

    Until it saw the Lease too, the member's children were Pending to it, and nothing told it to look at them again.
    """

    async def story(told: Story) -> None:
        weather, server = told.world.network.weather, told.world.server
        running = await told.replace_agent("hub-0", late)

        def pending() -> int:
            statuses = (server.get("children", f"c{number}")["status"] for number in range(6))
            return sum(status["state"] == "Pending" for status in statuses)

        def reported() -> int:
            reports = reports_of(server.get("registryslices", "hub.hub-0.0")).values()
            return sum(has_state(report, State.RUNNING) for report in reports)

        await told.until(lambda: reported() == pending() == running)
        weather.clear()
        await told.until(lambda: pending() == 0, seconds=5)

    tell(hub(), 6, story)


@pytest.mark.parametrize("late", ["leases", "leases and pods"])
def test_an_agent_that_started_before_move_was_asked_for_keeps_what_it_runs(late: str) -> None:
    """The operator still saw the earlier agent's Lease when this agent took it.

    The operator granted the entries to the earlier agent. So it took the next agent for one that had started none of
    them.
    """

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        await told.replace_agent("hub-0", late)
        told.world.edit(HUB, {"spec": {"migration": {"onRestart": "Move"}}})
        await told.until(lambda: told.world.server.get("registryslices", "hub.hub-0.0")["spec"].get("holder"))
        weather.clear()
        await asyncio.sleep(10)

    tell(hub(), 6, story)
