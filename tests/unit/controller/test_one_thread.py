"""Replicas of the operator and agents in one thread, by a simulated API server and a simulated clock.

What both are built upon is handed in, so nothing here opens a connection or starts a thread or a process, and minutes
take no time. The same seed gives the same writes at the same times.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Json, Key, MemoryApi, MemoryClient, Wire

from processhub.agent.app import Agent
from processhub.agent.children.child import Child
from processhub.agent.children.launchers import Launchers
from processhub.agent.children.runs import ExitStatus
from processhub.agent.env import Environment
from processhub.agent.lease import LeaseKeeper
from processhub.agent.listeners import Listeners
from processhub.agent.parts import Surroundings
from processhub.agent.requests.server import Served
from processhub.api.child import Exec
from processhub.api.reasons import Reason
from processhub.api.slice import Settings
from processhub.api.usage import Usage
from processhub.cluster.timestamps import use_clock
from processhub.controller.engine import Engine
from processhub.controller.lead.election import Election
from processhub.controller.replica import Replica, ReplicaSurroundings
from processhub.controller.settings import OperatorSettings

BEGIN = datetime(2040, 1, 1, tzinfo=UTC)
BOOTED = 1000.0  # seconds before the loop's time 0
START_SECONDS, STOP_SECONDS = 0.05, 0.02
IDS = ("a", "b", "c", "d")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


class PlainHost:
    """Hosts the leader's work without kopf."""

    async def run(self, engine: Engine, ended: asyncio.Event) -> None:
        await engine.start()
        await ended.wait()
        await engine.stop()


class NoReceivers:
    """No hub has hooks."""

    def refusal(self, spec: object) -> None:
        return None

    async def call(self, *_: object) -> None:
        raise AssertionError("no hub has hooks")

    async def close(self) -> None: ...


class SameLoop:
    """Keeps the Lease on the loop that all else runs on."""

    def __init__(self) -> None:
        self.loop, self.running = asyncio.get_running_loop(), False

    def start(self, begin: Callable[[], None]) -> None:
        self.running = True
        begin()

    def stop(self) -> None:
        self.running = False


class Machine:
    """The processes of one member, and its watchdog; ``log`` has each start and end, by time."""

    def __init__(self, member: str, log: list[tuple[float, str, str, bool]]) -> None:
        self.member, self.log, self.lost = member, log, Listeners[()]()
        self.runs: set[Run] = set()
        self._deadline: asyncio.TimerHandle | None = None

    def set(self, stop_at: float, kill_at: float) -> None:
        """The deadlines of the Lease; 0: none."""
        if self._deadline is not None:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_at(kill_at - BOOTED, self.close) if kill_at else None

    def close(self) -> None:
        for run in list(self.runs):
            run.end()

    def launch(self, child: Child, *_: object) -> Run:
        return Run(self, child)

    def forget(self, child_id: str) -> None: ...

    def shut_down(self) -> None: ...


class Run:
    """One process."""

    def __init__(self, machine: Machine, child: Child) -> None:
        self._machine, self._child = machine, child
        machine.runs.add(self)
        self._note(begins=True)
        asyncio.get_running_loop().call_later(START_SECONDS, self._up)

    def _note(self, *, begins: bool) -> None:
        self._machine.log.append((asyncio.get_running_loop().time(), self._child.id, self._machine.member, begins))

    def _up(self) -> None:
        if self in self._machine.runs:
            self._child.running(7)

    def end(self) -> None:
        if self in self._machine.runs:
            self._machine.runs.remove(self)
            self._note(begins=False)
            self._child.ended(ExitStatus(Reason.EXITED, "killed by SIGTERM"))

    def stop(self, grace: float) -> None:
        asyncio.get_running_loop().call_later(STOP_SECONDS, self.end)

    def give_up(self) -> None:
        self.end()

    def role(self, role: str, epoch: int, *, notify: bool) -> None: ...


class NoPeers:
    """No other member is asked for anything."""

    async def forward(self, *_: object) -> None: ...

    async def send_state(self, *_: object) -> None: ...

    async def send_states(self, *_: object) -> None: ...

    async def answers(self, address: str) -> bool:
        return False

    async def close(self) -> None: ...


class NoMeter:
    """Measures nothing."""

    def __init__(self, *_: object) -> None:
        self.measured: Listeners[Usage] = Listeners()

    def start(self) -> None: ...

    def stop(self) -> None: ...


class NoServer:
    """Answers nobody."""

    def __init__(self, served: Served) -> None: ...

    async def start(self) -> None: ...

    def leave(self) -> None: ...

    async def finish(self, seconds: float) -> None: ...

    async def stop(self) -> None: ...


