"""How soon a change (a start, a crash, a stop) appears in Child.status, Hub.status and the slices."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.lab import BenchError, Lab
from bench.measure import Value, percentile
from bench.starts import APART_SECONDS, Kind, specs
from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION, find_condition
from processhub.api.slice import RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILDREN, HUBS, SLICES
from processhub.registry.grammar import parse_report

CHANGES = 10  # of each sort
_GOAL_SECONDS = 1.0
# The pid that one of the three objects shows for the child, 0 for a child that does not run.
Saying = Callable[[], int]


@dataclass
class Told:
    """The state of child ``name`` as the watches of one namespace show it; None if there is nothing about it."""

    name: str
    child: Child | None = None
    hub: Hub | None = None
    slices: dict[str, RegistrySlice] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def by_child(self) -> int:
        """Return the pid in Child.status if the condition Ready agrees."""
        if self.child is None:
            return 0
        ready = find_condition(self.child.status.conditions, "Ready")
        if ready is None or ready.status != "True" or not self.child.status.nodes:
            return 0
        return self.child.status.nodes[0].pid

    def by_hub(self) -> int:
        """Return the pid in Hub.status.registry."""
        entries = self.hub.status.registry if self.hub else ()
        nodes = next((entry.nodes for entry in entries if entry.id == self.name), ())
        return nodes[0].pid if nodes and nodes[0].state == "Running" else 0

    def by_slices(self) -> int:
        """Return the pid in the slices' status."""
        texts = [item.status.reports[self.name] for item in self.slices.values() if self.name in item.status.reports]
        reports = [parse_report(text) for text in texts]
        return next((report.pid for report in reports if report.state == "Running"), 0)


async def tell(lab: Lab, kind: Kind) -> Sequence[Value]:
    """Make changes one after the other on an idle hub; return the seconds until each object shows the change."""
    took: dict[str, list[float]] = {}
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench")
        for spec in specs(CHANGES, kind):
            name = spec.pop("id")
            async with _watched(client, namespace, name) as told:
                await _change(told, took, "start", lambda pid: pid > 0, _create(client, namespace, name, spec))
                first = told.by_slices()
                await _change(told, took, "crash", _differs_from(first), _kill(first))
                await _change(told, took, "stop", lambda pid: pid == 0, client.delete(CHILDREN, namespace, name))
    return [
        value
        for what, seconds in took.items()
        for value in (
            Value(name=f"{what}, p50", unit="s", samples=(percentile(seconds, 50),)),
            Value(
                name=f"{what}, slowest",
                unit="s",
                samples=(max(seconds),),
                goal=_GOAL_SECONDS,
                topic="starts",
                listed=what == "crash: Child",
            ),
        )
    ]


async def _change(told: Told, took: dict[str, list[float]], what: str, right: Callable[[int], bool], act: Any) -> None:
    await asyncio.sleep(APART_SECONDS)
    sayings: dict[str, Saying] = {"Child": told.by_child, "Hub": told.by_hub, "slice": told.by_slices}
    begun = time.perf_counter()
    await act
    waiting = dict(sayings)
    deadline = begun + 60
    while True:
        for source, saying in list(waiting.items()):
            if right(saying()):
                took.setdefault(f"{what}: {source}", []).append(time.perf_counter() - begun)
                del waiting[source]
        if not waiting:
            return
        told.changed.clear()
        try:
            async with asyncio.timeout(deadline - time.perf_counter()):
                await told.changed.wait()
        except TimeoutError:
            raise BenchError(f"{what} of {told.name}: {', '.join(waiting)} not right after 60 s") from None


def _differs_from(pid: int) -> Callable[[int], bool]:
    return lambda now: now != pid


async def _create(client: Client, namespace: str, name: str, spec: dict[str, Any]) -> None:
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "Child",
        "metadata": {"name": name},
        "spec": {"hub": "bench", **spec},
    }
    await client.create(CHILDREN, namespace, manifest)


async def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def _watched(client: Client, namespace: str, name: str) -> AsyncIterator[Told]:
    told = Told(name)

    def child(_: Child | None, new: Child | None) -> None:
        told.child = new
        told.changed.set()

    def hub(_: Hub | None, new: Hub | None) -> None:
        told.hub = new
        told.changed.set()

    def a_slice(old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        if new is not None:
            told.slices[new.metadata.name] = new
        elif old is not None:
            told.slices.pop(old.metadata.name, None)
        told.changed.set()

    informers: list[Informer[Any]] = [
        Informer(client, CHILDREN, child, namespace=namespace, fields=f"metadata.name={name}"),
        Informer(client, HUBS, hub, namespace=namespace),
        Informer(client, SLICES, a_slice, namespace=namespace),
    ]
    running = [asyncio.create_task(informer.run()) for informer in informers]
    try:
        for informer in informers:
            await informer.synced.wait()
        yield told
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
