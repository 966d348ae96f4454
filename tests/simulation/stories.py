"""Stories: a world at rest, some acts on it, and rest again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from memoryapi import Json
from memoryrequests import Key

from builders import reports_of
from processhub.api.reasons import State
from processhub.registry.grammar import Assignment, has_state, parse_assignment

from .childpods import PodRun
from .hands import Hands
from .machines import Run
from .running import run
from .scenario import rest
from .trace import Trace
from .world import World


class Story:
    """A world with some children at rest, and the acts on it."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def until(self, check: Callable[[], Any], seconds: float = 60.0, every: float = 0.01) -> None:
        """Wait until this holds."""
        async with asyncio.timeout(seconds):
            while not check():  # noqa: ASYNC110 anything may be waited for
                await asyncio.sleep(every)

    def pod(self, name: str) -> Any:
        """The pod of a member."""
        return next(pod for pod in self.world.running_pods if pod.name == name)

    def running(self, member: str) -> int:
        """The number of children that run on a member."""
        return sum(run.member == member for run in self.world.checks.runs)

    def epochs(self, member: str) -> list[int]:
        """The epochs of the children that run on a member."""
        return [run.epoch for run in self.world.checks.runs if run.member == member]

    def run(self, child_id: str) -> Run | PodRun | None:
        """The only run of a child, if it runs."""
        runs = [run for run in self.world.checks.runs if run.child_id == child_id]
        assert len(runs) <= 1
        return runs[0] if runs else None

    def entry(self, child_id: str) -> Assignment | None:
        """The entry of a child."""
        slices = [item for key, item in self.world.server.objects.items() if key.plural == "registryslices"]
        texts = [item["spec"]["entries"][child_id] for item in slices if child_id in item["spec"]["entries"]]
        return parse_assignment(texts[0]) if texts else None

    def entry_on(self, member: str, child_id: str) -> Assignment | None:
        """The entry of a child in slice 0 of a member."""
        text = self.world.server.get("registryslices", f"hub.{member}.0")["spec"]["entries"].get(child_id)
        return parse_assignment(text) if text else None

    def is_reported(self, member: str, child_id: str, state: State) -> bool:
        """Whether a slice of a member reports this state of a child."""
        slices = [self.world.server.objects[key] for key in self.slices_of_member(member)]
        return any(has_state(reports_of(item).get(child_id, ""), state) for item in slices)

    def slices_of(self, child_id: str) -> list[Key]:
        """The slices that have an entry of a child."""
        slices = {key: item for key, item in self.world.server.objects.items() if key.plural == "registryslices"}
        return [key for key, item in slices.items() if child_id in item["spec"]["entries"]]

    def slices_of_member(self, member: str) -> list[Key]:
        """The slices of a member."""
        slices = {key: item for key, item in self.world.server.objects.items() if key.plural == "registryslices"}
        return [key for key, item in slices.items() if item["spec"]["member"] == member]

    def order(self, member: str) -> Json:
        """What slice 0 of the member says of a view."""
        activation: Json = self.world.server.get("registryslices", f"hub.{member}.0")["spec"].get("activation") or {}
        return activation

    def view_is_open(self) -> bool:
        """Whether all members of the hub may start children."""
        members = range(self.world.server.get("hubs", "hub")["spec"]["members"]["replicas"])
        orders = [self.order(f"hub-{number}") for number in members]
        return all(order.get("phase") == "Open" for order in orders) and len({order["view"] for order in orders}) == 1

    def call(self, child_id: str, member: str = "") -> Awaitable[str]:
        """Send a request to a member, or to any; returns its answer."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.world.callers.call(child_id, Random(child_id), answer.set_result, calm=True, member=member)
        return answer

    async def answered(self, child_id: str, member: str = "") -> None:
        """Send a request, and wait for the answer of the child."""
        answer = await self.call(child_id, member)
        assert answer.startswith("200 "), answer

    async def finish(self, child_id: str) -> str:
        """Let a child finish, so that nothing may start it again; returns its member, which has reported it."""
        self.world.edit(Key("children", "ns", child_id), {"spec": {"restartPolicy": "Temporary"}})
        run = self.run(child_id)
        assert isinstance(run, Run)
        await self.until(lambda: run.is_temporary)
        self.world.checks.finished.finish(run, seen=False)
        await self.until(lambda: self.is_reported(run.member, child_id, State.STOPPED))
        return run.member

    async def replace_agent(self, member: str, late: str) -> int:
        """Have a member's container killed and restarted while the operator's watches of ``late`` deliver nothing.

        Returns the number of children that run there, before and after.
        """
        for plural in late.split(" and "):
            self.world.network.weather.stall("operator-", plural)
        before, running = self.pod(member).container, self.running(member)
        assert running
        before.kill()
        await self.until(lambda: self.pod(member).container is not before and self.running(member) == running)
        return running


def tell(
    spec: Json, children: int, story: Callable[[Story], Awaitable[None]], seed: int = 0, *, pods: bool = False
) -> None:
    """Run a story, and let the world come to rest. Raises AssertionError if a promise was broken.

    ``pods``: the children are Pods.
    """

    async def scenario(seed: int, trace: Trace, folder: Path) -> int:
        world = World(seed, spec, trace, folder)
        hands = Hands(world, seed)
        hands.pods.share = float(pods)
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
