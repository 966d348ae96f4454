"""Figures of starting children: many at once compared with the plain creation of as many objects, and one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

from bench.forks import bare_starts
from bench.lab import BenchError, Lab, api_writes
from bench.measure import Point, Value, percentile
from processhub.api.child import Child
from processhub.api.meta import find_condition
from processhub.client.hub import Hub
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILDREN

Kind = Literal["exec", "python"]
KINDS: tuple[Kind, ...] = ("python", "exec")
_WORKLOADS: dict[Kind, dict[str, Any]] = {
    "exec": {"exec": {"command": ["sleep", "infinity"]}},
    "python": {"python": {"target": "processhub.examples:Counter"}},
}
_ONE_BY_ONE = 40
_LISTED = 5000  # the size whose ratios are rows of docs/benchmarks.md
APART_SECONDS = 1.0  # so that the budget of writes to one slice is never used up: an idle hub


def specs(count: int, kind: Kind, stem: str = "child") -> list[dict[str, Any]]:
    """Specs of children to start."""
    return [{"id": f"{stem}-{index}", **_WORKLOADS[kind]} for index in range(count)]


async def start_many(lab: Lab, count: int, kind: Kind) -> Sequence[Value]:
    """Start ``count`` children with one call, and create as many objects that no operator acts on.

    Plain creation uses the same client and the same specs on a paused hub: the objects, checks and requests are the
    same, and the operator leaves them alone.
    """
    wanted = specs(count, kind)
    forks = await asyncio.to_thread(bare_starts, count) if kind == "exec" else None
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "plain", paused=True)
        await lab.make_hub(client, namespace, "bench")
        async with lab.following(namespace, "plain") as (hub, _):
            begun = time.perf_counter()
            result = await hub.start_children(wanted)
            plain = time.perf_counter() - begun
            _check(result.errors, count, len(result.started))
            await hub.stop_children([spec["id"] for spec in wanted])
        async with lab.following(namespace, "bench") as (hub, _):
            before = await api_writes(client)
            begun = time.perf_counter()
            result = await hub.start_children(wanted, wait=True, timeout=600)
            registry = time.perf_counter() - begun
            _check(result.errors, count, len(result.started))
            await all_ready(client, namespace, count)
            ready = time.perf_counter() - begun
            await asyncio.sleep(2)  # writes that are still under way, Events above all
            writes = await api_writes(client)
            await stop(hub, [spec["id"] for spec in wanted])
    written = writes - before
    rest = sum(written.values()) - sum(written[name] for name in _NAMED)
    return [
        Value(name="plain creation", unit="s", samples=(plain,)),
        Value(
            name="registry complete",
            unit="s",
            samples=(registry,),
            topic="starts",
            listed=False,
            point=Point(series=f"Child objects by the client, {kind}", x=count),
        ),
        _ratio("registry complete ÷ plain creation", registry / plain, 1.5, listed=count == _LISTED),
        Value(name="all Child statuses Ready", unit="s", samples=(ready,)),
        _ratio("all statuses Ready ÷ plain creation", ready / plain, 3.0, listed=count == _LISTED),
        *_beside_forks(registry, forks, listed=count == _LISTED),
        *(Value(name=f"API writes a child: {name}", unit="", samples=(written[name] / count,)) for name in _NAMED),
        Value(name="API writes a child: others", unit="", samples=(rest / count,)),
        Value(name="API writes a child, all", unit="", samples=(sum(written.values()) / count,)),
    ]


def _beside_forks(registry: float, forks: float | None, *, listed: bool) -> list[Value]:
    if forks is None:
        return []
    return [
        Value(name="bare fork and exec of as many sleep", unit="s", samples=(forks,)),
        _ratio("registry complete ÷ bare fork and exec", registry / forks, 2.0, listed=listed),
    ]


def _ratio(name: str, value: float, goal: float, *, listed: bool) -> Value:
    return Value(name=name, unit="×", samples=(value,), goal=goal, topic="starts", listed=listed)


_NAMED = ("children", "children/status", "registryslices", "registryslices/status", "events")


async def start_one(lab: Lab, kind: Kind) -> Sequence[Value]:
    """Start children one after the other on an idle hub; each time counts until the client's registry shows Running."""
    took: list[float] = []
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench")
        async with lab.following(namespace, "bench") as (hub, _):
            await hub.start_children(specs(3, kind, "warm"), wait=True, timeout=60)
            for spec in specs(_ONE_BY_ONE, kind):
                await asyncio.sleep(APART_SECONDS)
                begun = time.perf_counter()
                result = await hub.start_children([spec], wait=True, timeout=60)
                took.append((time.perf_counter() - begun) * 1000)
                _check(result.errors, 1, len(result.started))
    return [
        Value(name="p50", unit="ms", samples=(percentile(took, 50),), goal=100.0, topic="starts"),
        Value(name="slowest", unit="ms", samples=(max(took),)),
    ]


async def stop(hub: Hub, ids: list[str]) -> None:
    """Stop children and wait until they have ended. Raises BenchError."""
    result = await hub.stop_children(ids, wait=True, timeout=600)
    if result.errors:
        raise BenchError(f"{len(result.errors)} children were not stopped: {next(iter(result.errors.items()))}")


def _check(errors: dict[str, Any], wanted: int, started: int) -> None:
    if errors or started != wanted:
        first = next(iter(errors.items()), "")
        raise BenchError(f"{started} of {wanted} children started, {len(errors)} errors: {first}")


async def all_ready(client: Client, namespace: str, count: int) -> None:
    """Wait until ``count`` Child objects of hub bench have Ready=True. Call it when all run, so as not to slow them."""
    ready: set[str] = set()
    done = asyncio.Event()

    def changed(_: Child | None, new: Child | None) -> None:
        if new is not None:
            condition = find_condition(new.status.conditions, "Ready")
            if condition is not None and condition.status == "True":
                ready.add(new.id)
        if len(ready) == count:
            done.set()

    informer = Informer(client, CHILDREN, changed, namespace=namespace, fields="spec.hub=bench")
    running = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(600):
            await done.wait()
    except TimeoutError:
        raise BenchError(f"{len(ready)} of {count} Child statuses are Ready after 600 s") from None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
