"""A member's pod as run by its kubelet: the container with the agent is started, probed, restarted and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoryapi import Json, MemoryClient, Wire
from memoryrequests import Key
from onethread import BOOTED, NoMeter, SameLoop

from processhub.agent.app import EXIT_FAILED, Agent
from processhub.agent.children.launchers import Begin, Launchers
from processhub.agent.children.podchild import PodStarter
from processhub.agent.env import Environment
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.parts import Surroundings
from processhub.agent.peers.statesender import Batch, Receipt
from processhub.agent.requests.server import Served
from processhub.agent.tls.identity import MemberTls
from processhub.api.child import Exec, PodWorkload
from processhub.api.slice import Settings

from .callers import BROKEN
from .childpods import PodRequests
from .machines import Machine, Run
from .peers import Peers
from .processes import BEGIN, Process
from .serving import MemberServer
from .sockets import Socket

if TYPE_CHECKING:
    from .world import World

_LOOK_SECONDS = 0.5


class Container:
    """One run of an agent, with the processes of its children."""

    def __init__(self, world: World, pod: Json, name: str, wire: Wire, folder: Path) -> None:
        self.world, self.pod, self.wire = world, pod, wire
        self.process = Process(name)
        self.code: int | None = None
        self._told_to_end = False
        self.agent: Agent | None = None
        self.server: MemberServer | None = None
        self.sockets: dict[Socket, None] = {}
        self.calls: dict[asyncio.Future[str], None] = {}  # requests of callers that are not answered yet
        self._terms: Callable[[], list[int]] = list
        self.member = pod["spec"]["nodeName"] if world.per_node else pod["metadata"]["name"]

        def changed(run: Run, what: str) -> None:
            world.checks.changed(run, what, self._terms())

        self.machine = Machine(self.process, self.member, world.rng, world.trace, changed, world.checks.executes)
        self.process.begin(self._run(folder))

    @property
    def ended(self) -> bool:
        """Whether the agent and all processes that it started have ended."""
        return self.process.dead and not self.machine.runs

    @property
    def ready(self) -> bool:
        """The response to the readiness probe."""
        return self.process.runs and self.server is not None and not self.server.served.ready()

    @property
    def listens(self) -> bool:
        """Whether its agent accepts connections; a paused one accepts them too."""
        return not self.process.dead and self.server is not None and self.server.listens

    @property
    def address(self) -> str:
        """The address of its pod."""
        return f"10.0.0.{self.pod['metadata']['uid'].removeprefix('uid-')}"

    def take(self, batch: Batch) -> tuple[Receipt, ...]:
        """Accept states that another member has sent."""
        if self.server is None:
            return (Receipt(0, "connection refused"),) * len(batch.states)
        return self.server.served.states(batch)

    def accept(self, socket: Socket) -> None:
        """Accept a connection of another member."""
        if self.server is None:
            socket.shut()
        else:
            asyncio.get_running_loop().create_task(self.server.accept(socket))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._told_to_end = True  # an agent that loses its Lease meanwhile does not end in an orderly way
        if self.agent is not None:
            self.process.call(self.agent.terminate)
        else:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the agent. All processes that it started end with it."""
        self.process.kill()
        self.machine.close()
        for socket in list(self.sockets):
            socket.shut()
        for answer in self.calls:
            if not answer.done():
                answer.set_result(BROKEN)

    def _launchers(self, env: Environment, begin: Begin) -> Launchers:
        pods = PodStarter(env, self.world.network.client(self.process.name, self.wire), begin)
        pods.http = PodRequests(self.world, self)  # type: ignore[assignment]
        by_workload: dict[type, Any] = {Exec: self.machine, PodWorkload: pods}
        return Launchers(by_workload, warm=lambda: None, spare_pid=int)

    async def _run(self, folder: Path) -> None:
        world, loop, metadata = self.world, asyncio.get_running_loop(), self.pod["metadata"]
        spec = self.pod["spec"]
        hub_uid = metadata["labels"]["processhub.dev/hub-uid"]
        env = Environment(
            "hub", "ns", hub_uid, self.member, metadata["name"], metadata["uid"], self.address, spec["nodeName"],
            run_dir=folder, grace_seconds=float(spec["terminationGracePeriodSeconds"]),
        )  # fmt: skip

        env.run_dir.mkdir(exist_ok=True)

        async def connect() -> MemoryClient:
            return world.network.client(self.process.name, self.wire)

        def clock() -> float:
            return BOOTED + loop.time()

        def server(served: Served) -> MemberServer:
            self.server = MemberServer(served)
            return self.server

        tls = MemberTls(env)

        around = Surroundings(
            env=env,
            client=world.network.client(self.process.name, self.wire),
            lease=LeaseKeeper(env, Settings(), self.machine, connect=connect, place=SameLoop(), clock=clock),
            peers=Peers(world, self, env, tls),
            watchdog=self.machine,
            launchers=lambda _, begin: self._launchers(env, begin),
            meter=NoMeter,
            server=server,
            lines_dropped=int,
            tls=tls,
        )
        self.agent = Agent(around)
        informer = self.agent._parts.slices.informer
        self._terms = lambda: [item.spec.term for item in informer.items.values() if item.spec.hub_uid == hub_uid]
        try:
            self.code = await self.agent.run()
        except Exception as error:  # noqa: BLE001 the run is to find any exception
            world.trace.break_promise(f"the agent {self.process.name} fails: {error!r}")
        if self.code == EXIT_FAILED and not self._told_to_end:
            world.trace.break_promise(f"the agent {self.process.name} ends by an error")
        world.trace.note(self.process.name, f"exits with {self.code}")
        self.kill()


