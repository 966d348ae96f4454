"""Hubs that start children on demand: their specs, and what holds for requests at rest."""

from __future__ import annotations

import asyncio
from random import Random

from memoryapi import Json
from memoryrequests import Key

from processhub.api.reasons import Reason

from .finishing import rests
from .hands import Hands
from .naming import DEMANDED, taking
from .world import World

_ANSWER_SECONDS = 30.0  # at rest a request for any id is answered within this time


def demanding(spec: Json, rng: Random) -> None:
    """Let the hub of this spec start children on demand."""
    template: Json = {"exec": {"command": ["v0"]}}
    if rng.random() < 0.3:
        template["ttlSeconds"] = rng.choice((5, 30, 90))
    if rng.random() < 0.4:
        template["idleSeconds"] = rng.choice((2, 10, 40))
    if rng.random() < 0.3:
        template["max"] = rng.randint(2, 8)
    if spec["partitionTolerance"]["strategy"] == "Divergence" and rng.random() < 0.3:
        template["onOwnerLost"] = "Local"
    spec["onDemand"] = template
    spec["timeouts"]["requestSeconds"] = 5
    if rng.random() < 0.7:  # its members start children by themselves
        spec["distribution"] = {"strategy": rng.choice(("ConsistentHashing", "ConsistentHashing", "Modulo"))}
        spec.pop("redundancy", None)


def _rests(world: World, name: str) -> bool:
    """Whether a Child that is suspended, has finished, or waits for its member, is declared for the id."""
    child = world.server.objects.get(Key("children", "ns", name))
    if child is None:
        return False
    waits = any(each["reason"] == Reason.MEMBER_UNAVAILABLE for each in child["status"]["conditions"])
    return bool(child["spec"].get("suspend")) or rests(child) or waits


async def all_asked(world: World, hands: Hands) -> None:
    """Have all ids asked for at rest: each answers soon.

    Not where a child may only be on another member than the one that was asked for it, and no other takes any.
    """
    hub = world.server.get("hubs", "hub")
    not_local = hub["spec"]["distribution"]["strategy"] == "NotLocal"
    if "onDemand" not in hub["spec"] or (not_local and len(taking(hub)) < 2):
        return
    waiting = set(DEMANDED)
    for name in DEMANDED:

        def told(answer: str, name: str = name) -> None:
            if answer.startswith(("200 ", "429 ")) or _rests(world, name):
                waiting.discard(name)
            else:
                world.trace.break_promise(f"child {name} is asked for at rest, and the answer is {answer}")

        world.callers.call(name, hands.rng, told, calm=True)
    ends = world.loop.time() + _ANSWER_SECONDS
    while waiting and world.trace.violation is None:
        await asyncio.sleep(0.1)
        if world.loop.time() > ends:
            world.trace.break_promise(
                f"not answered {_ANSWER_SECONDS:g} s after they were asked for: {sorted(waiting)}"
            )
