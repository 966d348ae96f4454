"""Callers, who send requests for children to any member."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from .serving import Asked

if TYPE_CHECKING:
    from .kubelet import Container
    from .world import World

PATIENCE_SECONDS = 60.0  # longer than a request takes that a member answers
BROKEN = "the connection broke"
GONE = "the caller hung up"


class Callers:
    """All callers. Each request has a number of its own and is sent once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0

    def call(
        self,
        child_id: str,
        rng: Random,
        told: Callable[[str], None] | None = None,
        *,
        calm: bool = False,
        member: str = "",
    ) -> None:
        """Send a request for the child to this member, or to any. ``told`` gets the answer.

        ``calm``: the child answers at once.
        """
        self._number += 1
        seconds = rng.choice((0.0, 0.0, 0.1, 1.0, 8.0)) * rng.random()
        asked = Asked(self._number, 0.0 if calm else seconds, not calm and rng.random() < 0.02)
        patience = PATIENCE_SECONDS if calm or rng.random() < 0.8 else rng.uniform(0.0, 5.0)
        pods = sorted(self._world.running_pods, key=lambda pod: pod.key)
        if calm:
            pods = [pod for pod in pods if pod.container.ready]
        if member:
            pods = [pod for pod in pods if pod.name == member]
        if pods:
            container = rng.choice(pods).container
            self._world.loop.apart(self._call(container, child_id, asked, patience, told or (lambda _: None)))

    async def _call(
        self, container: Container, child_id: str, asked: Asked, patience: float, told: Callable[[str], None]
    ) -> None:
        world, name = self._world, f"caller {asked.number}"
        world.trace.note(name, f"asks {container.process.name} for {child_id}")
        try:
            async with asyncio.timeout(patience):
                answer = await self._ask(container, child_id, asked)
        except TimeoutError:
            answer = GONE
        world.trace.note(name, f"hears of {child_id}: {answer}")
        world.checks.answered(asked.number, child_id, answer)
        told(answer)

    async def _ask(self, container: Container, child_id: str, asked: Asked) -> str:
        network, wire = self._world.network, container.wire
        await network.travel()
        await wire.whole.wait()
        if not container.listens:
            return "503 refused: connection refused"
        answer: asyncio.Future[str] = network.loop.create_future()
        begun: list[asyncio.Task[None]] = []

        async def serve() -> None:
            assert container.server is not None
            found = await container.server.receive(child_id, asked)
            if not answer.done():
                answer.set_result(found)

        container.process.call(lambda: begun.append(asyncio.get_running_loop().create_task(serve())))
        container.calls[answer] = None
        try:
            found = await answer
            await network.travel()
            await wire.whole.wait()
        finally:
            container.calls.pop(answer, None)
            if not answer.done() or answer.cancelled():
                container.process.call(lambda: [task.cancel() for task in begun])  # its connection is closed
        return found
