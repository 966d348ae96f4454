"""The three probes of a container, as a real kubelet counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from localcluster.kubelet.environment import Json

_EAGER_SECONDS = 0.2
Check = Callable[[Json, float], Awaitable[str | None]]  # (handler, timeout in s) -> None or the problem


async def until_started(probe: Json, check: Check) -> str | None:
    """Run the startup probe; returns None when it succeeded, else the reason why the container is to be killed."""
    async for healthy, problem in _results(probe, check, assumed=False):
        if healthy:
            return None
        if problem is not None:
            return problem
    raise AssertionError("unreachable")


async def until_dead(probe: Json, check: Check) -> str:
    """Run the liveness probe; returns the reason when the container is to be killed."""
    async for healthy, problem in _results(probe, check, assumed=True):
        if not healthy and problem is not None:
            return problem
    raise AssertionError("unreachable")


async def follow_readiness(probe: Json, check: Check, tell: Callable[[bool, str | None], None]) -> None:
    """Run the readiness probe until cancelled; calls ``tell(ready, problem)`` at each change and each problem."""
    async for healthy, problem in _results(probe, check, assumed=False):
        tell(healthy, problem)


async def _results(probe: Json, check: Check, *, assumed: bool) -> AsyncIterator[tuple[bool, str | None]]:
    """The endless results: (healthy after this result, problem when the failure threshold was reached)."""
    healthy, streak, good = assumed, 0, assumed
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    clock = asyncio.get_running_loop().time
    period = float(probe.get("periodSeconds") or 10)
    due = clock()
    while True:
        problem = await check(probe, float(probe.get("timeoutSeconds") or 1))
        reached = False
        if problem is None or clock() >= due:
            due = clock() + period
            streak = streak + 1 if (problem is None) == good else 1
            good = problem is None
            threshold = int(probe.get("successThreshold" if good else "failureThreshold") or (1 if good else 3))
            reached = streak >= threshold
        if reached:
            healthy = good
        yield healthy, problem if reached else None
        # Probes more often while not healthy yet (tests wait for the start of pods); the additional probes only count
        # when they succeed, so thresholds last as long as with a real kubelet.
        await asyncio.sleep(period if healthy else min(period, _EAGER_SECONDS))
