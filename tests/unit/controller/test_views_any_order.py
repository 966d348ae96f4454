"""Children that members start by themselves, while anything happens: none runs twice, all are on record in the end.

The operator and the agents run in one thread, by a seed. More seeds by hand: VIEW_SEEDS=0:300 in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memoryapi import Key
from onethread import Cluster, running_hub
from test_views_one_thread import ask, drain, is_open, on_record, running

from processhub.api.naming import ANNOTATION_MOVE_TO, ANNOTATION_STOP
from processhub.controller.observe import views

IDS = [f"cart-{number}" for number in range(12)]
HUB = Key("hubs", "ns", "hub")
SEEDS = range(*map(int, os.environ.get("VIEW_SEEDS", "0:4").split(":")))


def template(most: int) -> dict[str, Any]:
    """What a request starts."""
    return {"exec": {"command": ["x"]}, "maxFailed": "50%", "minReadySeconds": 0} | ({"max": most} if most else {})


class Trouble:
    """What happens to one cluster by one seed."""

    def __init__(self, cluster: Cluster, chance: random.Random, most: int) -> None:
        self.cluster, self.chance, self.most = cluster, chance, most
        self.declared: set[str] = set()
        self.ever_declared: set[str] = set()
        self.replicas, self.leaders, self.highest = 3, 1, most

    async def step(self) -> None:
        """Let one thing happen."""
        cluster, chance = self.cluster, self.chance
        member, child = chance.choice(sorted(cluster.agents)), chance.choice(IDS)
        wire = cluster.wires[member].whole
        what = chance.randrange(24)
        if what == 0:
            wire.clear()
        elif what == 1:
            wire.set()
        elif what == 2:
            await self.change_the_leader()
        elif what == 3 and child not in self.declared:
            self.declared.add(child)
            self.ever_declared.add(child)
            workload = "x" if chance.randrange(2) else "other"
            cluster.api.create(
                "children",
                {"metadata": {"name": child}, "spec": {"hub": "hub", "exec": {"command": [workload]}}},
            )
        elif what == 4 and child in self.declared:
            self.declared.discard(child)
            cluster.api.delete("children", child)
        elif what == 5:
            self.edit(lambda hub: drain(hub, member if chance.randrange(2) else ""))
        elif what == 6:
            self.replicas = chance.choice((3, 4))
            self.edit(lambda hub: hub["spec"].update(members={"replicas": self.replicas}))
        elif what == 7:
            command = chance.choice("xyz")
            self.edit(lambda hub: hub["spec"].get("onDemand", {}).update(exec={"command": [command]}))
        elif what == 8 and self.most:
            self.most = chance.choice((2, 4, 7))
            self.highest = max(self.most, self.highest)
            self.edit(lambda hub: hub["spec"].get("onDemand", {}).update(max=self.most))
        elif what == 9:
            self.order(ANNOTATION_MOVE_TO, {child: member})
        elif what == 10:
            self.order(ANNOTATION_STOP, {child: self.epoch_of(child)})
        elif what == 11 and wire.is_set():
            await self.restart(member)
        elif what == 12:
            suspend = not chance.randrange(3)
            self.edit(lambda hub: hub["spec"].update(suspend=suspend))
        elif what == 13:
            strategy = chance.choice(("ConsistentHashing", "LeastLoaded"))
            self.edit(lambda hub: hub["spec"]["distribution"].update(strategy=strategy))
        elif what == 14:
            self.edit(lambda hub: hub["spec"].pop("onDemand", None))
        elif what == 15:
            self.edit(lambda hub: hub["spec"].setdefault("onDemand", template(self.most)))
        elif what == 16:
            self.delete_a_slice()
        else:
            for each in chance.sample(IDS, 4):
                ask(cluster, each)
        demanded = running(cluster).keys() - self.ever_declared
        assert not self.most or len(demanded) <= self.highest, demanded

    def delete_a_slice(self) -> None:
        """Have somebody delete a slice."""
        slices = sorted(key for key in self.cluster.api.objects if key.plural == "registryslices")
        self.cluster.api.delete("registryslices", self.chance.choice(slices).name)

    def edit(self, change: Any) -> None:
        """Edit the Hub."""
        self.cluster.api.update(HUB, change)

    def order(self, annotation: str, orders: dict[str, Any]) -> None:
        """Write orders onto the Hub."""
        self.edit(lambda hub: hub["metadata"].setdefault("annotations", {}).update({annotation: json.dumps(orders)}))

    def done(self, *annotations: str) -> bool:
        """Whether the Hub has none of these orders any more."""
        return not self.cluster.api.get("hubs", "hub")["metadata"].get("annotations", {}).keys() & set(annotations)

    def epoch_of(self, child: str) -> int:
        """The epoch on record of a child, 0 without one."""
        slices = [item for key, item in self.cluster.api.objects.items() if key.plural == "registryslices"]
        texts = [item["spec"]["entries"][child] for item in slices if child in item["spec"]["entries"]]
        return int(texts[0].split()[1]) if texts else 0

    async def change_the_leader(self) -> None:
        """End the leader, and start another replica."""
        leader = next(iter(self.cluster.stops))
        self.cluster.stops.pop(leader).set()
        assert await self.cluster.tasks.pop(leader) == 0
        self.cluster.start_replica(f"operator-{self.leaders}")
        self.leaders += 1

    async def restart(self, member: str) -> None:
        """End the container of a member, and start it again."""
        if (task := self.cluster.tasks.get(member)) is not None:
            self.cluster.agents[member].terminate()
            await task
            if self.cluster.tasks.get(member) is task:
                self.cluster.start_agent(member)

    async def end(self) -> None:
        """Have all well again."""
        for wire in self.cluster.wires.values():
            wire.whole.set()
        self.edit(lambda hub: drain(hub, ""))
        self.most = self.most and len(IDS) * 3
        healthy = {"suspend": False, "members": {"replicas": 3}, "onDemand": template(self.most)}
        self.edit(lambda hub: hub["spec"].update(healthy))
        self.edit(lambda hub: hub["spec"]["distribution"].update(strategy="ConsistentHashing"))


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_no_id_runs_twice_and_all_are_on_record_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(views, "_PLACES_OF_MEMBER", 1)
    chance = random.Random(seed)
    most = chance.choice((0, 0, 5))
    spec = {
        "onDemand": template(most),
        "distribution": {"strategy": "ConsistentHashing", "loadCapPercent": 100},
        "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 1},
        "migration": chance.choice(({"onRestart": "Hold"}, {"onRestart": "Move"})),
        "timeouts": {"leaseSeconds": 6},
    }

    async def main() -> None:
        async with running_hub(tmp_path, **spec) as cluster:
            trouble = Trouble(cluster, chance, most)
            for _ in range(100):
                await asyncio.sleep(chance.choice((0.0, 0.01, 0.05, 0.3, 2.0, 9.0)))
                await trouble.step()
            await trouble.end()
            await cluster.until(lambda: is_open(cluster, "hub-0", "hub-1", "hub-2"), f"a view: {seed}", within=240)
            for child in IDS:
                await cluster.until(lambda child=child: bool(ask(cluster, child)), f"{child} runs: {seed}", within=90)
            await cluster.until(
                lambda: {child: {member} for child, member in on_record(cluster).items()} == running(cluster),
                f"all is on record: {seed}",
                within=240,
            )
            await cluster.until(lambda: trouble.done(ANNOTATION_STOP, ANNOTATION_MOVE_TO), f"all orders done: {seed}")

    virtualtime.run(main())
