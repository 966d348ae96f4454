"""etcd is restored to an earlier time while operators and agents keep running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Key
from onethread import Cluster, running_hub

from processhub.agent.app import EXIT_REWOUND
from processhub.api.slice import EPOCHS_PER_TERM
from processhub.controller.errors import DeposedError
from processhub.registry.grammar import parse_assignment

IDS = ("a", "b", "c", "d")
LEADER = Key("leases", "ns", "processhub-operator")


def add(cluster: Cluster, *ids: str) -> None:
    for child_id in ids:
        spec = {"hub": "hub", "exec": {"command": ["x"]}}
        cluster.api.create("children", {"metadata": {"name": child_id}, "spec": spec})


@asynccontextmanager
async def restarting(cluster: Cluster) -> AsyncIterator[dict[str, int]]:
    """Restart each process that ends, as a kubelet does; return the exit codes by name."""
    codes: dict[str, int] = {}

    async def restart() -> None:
        while True:
            for name, task in list(cluster.tasks.items()):
                if task.done():
                    codes[name] = 1 if isinstance(task.exception(), DeposedError) else task.result()
                    if name in cluster.agents:
                        cluster.start_agent(name)
                    else:
                        await cluster.kill_replica(name)
                        cluster.start_replica(name)
            await asyncio.sleep(0.5)

    kubelet = asyncio.create_task(restart())
    yield codes
    kubelet.cancel()


def running(cluster: Cluster) -> set[str]:
    """The children that have a process."""
    return {child_id for child_id, members in cluster.runs_on().items() if members}


def term_of(cluster: Cluster) -> int:
    return int(cluster.api.objects[LEADER]["metadata"]["annotations"]["processhub.dev/term"])


def epochs(cluster: Cluster) -> dict[str, int]:
    found = {}
    for key, item in cluster.api.objects.items():
        if key.plural == "registryslices":
            found |= {child_id: parse_assignment(text).epoch for child_id, text in item["spec"]["entries"].items()}
    return found


# Leases that are renewed every 3 s show it at once; lists show it if none was renewed since the backup.
@pytest.mark.parametrize("lost_seconds", [0.0, 5.0])
def test_the_restored_objects_are_followed_and_no_child_runs_twice(tmp_path: Path, lost_seconds: float) -> None:
    async def main() -> None:
        quorum = {"strategy": "StaticQuorum", "quorumSize": 2}
        async with running_hub(tmp_path, partitionTolerance=quorum) as cluster:
            api = cluster.api
            add(cluster, *IDS)
            await cluster.until(lambda: cluster.reported_running(*IDS), "all children run")
            backup, (source,) = api.version, cluster.runs_on()["a"]

            # The restored objects will know nothing of the changes from here on.
            cluster.start_replica("operator-1")
            drained = {"metadata": {"annotations": {"processhub.dev/drained": source}}}
            api.update(Key("hubs", "ns", "hub"), lambda item: item["metadata"].update(drained["metadata"]))
            await cluster.until(lambda: not cluster.runs_on()["a"] & {source, None}, "it stopped")
            add(cluster, "later")
            await cluster.until(lambda: cluster.reported_running(*IDS, "later"), "all children run elsewhere")
            assert cluster.runs_on()["a"] != {source}
            await asyncio.sleep(lost_seconds)
            term, used = term_of(cluster), max(epochs(cluster).values())

            async with restarting(cluster) as codes:
                api.rewind(backup)
                await cluster.until(lambda: "operator-0" in codes, "the leader begins anew")
                await cluster.until(lambda: running(cluster) == set(IDS), "what never happened is undone", within=120)
                await cluster.until(lambda: cluster.reported_running(*IDS), "the others run", within=60)
                if lost_seconds:
                    assert codes == {"operator-0": 1} | dict.fromkeys(cluster.agents, EXIT_REWOUND)
                    assert cluster.runs_on()["a"] == {source}
                assert term_of(cluster) > term
                add(cluster, "new")
                await cluster.until(lambda: cluster.reported_running(*IDS, "new"), "children are placed again")
                assert epochs(cluster)["new"] > used

    virtualtime.run(main())


def test_a_leader_whose_term_has_no_epochs_left_makes_room_for_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            add(cluster, *IDS)
            await cluster.until(lambda: cluster.reported_running(*IDS), "all children run")
            term, engine = term_of(cluster), cluster.replicas["operator-0"]._engine
            assert engine is not None
            assert engine._reconciler is not None
            (memory,) = engine._reconciler._memories._of.values()
            memory.observe.epochs.next = (term + 1) * EPOCHS_PER_TERM - 100

            async with restarting(cluster) as codes:
                add(cluster, "new")
                await cluster.until(lambda: "operator-0" in codes, "the leader ends")
                await cluster.until(lambda: cluster.reported_running(*IDS, "new"), "the next one places the child")
            assert term_of(cluster) == term + 1
            assert epochs(cluster)["new"] >= (term + 1) * EPOCHS_PER_TERM

    virtualtime.run(main())


def test_a_new_term_is_above_all_terms_that_a_standby_has_seen(tmp_path: Path) -> None:
    """The leader with the highest term ends in the same moment, and can write nothing."""

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            api, backup = cluster.api, cluster.api.version
            cluster.start_replica("operator-1")
            await asyncio.sleep(2)
            cluster.stops["operator-0"].set()
            assert await cluster.tasks["operator-0"] == 0
            await cluster.until(lambda: term_of(cluster) == 2, "the other one leads")
            cluster.start_replica("operator-0")
            await asyncio.sleep(2)
            cluster.stops["operator-1"].set()
            cluster.wires["operator-1"].whole.clear()

            async with restarting(cluster):
                api.rewind(backup)
                await cluster.until(lambda: term_of(cluster) > 2, "a leader with a higher term", within=60)
                cluster.wires["operator-1"].whole.set()
                await asyncio.sleep(60)

    virtualtime.run(main())
