"""One run: what the hub is like, which faults there are and what users do, all by the seed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from memoryapi import Json, Key

from .checks import unrest
from .kubelet import Pod
from .processes import SimulatedLoop
from .trace import Trace
from .world import HUB, World

CHILDREN = tuple(f"c{number}" for number in range(8))
_REST_SECONDS = 240.0  # within which all must be at rest after the last fault
_STEADY_SECONDS = 20.0  # for which it must stay so
_TURNS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a run: virtual seconds, and the violation or ""."""

    seed: int
    seconds: float
    faults: int
    requests: int
    violation: str
    trace: tuple[str, ...]


def run_seed(seed: int) -> Outcome:
    """Run one seed."""
    trace = Trace()
    logger = logging.getLogger("processhub")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(trace)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    random.seed(seed)
    loop = SimulatedLoop()
    loop.set_exception_handler(
        lambda _, problem: trace.note("loop", f"{problem.get('message')}: {problem.get('exception')!r}")
    )
    gc.disable()
    try:
        with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
            requests = loop.run_until_complete(loop.apart(_run(seed, trace, Path(folder))))
            seconds = loop.time()
    finally:
        logger.removeHandler(trace)
        logger.setLevel(level)
        logger.propagate = propagates
        _discard(loop)
        gc.enable()
    return Outcome(seed, seconds, trace.faults, requests, str(trace.violation or ""), tuple(trace.lines))


def _discard(loop: SimulatedLoop) -> None:
    """Close the loop with all that still waits on it: its processes are gone, and none of them ends in order."""
    loop.set_exception_handler(lambda *_: None)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    logging.disable()
    try:
        loop.close()
        gc.collect()
    finally:
        sys.unraisablehook = hook
        logging.disable(logging.NOTSET)


async def _run(seed: int, trace: Trace, folder: Path) -> int:
    rng = Random(f"{seed}/scenario")
    spec = _hub(rng)
    trace.note("seed", f"{seed}: hub {spec}")
    world = World(seed, spec, trace, folder)
    hands = Hands(world, rng)
    for name in CHILDREN[: rng.randint(2, 6)]:
        hands.create(name)
    if rng.random() < 0.5:
        await _wait(trace, 30.0)
    for _ in range(_TURNS):
        await _disturb(world, hands, rng.uniform(20.0, 120.0))
        world.mend()
        trace.note("seed", "no more faults for now")
        await _rest(world)
        if trace.violation is not None:
            break
    return world.network.requests


