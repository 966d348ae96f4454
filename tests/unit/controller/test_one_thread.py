"""Replicas of the operator and agents in one thread, on a simulated API server and a simulated clock.

Both get their clients and clocks as arguments, so nothing here opens a connection or starts a thread or a process, and
minutes take no time. The same seed gives the same writes at the same times.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Json, Key
from onethread import Cluster, running_hub

IDS = ("a", "b", "c", "d")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


async def a_day_of(folder: Path) -> Cluster:
    """Start children, cut a member off and reconnect it, end the leader and let the other replica lead."""
    cluster = Cluster(folder)
    api = cluster.api
    cluster.begin({"members": {"replicas": 3}, "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 2}})
    for child_id in IDS:
        api.create("children", {"metadata": {"name": child_id}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}})
    cluster.start_replica("operator-0")
    await cluster.until(lambda: Key("leases", "ns", "processhub-operator") in api.objects, "a leader")
    cluster.start_replica("operator-1")
    await cluster.until(lambda: cluster.reported_running(*IDS), "all children run")

    (lost,) = cluster.runs_on()["a"]
    cluster.wires[lost].whole.clear()
    await cluster.until(lambda: cluster.runs_on()["a"] not in ({lost}, set()), "the child runs elsewhere", within=120)
    await cluster.until(lambda: cluster.reported_running(*IDS), "that is reported")
    cluster.wires[lost].whole.set()

    cluster.stops["operator-0"].set()
    assert await cluster.tasks.pop("operator-0") == 0
    lease = api.get("leases", "processhub-operator")
    await cluster.until(lambda: api.get("leases", "processhub-operator") != lease, "the other replica leads")
    api.create("children", {"metadata": {"name": "later"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}})
    await cluster.until(lambda: api.get("children", "later").get("status", {}).get("state") == "Running", "it works")

    await cluster.end()
    return cluster


@contextmanager
def nothing_from_outside(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a thread or a process is started or a socket is opened."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this needs a thread, a process or a socket")

    with patch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        patched.setattr(socket.socket, "__init__", refuse)
        patched.setattr(subprocess.Popen, "__init__", refuse)
        patched.setattr(os, "fork", refuse)
        yield


def test_operator_and_agents_run_in_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Cluster:
        with nothing_from_outside(monkeypatch):
            return await a_day_of(tmp_path)

    cluster = virtualtime.run(main())

    times = {moment[:4] for item in cluster.api.objects.values() for moment in _TIME.findall(str(item))}
    assert times == {"2040"}, "all that is written of the time of day is by the simulated clock"


def test_a_replica_is_healthy_until_a_task_that_should_run_for_ever_has_ended(tmp_path: Path) -> None:
    """Both for a leader and for a standby."""

    async def main() -> None:
        cluster = Cluster(tmp_path)
        cluster.start_replica("operator-0")
        await cluster.until(lambda: Key("leases", "ns", "processhub-operator") in cluster.api.objects, "a leader")
        cluster.start_replica("operator-1")
        leader, standby = cluster.replicas.values()
        await asyncio.sleep(60)
        assert leader.healthy
        assert standby.healthy

        engine = leader._engine
        assert engine is not None
        engine.store._tasks[0].cancel()
        await asyncio.sleep(1)

        assert not leader.healthy
        assert standby.healthy
        for stop in cluster.stops.values():
            stop.set()
        assert set(await asyncio.gather(*cluster.tasks.values())) == {0}

    virtualtime.run(main())


def test_the_same_seed_gives_the_same_writes_at_the_same_times(tmp_path: Path) -> None:
    def writes() -> list[tuple[float, str, Key, Json]]:
        random.seed(1)
        return virtualtime.run(a_day_of(tmp_path)).api.writes

    first, second = writes(), writes()

    assert len(first) > 100
    for before, after in zip(first, second, strict=True):
        assert before == after


def test_a_child_whose_slice_was_deleted_while_no_operator_led_starts_elsewhere_only_after_its_end(
    tmp_path: Path,
) -> None:
    """Its member is cut off. It had no slice that it could fail to acknowledge, so the next leader did not wait."""

    async def main() -> None:
        spec = {"strategy": "StaticQuorum", "quorumSize": 1}
        async with running_hub(tmp_path, distribution={"strategy": "RoundRobin"}, partitionTolerance=spec) as cluster:
            for child_id in IDS:
                body = {"hub": "hub", "exec": {"command": ["x"]}}
                cluster.api.create("children", {"metadata": {"name": child_id}, "spec": body})
            await cluster.until(lambda: cluster.reported_running(*IDS), "all run")
            (member,) = cluster.runs_on()["a"]
            cluster.stops["operator-0"].set()
            assert await cluster.tasks.pop("operator-0") == 0
            cluster.wires[member].whole.clear()
            cluster.api.delete("registryslices", f"hub.{member}.0")

            cluster.start_replica("operator-1")

            await cluster.until(lambda: cluster.runs_on()["a"] not in ({member}, set()), "it runs elsewhere")
            cluster.wires[member].whole.set()
            await cluster.until(lambda: cluster.reported_running(*IDS), "all run")

    virtualtime.run(main())
