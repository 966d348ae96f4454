"""The simulated cluster: an API server, replicas of the operator, nodes, and the pods of one hub's members."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from memoryapi import Json, Wire
from memoryrequests import Key, Refused
from onethread import PlainHost

from processhub.controller.errors import DeposedError
from processhub.controller.lead.election import Election
from processhub.controller.replica import Replica, ReplicaSurroundings
from processhub.controller.settings import OperatorSettings
from processhub.registry.grammar import parse_assignment

from .callers import Callers
from .checks import Checks
from .childpods import ChildPods
from .kubelet import Container, Pod
from .naming import HUB, NODES, is_per_node, members_of
from .network import Network
from .processes import Process, SimulatedLoop
from .rollouts import rolls
from .server import Server
from .trace import Trace
from .webhooks import Webhooks
from .workloads import Workloads

_PROBE_SECONDS = 10.0
_UNWELL_LOOKS = 15  # longer than a leader, whose tasks end with it, takes to end


class Operator:
    """One replica of the operator, whose container is restarted when it ends."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.wire = world, name, Wire()
        self._starts = self._unwell = 0
        self._start()
        world.loop.apart(self._keep())

    def _start(self) -> None:
        self.process = Process(f"{self.name}.{self._starts}")
        self._starts += 1
        self.world.trace.note(self.process.name, "its container starts")
        self._stop = asyncio.Event()
        self.replica: Replica | None = None
        self.process.begin(self._run(self.process))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.call(self._stop.set)

    def mend(self) -> None:
        """End the cut or the pause."""
        self.wire.whole.set()
        if self.process.paused:
            self.process.resume(self.world.loop)

    async def _run(self, process: Process) -> None:
        world = self.world
        client = world.network.client(process.name, self.wire)
        settings = OperatorSettings(pod_name=self.name, pod_uid="", namespace="ns")
        election = Election(client, "ns", self.name, ())
        self.replica = Replica(ReplicaSurroundings(settings, client, election, PlainHost(), lambda: world.webhooks))
        try:
            code: object = await self.replica.run(self._stop)
        except DeposedError as error:
            code = error
        except Exception as error:  # noqa: BLE001 the run is to find any exception
            code = repr(error)
            world.trace.break_promise(f"the operator {process.name} fails: {error!r}")
        world.trace.note(process.name, f"exits: {code}")
        process.kill()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_SECONDS * self.world.rng.uniform(0.1, 0.5))
            if self.process.dead:
                self._start()
            elif self.process.runs and self.replica is not None and not self.replica.healthy:
                self._unwell += 1
                if self._unwell > _UNWELL_LOOKS:
                    self.world.trace.break_promise(f"the operator {self.process.name} is not healthy: a task has ended")
            else:
                self._unwell = 0


