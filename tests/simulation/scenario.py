"""One run: the hub, the faults and the users' acts, all chosen by the seed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from random import Random

from memoryapi import Json

from .atrest import unrest
from .budget import overspent
from .calm import Calm
from .copies import shares_work, sharing
from .demand import all_asked, demanding
from .hands import Act, Hands
from .naming import CHILDREN, HUB
from .restores import Restores, restores
from .running import Outcome, run
from .trace import Trace
from .webhooks import hooked
from .world import World

_REST_SECONDS = 240.0  # the hub must be at rest within this time after the last fault
_STEADY_SECONDS = 20.0  # and must stay so for this time
_TURNS = 3


def demands(seed: int) -> bool:
    """Whether the hub of this seed starts children on demand."""
    return seed % 2 == 1


def run_seed(seed: int, skipped: frozenset[int] = frozenset()) -> Outcome:
    """Run one seed, without the acts of these numbers."""

    async def scenario(seed: int, trace: Trace, folder: Path) -> int:
        return await _run(seed, skipped, trace, folder)

    return run(seed, scenario)


async def _run(seed: int, skipped: frozenset[int], trace: Trace, folder: Path) -> int:
    rng = Random(f"{seed}/scenario")
    spec = _hub(rng)
    if demands(seed):
        demanding(spec, Random(f"{seed}/demand"))
    elif rng.random() < 0.2:
        hooked(spec, rng)
    if shares_work(seed):
        sharing(spec, Random(f"{seed}/copies"))
    trace.note("seed", f"{seed}: hub {spec}")
    world = World(seed, spec, trace, folder)
    hands = Hands(world, seed)
    numbers = itertools.count()
    for name in CHILDREN[: rng.randint(2, 6)]:
        hands.create(name)
    if rng.random() < 0.5:
        await _wait(trace, 30.0)
    pause = rng.choice((1.0, 3.0))  # seconds between two acts

    async def turn(acts: tuple[Act, ...] = ()) -> None:
        ends = world.loop.time() + rng.uniform(20.0, 120.0)
        while trace.violation is None and world.loop.time() < ends:
            await _wait(trace, rng.expovariate(1 / pause))
            if (number := next(numbers)) not in skipped:
                trace.note("seed", f"act {number}")
                hands.act(number, acts)
        world.mend()
        trace.note("seed", "no more faults for now")
        await _settle(world, hands)

    for _ in range(_TURNS):
        await turn()
        if demands(seed) and trace.violation is None:
            await all_asked(world, hands)
            await rest(world)
        if trace.violation is not None:
            break
    if trace.violation is None and restores(seed):
        await turn(Restores(hands, world, seed).acts)
        if demands(seed) and trace.violation is None:
            await all_asked(world, hands)
            await rest(world)
    if trace.violation is None and (calm := Calm(hands, world, seed)).possible:
        calm.prepare()
        await rest(world)
        await calm.begin()
        await turn(calm.acts)
    world.server.forget()
    return world.network.requests


async def _settle(world: World, hands: Hands) -> None:
    """Let the hub come to rest, with what users have changed and, where that stops children, without it."""
    hands.quorum.mend()
    await hands.edits.mend()
    await rest(world)
    if world.trace.violation is None and hands.edits.restore():
        await rest(world)


def _hub(rng: Random) -> Json:
    quorum = rng.choice(
        (
            {"strategy": "StaticQuorum", "quorumSize": 1},
            {"strategy": "StaticQuorum", "quorumSize": 2},
            {"strategy": "DynamicQuorum", "thresholdSeconds": 20},
            {"strategy": "MajorityQuorum"},
            {"strategy": "Divergence"},
        )
    )
    spec: Json = {
        "members": {"replicas": rng.randint(2, 4)},
        "partitionTolerance": quorum,
        "distribution": {
            "strategy": rng.choice(("ConsistentHashing", "ConsistentHashing", "RoundRobin", "LeastLoaded"))
        },
        "migration": {"onRestart": rng.choice(("Hold", "Move")), "holdSeconds": rng.choice((10, 30))},
        "timeouts": {"leaseSeconds": rng.choice((6, 9, 15)), "stopSeconds": rng.choice((2, 10))},
    }
    if rng.random() < 0.3:
        spec["redundancy"] = {
            "strategy": "Replication", "replicationFactor": 2, "replicationModel": "ActivePassive",
        }  # fmt: skip
    elif rng.random() < 0.5:
        spec["migration"] |= {"strategy": "HotSwap", "handoverTimeoutSeconds": rng.choice((3, 15))}
    if rng.random() < 0.15:
        spec["members"] = {"mode": "PerNode"}
    return spec


async def _wait(trace: Trace, seconds: float) -> None:
    """Wait, but not after a violation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await trace.broken.wait()


async def rest(world: World) -> None:
    """Wait until the hub is at rest, and stays so."""
    trace, began, since = world.trace, world.loop.time(), None
    found: list[str] = []
    while trace.violation is None:
        await _wait(trace, 1.0)
        found = unrest(world)
        now = world.loop.time()
        since = None if found else since or now
        if since is not None and now - since >= _STEADY_SECONDS:
            if not (found := overspent(world)):
                trace.note("seed", "all is at rest")
                world.checks.rested(world.server.objects[HUB])
                return
            found = [f"the hub does not rest: {each}" for each in found]
        if now - began > _REST_SECONDS:
            trace.break_promise(
                f"not at rest {_REST_SECONDS:g} s after the last fault: " + "; ".join(found or ["unsteady"])
            )