def _hub(rng: Random) -> Json:
    quorum = rng.choice(
        (
            {"strategy": "StaticQuorum", "quorumSize": 1},
            {"strategy": "StaticQuorum", "quorumSize": 2},
            {"strategy": "DynamicQuorum", "thresholdSeconds": 20},
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
    return spec


async def _wait(trace: Trace, seconds: float) -> None:
    """Wait, but not after a violation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await trace.broken.wait()


async def _disturb(world: World, hands: Hands, seconds: float) -> None:
    ends = world.loop.time() + seconds
    while world.trace.violation is None and world.loop.time() < ends:
        await _wait(world.trace, hands.rng.expovariate(1 / 3.0))
        hands.act()


async def _rest(world: World) -> None:
    """Wait until all is at rest, and stays so."""
    trace, began, since = world.trace, world.loop.time(), None
    found: list[str] = []
    while trace.violation is None:
        await _wait(trace, 1.0)
        found = unrest(world)
        now = world.loop.time()
        since = None if found else since or now
        if since is not None and now - since >= _STEADY_SECONDS:
            trace.note("seed", "all is at rest")
            return
        if now - began > _REST_SECONDS:
            trace.break_promise(
                f"not at rest {_REST_SECONDS:g} s after the last fault: " + "; ".join(found or ["unsteady"])
            )


class Hands:
    """Users, administrators and chance."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world, self.rng, self._edits = world, rng, 0
        self._acts: tuple[tuple[int, Callable[[], None]], ...] = (
            (8, self._change_weather),
            (3, self._kill_agent),
            (3, self._kill_operator),
            (2, self._stop_operator),
            (3, self._pause_agent),
            (3, self._pause_operator),
            (3, self._cut_member),
            (2, self._cut_operator),
            (3, self._delete_pod),
            (3, self._force_delete_pod),
            (2, self._crash_child),
            (2, self._spoil_object),
            (1, self._set_clock),
            (6, self._create),
            (5, self._edit),
            (2, self._suspend),
            (6, self._move),
            (2, self._drain),
            (2, self._scale),
            (5, self._delete),
        )

    def act(self) -> None:
        """Do one thing."""
        weights = [weight for weight, _ in self._acts]
        self.rng.choices([act for _, act in self._acts], weights)[0]()

    def create(self, name: str) -> None:
        """Create a Child."""
        self._edits += 1
        spec = {"hub": "hub", "exec": {"command": [f"v{self._edits}"]}}
        self.world.server_request(
            "POST", Key("children", "ns", name), {"metadata": {"name": name}, "spec": spec}, "user"
        )

    def _after(self, least: float, most: float, what: Callable[[], object]) -> None:
        self.world.loop.later(self.rng.uniform(least, most), what)

    def _pod(self) -> Pod | None:
        pods = list(self.world.running_pods)
        return self.rng.choice(pods) if pods else None

    def _children(self) -> list[str]:
        return [key.name for key in self.world.server.objects if key.plural == "children"]

    # Faults.

    def _change_weather(self) -> None:
        names = ["", *(operator.process.name for operator in self.world.operators)]
        names += [pod.container.process.name for pod in self.world.running_pods]
        name, rate = self.rng.choice(names), self.rng.choice((0.02, 0.1, 0.4, 0.9))
        part = self.rng.choice(("", "write", "write of registryslices"))
        self.world.network.weather.rates[name, part] = rate
        self.world.trace.fault(name or "network", f"{rate:.0%} of each {part or 'request'} meet a fault from now on")
        self._after(3.0, 30.0, lambda: self.world.network.weather.rates.pop((name, part), None))

    def _kill_agent(self) -> None:
        if (pod := self._pod()) is not None:
            self.world.trace.fault(pod.container.process.name, "is killed")
            pod.container.kill()

    def _kill_operator(self) -> None:
        operator = self.rng.choice(self.world.operators)
        self.world.trace.fault(operator.process.name, "is killed")
        operator.process.kill()

    def _stop_operator(self) -> None:
        operator = self.rng.choice(self.world.operators)
        self.world.trace.fault(operator.process.name, "gets SIGTERM")
        operator.terminate()

    def _pause_agent(self) -> None:
        if (pod := self._pod()) is not None and pod.container.process.runs:
            self.world.trace.fault(pod.container.process.name, "is paused")
            process = pod.container.process
            process.pause()
            self._after(0.5, 40.0, lambda: process.resume(self.world.loop) if process.paused else None)

    def _pause_operator(self) -> None:
        process = self.rng.choice(self.world.operators).process
        if process.runs:
            self.world.trace.fault(process.name, "is paused")
            process.pause()
            self._after(0.5, 40.0, lambda: process.resume(self.world.loop) if process.paused else None)

    def _cut_member(self) -> None:
        if (pod := self._pod()) is not None:
            with_kubelet = self.rng.random() < 0.5
            self.world.trace.fault(pod.name, f"{'and its kubelet are' if with_kubelet else 'is'} cut off")
            pod.wire.whole.clear()
            pod.reachable = not with_kubelet
            self._after(1.0, 60.0, pod.mend)

    def _cut_operator(self) -> None:
        operator = self.rng.choice(self.world.operators)
        self.world.trace.fault(operator.name, "is cut off")
        operator.wire.whole.clear()
        self._after(1.0, 40.0, operator.wire.whole.set)

    def _delete_pod(self) -> None:
        if (pod := self._pod()) is not None and pod.key in self.world.server.objects:
            self.world.trace.fault("admin", f"deletes pod {pod.name}")
            self.world.server.delete("pods", pod.name)

    def _force_delete_pod(self) -> None:
        if (pod := self._pod()) is not None and pod.key in self.world.server.objects:
            self.world.trace.fault("admin", f"deletes pod {pod.name} by force")
            self.world.server.remove(pod.key)

    def _crash_child(self) -> None:
        if runs := list(self.world.checks.runs):
            run = self.rng.choice(runs)
            self.world.trace.fault(run.machine.member, f"child {run.child_id} crashes")
            run.crash()

    def _spoil_object(self) -> None:
        """Delete a Lease or a slice, or take a label off it."""
        objects = [key for key in self.world.server.objects if key.plural in ("leases", "registryslices")]
        if not objects:
            return
        key = self.rng.choice(objects)
        if self.rng.random() < 0.5:
            self.world.trace.fault("admin", f"deletes {key.plural}/{key.name}")
            self.world.server.remove(key)
        else:
            label = self.rng.choice(("processhub.dev/hub", "processhub.dev/hub-uid", "processhub.dev/member"))
            self.world.trace.fault("admin", f"takes the label {label} off {key.plural}/{key.name}")
            self.world.edit(key, {"metadata": {"labels": {label: None}}}, "admin")

    def _set_clock(self) -> None:
        if (pod := self._pod()) is not None:
            seconds = self.rng.choice((-3600.0, -30.0, 30.0, 3600.0))
            self.world.trace.fault(pod.node, f"its clock is wrong by {seconds:g} s")
            self.world.skews[pod.node] = pod.container.process.skew = seconds

    # Users.

    def _create(self) -> None:
        if absent := [name for name in CHILDREN if name not in self._children()]:
            self.create(self.rng.choice(absent))

    def _change(self, patch: Json) -> None:
        if children := self._children():
            self.world.edit(Key("children", "ns", self.rng.choice(children)), patch)

    def _edit(self) -> None:
        self._edits += 1
        self._change({"spec": {"exec": {"command": [f"v{self._edits}"]}}})

    def _suspend(self) -> None:
        self._change({"spec": {"suspend": self.rng.random() < 0.4}})

    def _move(self) -> None:
        member = f"hub-{self.rng.randrange(self._replicas())}"
        self._change({"metadata": {"annotations": {"processhub.dev/move-to": member}}})

    def _drain(self) -> None:
        drained = f"hub-{self.rng.randrange(self._replicas())}" if self.rng.random() < 0.6 else None
        self.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": drained}}})

    def _scale(self) -> None:
        self.world.edit(HUB, {"spec": {"members": {"replicas": self.rng.randint(2, 4)}}})

    def _delete(self) -> None:
        if children := self._children():
            self.world.server_request("DELETE", Key("children", "ns", self.rng.choice(children)), {}, "user")

    def _replicas(self) -> int:
        replicas: int = self.world.server.objects[HUB]["spec"]["members"]["replicas"]
        return replicas
