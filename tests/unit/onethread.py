"""Replicas of the operator and agents in one thread, on a simulated API server and a simulated clock.

Both get their clients and clocks as arguments, so nothing here opens a connection or starts a thread or a process, and
minutes take no time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from memoryapi import Json, Key, MemoryApi, MemoryClient, Wire

from processhub.agent.app import Agent
from processhub.agent.children.child import Child
from processhub.agent.children.launchers import Begin, Launchers
from processhub.agent.children.podchild import PodStarter
from processhub.agent.children.pythonchild import Ask
from processhub.agent.children.runs import ExitStatus
from processhub.agent.env import Environment
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.listeners import Listeners
from processhub.agent.parts import Surroundings
from processhub.agent.requests.server import Served
from processhub.agent.tls.identity import MemberTls
from processhub.api.child import Exec, PodWorkload
from processhub.api.reasons import Reason
from processhub.api.slice import Settings
from processhub.api.usage import Usage
from processhub.cluster.timestamps import use_clock
from processhub.controller.engine import Engine
from processhub.controller.hooks.hubhooks import Receivers
from processhub.controller.lead.election import Election
from processhub.controller.replica import Replica, ReplicaSurroundings
from processhub.controller.settings import OperatorSettings, TlsSettings

BEGIN = datetime(2040, 1, 1, tzinfo=UTC)
BOOTED = 1000.0  # seconds before the loop's time 0
START_SECONDS, STOP_SECONDS = 0.05, 0.02
WAITS_SECONDS = 5.0  # that a request waits for an id that the operator is to place


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
    """Renews the Lease on the main loop."""

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
        """Set the deadlines of the Lease; 0: none."""
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

    @property
    def child_id(self) -> str:
        """The id of its child."""
        return self._child.id

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

    def desired_again(self) -> None: ...

    def give_up(self) -> None:
        self.end()

    def role(self, role: str, epoch: int, *, notify: bool) -> None: ...


class NoPeers:
    """No other member gets a request."""

    async def forward(self, *_: object) -> None: ...

    async def send_state(self, *_: object) -> None: ...

    async def send_states(self, *_: object) -> None: ...

    def connected(self, address: str) -> bool:
        return False

    async def answers(self, address: str) -> bool:
        return False

    def token(self) -> str:
        return ""

    async def close(self) -> None: ...


class NoMeter:
    """Measures nothing."""

    def __init__(self, *_: object) -> None:
        self.measured: Listeners[Usage] = Listeners()

    def start(self) -> None: ...

    def stop(self) -> None: ...


class NoServer:
    """Serves no request."""

    def __init__(self, served: Served) -> None: ...

    async def start(self) -> None: ...

    def leave(self) -> None: ...

    async def finish(self, seconds: float) -> None: ...

    async def stop(self) -> None: ...


class Cluster:
    """Two replicas of the operator, and the members of the hub's StatefulSet."""

    def __init__(self, folder: Path) -> None:
        self.api, self._folder = MemoryApi(), folder
        self.receivers: Callable[[], Receivers] = NoReceivers  # of the hooks of replicas that start from now on
        self.log: list[tuple[float, str, str, bool]] = []
        self.wires: dict[str, Wire] = {}
        self.stops: dict[str, asyncio.Event] = {}
        self.replicas: dict[str, Replica] = {}
        self.agents: dict[str, Agent] = {}
        self._leases: dict[str, LeaseKeeper] = {}
        self.machines: list[Machine] = []
        self.tasks: dict[str, asyncio.Task[int]] = {}

    def client(self, program: str) -> MemoryClient:
        return MemoryClient(self.api, self.wires.setdefault(program, Wire()))

    def begin(self, spec: Json) -> None:
        """Create a node and a Hub with this spec, and run its members as soon as their workload exists."""
        loop = asyncio.get_running_loop()
        use_clock(lambda: BEGIN + timedelta(seconds=loop.time()))
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.api.create("nodes", {"metadata": {"name": "node"}, "status": ready}, namespace="")
        self.api.create("clusterrolebindings", {"metadata": {"name": "processhub-agents"}}, namespace="")
        self.api.create("hubs", {"metadata": {"name": "hub"}, "spec": spec})
        self._members = asyncio.create_task(self._run_members())

    async def end(self) -> None:
        """End the members and the replicas as by SIGTERM. Raises AssertionError if one did not end well."""
        for agent in self.agents.values():
            agent.terminate()
        for stop in self.stops.values():
            stop.set()
        assert set(await asyncio.gather(*self.tasks.values())) == {0}
        self._members.cancel()

    def start_replica(self, name: str, tls: TlsSettings | None = None) -> None:
        client, settings = self.client(name), OperatorSettings(pod_name=name, pod_uid="", namespace="ns", tls=tls)
        election = Election(client, "ns", name, ())
        around = ReplicaSurroundings(settings, client, election, PlainHost(), self.receivers)
        self.stops[name], self.replicas[name] = asyncio.Event(), Replica(around)
        self.tasks[name] = asyncio.create_task(self.replicas[name].run(self.stops[name]))

    @property
    def leader(self) -> str:
        """The name of the replica that holds the leader's Lease."""
        holder: str = self.api.get("leases", "processhub-operator")["spec"]["holderIdentity"]
        return holder.partition("/")[0].partition("_")[0]

    async def change_leader(self) -> None:
        """End operator-0 in order, and wait until operator-1 leads, which is started for that."""
        self.start_replica("operator-1")
        self.stops["operator-0"].set()
        assert await self.tasks.pop("operator-0") == 0
        await self.until(lambda: self.leader == "operator-1", "the next leader leads")

    async def kill_replica(self, name: str) -> None:
        """End the remaining tasks of an ended replica: in a pod they end with the process."""
        engine = self.replicas[name]._engine
        if engine is not None and not engine.stopped.is_set():
            await engine.stop()

    async def _run_members(self) -> None:
        """Do the work of the controller of StatefulSets and of the kubelets."""
        workload = Key("statefulsets", "ns", "hub")
        while True:
            replicas = self.api.objects[workload]["spec"]["replicas"] if workload in self.api.objects else 0
            for ordinal in range(replicas):
                if f"hub-{ordinal}" not in self.agents:
                    self._start_member(f"hub-{ordinal}", self.api.objects[workload])
            for name in [name for name in self.agents if int(name.rpartition("-")[2]) >= replicas > 0]:
                await self._stop_member(name)
            for key, item in list(self.api.objects.items()):
                if key.plural == "pods" and "deletionTimestamp" in item["metadata"]:
                    self.api.delete(key.plural, key.name, key.namespace)
            await asyncio.sleep(0.1)

    def _start_member(self, name: str, workload: Json) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "hub", "uid": "s", "controller": True}
        template = workload["spec"]["template"]["metadata"]
        metadata = {"name": name, "ownerReferences": [owner]} | {
            marks: dict(template[marks]) for marks in ("labels", "annotations")
        }
        ready = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        self.api.create("pods", {"metadata": metadata, "spec": {"nodeName": "node"}, "status": ready})
        self.start_agent(name)

    async def _stop_member(self, name: str) -> None:
        """Delete the pod of a member that is scaled away. What does not end in time is killed."""
        task = self.tasks.pop(name)
        self.agents.pop(name).terminate()
        await asyncio.wait({task}, timeout=30.0)
        for machine in self.machines:
            if machine.member == name:
                machine.close()
        task.cancel()
        self.api.delete("pods", name)

    def start_agent(self, name: str) -> None:
        """Start the container of a member's pod, for the first time or again."""
        uid, hub_uid = self.api.get("pods", name)["metadata"]["uid"], self.api.get("hubs", "hub")["metadata"]["uid"]
        env = Environment("hub", "ns", hub_uid, name, name, uid, "10.0.0.1", "node", run_dir=self._folder / name)
        loop, machine = asyncio.get_running_loop(), Machine(name, self.log)
        self.machines.append(machine)
        if (before := self._leases.pop(name, None)) is not None and before._task is not None:
            before._task.cancel()  # In a pod its thread ends with the process.

        async def connect() -> MemoryClient:
            return self.client(name)

        def clock() -> float:
            return BOOTED + loop.time()

        def launchers(_: Ask, begin: Begin) -> Launchers:
            kinds = {Exec: machine, PodWorkload: PodStarter(env, around.client, begin)}
            return Launchers(kinds, warm=lambda: None, spare_pid=int)  # type: ignore[arg-type]

        place = SameLoop()
        self._leases[name] = LeaseKeeper(env, Settings(), machine, connect=connect, place=place, clock=clock)
        around = Surroundings(
            env=env,
            client=self.client(name),
            lease=self._leases[name],
            peers=NoPeers(),  # type: ignore[arg-type]
            tls=MemberTls(env),
            watchdog=machine,
            launchers=launchers,
            meter=NoMeter,
            server=NoServer,
            lines_dropped=int,
        )
        self.agents[name] = Agent(around)
        self.tasks[name] = asyncio.create_task(self.agents[name].run())

    async def until(self, check: Callable[[], bool], what: str, within: float = 60.0) -> None:
        """Wait for at most this many seconds of the simulated clock."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + within
        while not check():
            assert loop.time() < ends, what
            await asyncio.sleep(0.05)

    def ask(self, child_id: str) -> str:
        """Have every member asked for the child, as by a request; returns the one that has it now, or ""."""
        has_it = ""
        for name, agent in self.agents.items():
            requests = agent._parts.requests
            copies = requests.router._copies(child_id)
            owner = requests.router._owner(child_id, copies)
            has_it = name if owner is not None and owner.member == name else has_it
            on_demand = agent._parts.slices.settings.on_demand
            if not copies and owner is None and on_demand and requests.activations.asks_for(child_id):
                requests.asks.add(child_id)
                asyncio.get_running_loop().call_later(WAITS_SECONDS, requests.asks.withdraw, child_id)
        return has_it

    def runs_on(self) -> dict[str, set[str]]:
        """Return the members with a process of each child. Raises AssertionError if two ever ran at once."""
        places: dict[str, set[str]] = defaultdict(set)
        for at, child_id, member, begins in self.log:
            if begins:
                places[child_id].add(member)
                assert len(places[child_id]) == 1, f"child {child_id} runs twice at {at:.3f}: {places[child_id]}"
            else:
                places[child_id].discard(member)
        return places

    def reported_running(self, *ids: str) -> bool:
        """Return whether the status of each of these Children shows it Running where it runs."""
        statuses = {child_id: self.api.get("children", child_id).get("status", {}) for child_id in ids}
        places = self.runs_on()
        return all(status.get("state") == "Running" and {status["member"]} == places[child_id]
                   for child_id, status in statuses.items())  # fmt: skip


@asynccontextmanager
async def running_hub(
    folder: Path, receivers: Callable[[], Receivers] = NoReceivers, **spec: Any
) -> AsyncIterator[Cluster]:
    """Run the hub ``hub`` with an operator and ready members; they end well with the block."""
    cluster = Cluster(folder)
    cluster.receivers = receivers
    cluster.begin({"members": {"replicas": 3}, **spec})
    cluster.start_replica("operator-0")

    def ready() -> bool:
        members = cluster.api.get("hubs", "hub").get("status", {}).get("members", ())
        return len(members) == 3 and all(member["ready"] for member in members)

    await cluster.until(ready, "all members are ready")
    yield cluster
    await cluster.end()
