"""Faults that the simulator or a reader of its rules has found, each as the shortest run that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from memoryapi import Json

from .hands import Hands
from .running import run
from .scenario import rest
from .trace import Trace
from .world import HUB, World

pytestmark = pytest.mark.no_cover


class Story:
    """A world with some children at rest, and the acts on it."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def until(self, check: Callable[[], Any], seconds: float = 60.0) -> None:
        """Wait until this holds."""
        async with asyncio.timeout(seconds):
            while not check():  # noqa: ASYNC110 anything may be waited for
                await asyncio.sleep(0.01)

    def pod(self, name: str) -> Any:
        """The pod of a member."""
        return next(pod for pod in self.world.running_pods if pod.name == name)

    def running(self, member: str) -> int:
        """The number of children that run on a member."""
        return sum(run.machine.member == member for run in self.world.checks.runs)


def tell(spec: Json, children: int, story: Callable[[Story], Awaitable[None]], seed: int = 0) -> None:
    """Run a story, and let the world come to rest. Raises AssertionError if a promise was broken."""

    async def scenario(seed: int, trace: Trace, folder: Path) -> int:
        world = World(seed, spec, trace, folder)
        hands = Hands(world, seed)
        for number in range(children):
            hands.create(f"c{number}")
        await rest(world)
        await story(Story(world))
        world.mend()
        await rest(world)
        return 0

    outcome = run(seed, scenario)
    assert not outcome.violation, "\n".join([*outcome.trace[-80:], outcome.violation])


def hub(**spec: Any) -> Json:
    """The spec of a hub with fencing and short times."""
    return {
        "members": {"replicas": 2},
        "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 1},
        "migration": {"onRestart": "Hold", "holdSeconds": 30},
        "timeouts": {"leaseSeconds": 9, "stopSeconds": 10},
        **spec,
    }


@pytest.mark.parametrize("late", ["leases", "leases and pods"])
def test_an_agent_that_started_before_move_was_asked_for_keeps_what_it_runs(late: str) -> None:
    """The operator still saw the earlier agent's Lease when this agent took it.

    The operator granted the entries to the earlier agent. So it took the next agent for one that had started none of
    them.
    """

    async def story(told: Story) -> None:
        weather = told.world.network.weather
        for plural in late.split(" and "):
            weather.stall("operator-", plural)
        before, running = told.pod("hub-0").container, told.running("hub-0")
        assert running
        before.kill()
        await told.until(lambda: told.pod("hub-0").container is not before and told.running("hub-0") == running)
        told.world.edit(HUB, {"spec": {"migration": {"onRestart": "Move"}}})
        await told.until(lambda: told.world.server.get("registryslices", "hub.hub-0.0")["spec"].get("holder"))
        weather.clear()
        await asyncio.sleep(10)

    tell(hub(), 6, story)