class World:
    """The cluster of one run."""

    def __init__(self, seed: int, spec: Json, trace: Trace, folder: Path) -> None:
        self.loop: SimulatedLoop = asyncio.get_running_loop()  # type: ignore[assignment]
        self.trace, self.folder, self.rng = trace, folder, Random(f"{seed}/world")
        self.checks = Checks(trace, one_owner=spec["partitionTolerance"]["strategy"] != "Divergence")
        self.server = Server(self.loop, self.rng)
        self.server.listeners.append(self.checks.stored)
        self.network = Network(self.loop, self.server, Random(f"{seed}/network"), trace)
        self.network.kill = self._kill
        self.child_pods = ChildPods(self, Random(f"{seed}/pods"))
        self.webhooks = Webhooks(Random(f"{seed}/webhooks"), trace)
        self.pods: list[Pod] = []
        self.callers = Callers(self)
        self.skews: dict[str, float] = {}
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        for name in NODES:
            metadata = {"name": name, "labels": {"kubernetes.io/os": "linux"}}
            self.server.create("nodes", {"metadata": metadata, "spec": {}, "status": {**ready}}, namespace="")
        self.server.create("clusterrolebindings", {"metadata": {"name": "processhub-agents"}}, namespace="")
        hub = self.server.create("hubs", {"metadata": {"name": "hub"}, "spec": spec})
        self.per_node = is_per_node(hub)
        self.workloads = Workloads(self, rolls=rolls(seed))
        self.operators = [Operator(self, "operator-0"), Operator(self, "operator-1")]
        self.loop.apart(self.workloads.run())

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members that the hub is to have; one while there is no hub."""
        hub = self.server.objects.get(HUB)
        return members_of(hub) if hub is not None else (NODES[:1] if self.per_node else ("hub-0",))

    @property
    def running_pods(self) -> Iterator[Pod]:
        """Return the pods whose container has not ended for good."""
        return (pod for pod in self.pods if not pod.gone)

    def container_at(self, address: str) -> Container | None:
        """Return the container of the pod with this address."""
        host = address.partition(":")[0]
        return next((pod.container for pod in self.running_pods if pod.container.address == host), None)

    def epochs_on_demand(self) -> dict[str, int]:
        """Return the epochs of the children on record that requests have started, by id."""
        if (hub := self.server.objects.get(HUB)) is None:
            return {}
        slices = [item for key, item in self.server.objects.items() if key.plural == "registryslices"]
        entries = {child_id: text for item in slices for child_id, text in item["spec"]["entries"].items()}
        own = {child_id: text for child_id, text in entries.items() if text.startswith(f"{hub['metadata']['uid']} ")}
        return {child_id: parse_assignment(text).epoch for child_id, text in own.items()}

    def edit(self, key: Key, patch: Json, who: str = "user") -> None:
        """Change an object by a merge patch, as a user does, if it exists."""
        self.server_request("PATCH", key, patch, who)

    def server_request(self, method: str, key: Key, body: Json, who: str) -> None:
        """Send a request that meets no fault."""
        group = {"leases": "coordination.k8s.io/v1", "statefulsets": "apps/v1", "daemonsets": "apps/v1"}.get(
            key.plural, "processhub.dev/v1alpha1"
        )
        base = "/api/v1" if key.plural in ("pods", "nodes") else f"/apis/{group}"
        url = f"{base}/namespaces/{key.namespace}/{key.plural}" + (f"/{key.name}" if method != "POST" else "")
        try:
            self.loop.outside.copy().run(self._request, method, url, body)
        except Refused as refused:
            self.trace.note(who, f"{method} {key.plural}/{key.name} is refused: {refused}")
        else:
            self.trace.note(who, f"{method} {key.plural}/{key.name} {body or ''}")

    def _request(self, method: str, url: str, body: Json) -> None:
        self.server.request(method, url, json.dumps(body).encode(), "application/merge-patch+json")

    def mend(self) -> None:
        """End all ongoing faults."""
        self.network.weather.clear()
        self.network.parted.clear()
        self.webhooks.rate = 0.0
        self.child_pods.mend()
        for node in NODES:
            self.cordon(node, unschedulable=False)
            self.set_ready(node, ready=True)
        for operator in self.operators:
            operator.mend()
        for pod in self.running_pods:
            pod.mend()

    def restore(self, version: int, others: int = 0) -> None:
        """Restore all objects as they were at this version; kubelets end what they do not name, and start the others.

        ``others``: so much is written at once by others.
        """
        self.server.rewind(version)
        for number in range(others):
            note = {"annotations": {"note": str(number)}}
            self.server.update(Key("nodes", "", NODES[0]), lambda item, note=note: item["metadata"].update(note))
        self.network.forget()
        agents = frozenset(pod.container.process.name for pod in self.running_pods)
        self.checks.restored(self.server.objects, self.child_pods.restored(), agents)
        for pod in self.running_pods:
            pod.report_again()
        self.workloads.take_back()

    def cordon(self, node: str, *, unschedulable: bool) -> None:
        """Allow or forbid new pods on a node."""
        self.server.update(Key("nodes", "", node), lambda item: item["spec"].update(unschedulable=unschedulable))

    def set_ready(self, node: str, *, ready: bool) -> None:
        """Set whether a node's kubelet is heard."""
        condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
        self.server.update(Key("nodes", "", node), lambda item: add_condition(item, condition))

    def _kill(self, process: str) -> None:
        for operator in self.operators:
            if operator.process.name == process:
                operator.process.kill()
        for pod in self.running_pods:
            if pod.container.process.name == process:
                pod.container.kill()

    def is_cordoned(self, node: str) -> bool:
        """Whether new pods are forbidden on a node."""
        return bool(self.server.get("nodes", node, "")["spec"].get("unschedulable"))


def add_condition(item: Json, condition: Json) -> None:
    """Set a condition of an object."""
    others = [each for each in item["status"].get("conditions", ()) if each["type"] != condition["type"]]
    item["status"]["conditions"] = [*others, condition]