class Cluster:
    """Two replicas of the operator, and the members that the hub's StatefulSet asks for."""

    def __init__(self, folder: Path) -> None:
        self.api, self._folder = MemoryApi(), folder
        self.log: list[tuple[float, str, str, bool]] = []
        self.wires: dict[str, Wire] = {}
        self.stops: dict[str, asyncio.Event] = {}
        self.replicas: dict[str, Replica] = {}
        self.agents: dict[str, Agent] = {}
        self.tasks: dict[str, asyncio.Task[int]] = {}

    def client(self, program: str) -> MemoryClient:
        return MemoryClient(self.api, self.wires.setdefault(program, Wire()))

    def start_replica(self, name: str) -> None:
        client, settings = self.client(name), OperatorSettings(pod_name=name, pod_uid="", namespace="ns")
        election = Election(client, "ns", name, ())
        around = ReplicaSurroundings(settings, client, election, PlainHost(), NoReceivers)
        self.stops[name], self.replicas[name] = asyncio.Event(), Replica(around)
        self.tasks[name] = asyncio.create_task(self.replicas[name].run(self.stops[name]))

    async def run_members(self) -> None:
        """What the controller of StatefulSets and the kubelets do."""
        workload = Key("statefulsets", "ns", "hub")
        while True:
            replicas = self.api.objects[workload]["spec"]["replicas"] if workload in self.api.objects else 0
            for ordinal in range(replicas):
                if f"hub-{ordinal}" not in self.agents:
                    self._start_member(f"hub-{ordinal}", self.api.objects[workload])
            await asyncio.sleep(0.1)

    def _start_member(self, name: str, workload: Json) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "hub", "uid": "s", "controller": True}
        labels = dict(workload["spec"]["template"]["metadata"]["labels"])
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
        ready = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        pod = self.api.create("pods", {"metadata": metadata, "spec": {"nodeName": "node"}, "status": ready})
        uid, hub_uid = pod["metadata"]["uid"], self.api.get("hubs", "hub")["metadata"]["uid"]
        env = Environment("hub", "ns", hub_uid, name, name, uid, "10.0.0.1", "node", run_dir=self._folder)
        loop, machine = asyncio.get_running_loop(), Machine(name, self.log)

        async def connect() -> MemoryClient:
            return self.client(name)

        def clock() -> float:
            return BOOTED + loop.time()

        around = Surroundings(
            env=env,
            client=self.client(name),
            lease=LeaseKeeper(env, Settings(), machine, connect=connect, place=SameLoop(), clock=clock),
            peers=NoPeers(),  # type: ignore[arg-type]
            watchdog=machine,
            launchers=lambda *_: Launchers({Exec: machine}, warm=lambda: None, spare_pid=int),  # type: ignore[dict-item]
            meter=NoMeter,
            server=NoServer,
            lines_dropped=int,
        )
        self.agents[name] = Agent(around)
        self.tasks[name] = asyncio.create_task(self.agents[name].run())

    async def until(self, check: Callable[[], bool], what: str, within: float = 60.0) -> None:
        """Wait for so many seconds of the simulated clock at most."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + within
        while not check():
            assert loop.time() < ends, what
            await asyncio.sleep(0.05)

    def runs_on(self) -> dict[str, set[str]]:
        """The members on which each child has a process now. Raises AssertionError where two ever ran at once."""
        places: dict[str, set[str]] = {child_id: set() for child_id in IDS}
        for at, child_id, member, begins in self.log:
            if begins:
                places[child_id].add(member)
                assert len(places[child_id]) == 1, f"child {child_id} runs twice at {at:.3f}: {places[child_id]}"
            else:
                places[child_id].discard(member)
        return places

    def reported_running(self) -> bool:
        """Whether the status of each Child says that it runs where it does."""
        statuses = {child_id: self.api.get("children", child_id).get("status", {}) for child_id in IDS}
        places = self.runs_on()
        return all(status.get("state") == "Running" and {status["member"]} == places[child_id]
                   for child_id, status in statuses.items())  # fmt: skip


async def a_day_of(folder: Path) -> Cluster:
    """Children start; a member is cut off and comes back; the leader ends and the other replica leads."""
    cluster = Cluster(folder)
    api, loop = cluster.api, asyncio.get_running_loop()
    use_clock(lambda: BEGIN + timedelta(seconds=loop.time()))
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    api.create("nodes", {"metadata": {"name": "node"}, "status": ready}, namespace="")
    api.create("clusterrolebindings", {"metadata": {"name": "processhub-agents"}}, namespace="")
    spec = {"members": {"replicas": 3}, "partitionTolerance": {"strategy": "StaticQuorum", "quorumSize": 2}}
    api.create("hubs", {"metadata": {"name": "hub"}, "spec": spec})
    for child_id in IDS:
        api.create("children", {"metadata": {"name": child_id}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}})
    members = asyncio.create_task(cluster.run_members())
    cluster.start_replica("operator-0")
    await cluster.until(lambda: Key("leases", "ns", "processhub-operator") in api.objects, "a leader")
    cluster.start_replica("operator-1")
    await cluster.until(cluster.reported_running, "all children run")

    (lost,) = cluster.runs_on()["a"]
    cluster.wires[lost].whole.clear()
    await cluster.until(lambda: cluster.runs_on()["a"] not in ({lost}, set()), "the child runs elsewhere", within=120)
    await cluster.until(cluster.reported_running, "that is reported")
    cluster.wires[lost].whole.set()

    cluster.stops["operator-0"].set()
    assert await cluster.tasks.pop("operator-0") == 0
    lease = api.get("leases", "processhub-operator")
    await cluster.until(lambda: api.get("leases", "processhub-operator") != lease, "the other replica leads")
    api.create("children", {"metadata": {"name": "later"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}})
    await cluster.until(lambda: api.get("children", "later").get("status", {}).get("state") == "Running", "it works")

    for agent in cluster.agents.values():
        agent.terminate()
    cluster.stops["operator-1"].set()
    assert set(await asyncio.gather(*cluster.tasks.values())) == {0}
    members.cancel()
    return cluster


@contextmanager
def nothing_from_outside(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread is started, no process, and no socket is opened."""

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


def test_a_replica_is_healthy_until_something_that_should_run_for_ever_has_ended(tmp_path: Path) -> None:
    """Whether it leads or stands by."""

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