class Pod:
    """One pod of a member. Its kubelet checks it periodically. ``again``: when a gone one was started again."""

    def __init__(self, world: World, item: Json, node: str, again: str = "") -> None:
        self.world, self.key = world, Key("pods", "ns", item["metadata"]["name"])
        self.uid, self.node, self.wire = item["metadata"]["uid"], node, Wire()
        self._mark = self.uid.removeprefix("uid-") + again
        self.restarts, self._ended_at = 0, ""
        self.reachable = True  # its kubelet reaches the API server
        self.gone = False
        self._terminating_until: float | None = None
        self._reported: Json = {}
        self.container = self._start(item)
        self._task = world.loop.apart(self._keep())

    @property
    def name(self) -> str:
        return self.key.name

    def cut(self) -> None:
        """Cut the node off from the API server."""
        self.reachable = False
        self.wire.whole.clear()

    def mend(self) -> None:
        """End the cut or the pause."""
        self.reachable = True
        self.wire.whole.set()
        if self.container.process.paused:
            self.container.process.resume(self.world.loop)

    @property
    def hidden(self) -> bool:
        """Whether its object was deleted by force, or replaced."""
        item = self.world.server.objects.get(self.key)
        return item is None or item["metadata"]["uid"] != self.uid

    def _start(self, item: Json) -> Container:
        name = f"{self.key.name}/{self._mark}.{self.restarts}"
        self.world.trace.note(name, "its container starts")
        self._started_at = self._now()
        container = Container(self.world, item, name, self.wire, self.world.folder / self._mark)
        container.process.skew = self.world.skews.get(self.node, 0.0)
        return container

    def _now(self) -> str:
        moment = BEGIN + timedelta(seconds=self.world.loop.time() + self.world.skews.get(self.node, 0.0))
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    async def _keep(self) -> None:
        world, rng = self.world, self.world.rng
        while True:
            await asyncio.sleep(_LOOK_SECONDS * rng.uniform(0.5, 1.5))
            if not self.reachable:
                continue
            if self.hidden:
                await self._end_forced()
                return
            item = world.server.objects[self.key]
            if "deletionTimestamp" in item["metadata"] and self._terminating_until is None:
                self._terminating_until = world.loop.time() + item["spec"]["terminationGracePeriodSeconds"]
                self.container.terminate()
            if self._terminating_until is not None and world.loop.time() >= self._terminating_until:
                self.container.kill()
            if self.container.ended:
                self._ended_at = self._ended_at or self._now()
                self._report(running=False)
                if self._terminating_until is not None:
                    await asyncio.sleep(rng.uniform(0.0, 1.0))
                    self._remove()
                    return
                await asyncio.sleep(rng.uniform(0.2, 1.0) * min(10, 2**self.restarts))
                self.restarts += 1
                self.container = self._start(item)
            self._report(running=True)

    async def _end_forced(self) -> None:
        """End the container of a pod whose object was force-deleted: some time later, and without a report."""
        if self._terminating_until is None:
            await asyncio.sleep(self.world.rng.choice((0.5, 5.0, 20.0)))
            self.container.terminate()
        await asyncio.sleep(self.world.rng.uniform(1.0, 15.0))
        self.container.kill()
        self.gone = True

    def report_again(self) -> None:
        """Report its status anew, whatever it has reported."""
        self._reported = {}

    def _remove(self) -> None:
        item = self.world.server.objects.get(self.key)
        if item is not None and item["metadata"]["uid"] == self.uid:
            self.world.server.end(self.key, 0)
        self.gone = True

    def _report(self, *, running: bool) -> None:
        ready = running and self.container.ready
        state: Json = {"running": {"startedAt": self._started_at}}
        terminated = {"terminated": {"exitCode": 1, "finishedAt": self._ended_at}}
        container = {
            "name": "agent",
            "ready": ready,
            "restartCount": self.restarts,
            "state": state if running else terminated,
        }
        if running and self._ended_at and self.restarts:
            container["lastState"] = terminated
        status = {
            "phase": "Running",
            "podIP": self.container.address,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [container],
        }
        if running:
            self._ended_at = "" if not self.container.ended else self._ended_at
        if status != self._reported and self.key in self.world.server.objects:
            self._reported = status
            self.world.server.update(self.key, lambda item: item["status"].update(self._with_others(item, status)))

    @staticmethod
    def _with_others(item: Json, status: Json) -> Json:
        """The status with the conditions that others have added."""
        others = [each for each in item["status"].get("conditions", ()) if each["type"] != "Ready"]
        return status | {"conditions": [*status["conditions"], *others]}
