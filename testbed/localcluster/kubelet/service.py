"""The kubelet: nodes, the pods bound to them, and the faults that tests request."""

from __future__ import annotations

import asyncio
import logging

from localcluster.kubelet.environment import Json
from localcluster.kubelet.forwarder import Mode
from localcluster.kubelet.node import Node
from localcluster.kubelet.pod import PodWorker
from localcluster.kubelet.publish import PODS
from localcluster.kubelet.sandbox import Host
from localcluster.kubelet.supervision import Supervisor
from processhub.cluster.informer import Informer

log = logging.getLogger(__name__)


class FaultError(Exception):
    """The target of a fault does not run here; the message names it."""


class Kubelet:
    """Runs the pods of its nodes until cancelled."""

    def __init__(self, host: Host, nodes: list[Node]) -> None:
        self._host = host
        self.nodes = {node.name: node for node in nodes}
        self.workers: dict[str, PodWorker] = {}
        self._informer: Informer[Json] = Informer(host.client, PODS, self._on_change, fields="spec.nodeName!=")

    async def run(self) -> None:
        """Register the nodes, keep them alive, run their pods."""
        for node in self.nodes.values():
            await node.register(self._host.client)
        async with asyncio.TaskGroup() as group:
            for node in self.nodes.values():
                group.create_task(node.keep_alive(self._host.client))
            group.create_task(self._informer.run())

    async def close(self) -> None:
        """End every process of every pod."""
        await asyncio.gather(*(worker.kill_now() for worker in self.workers.values()))

    # Pods.

    def _on_change(self, old: Json | None, new: Json | None) -> None:
        pod = new or old
        assert pod is not None
        node = self.nodes.get(pod["spec"].get("nodeName", ""))
        if node is None or not node.connected.is_set():
            return
        try:
            if new is None:
                self._removed(pod["metadata"]["uid"])
            else:
                self._present(node, new)
        except Exception:
            # One pod that this kubelet can't handle must not end the others.
            log.exception("pod %s/%s", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _present(self, node: Node, pod: Json) -> None:
        worker = self.workers.get(pod["metadata"]["uid"])
        if worker is None:
            worker = PodWorker(self._host, node, pod, self._forget)
            self.workers[worker.uid] = worker
        worker.update(pod)

    def _removed(self, uid: str) -> None:
        if worker := self.workers.get(uid):
            worker.removed()

    def _forget(self, worker: PodWorker) -> None:
        self.workers.pop(worker.uid, None)

    def _catch_up(self, node: Node) -> None:
        """Repeat the work that the node missed while it was cut off."""
        present = {pod["metadata"]["uid"]: pod for pod in self._informer.items.values()}
        for worker in list(self.workers.values()):
            if worker.node is node and worker.uid not in present:
                worker.removed()
        for pod in present.values():
            if pod["spec"].get("nodeName") == node.name:
                self._present(node, pod)

    # Faults.

    def pod(self, name: str) -> PodWorker:
        """The worker of ``namespace/name``: the newest one if an old one of that name is still ending."""
        for worker in reversed(list(self.workers.values())):
            if worker.name == name:
                return worker
        raise FaultError(f"pod {name} does not run on this kubelet")

    def node(self, name: str) -> Node:
        """The node of this name."""
        if name not in self.nodes:
            raise FaultError(f"there is no node {name}; there are {', '.join(self.nodes)}")
        return self.nodes[name]

    def pods_of(self, node: Node) -> list[PodWorker]:
        """The workers on this node."""
        return [worker for worker in self.workers.values() if worker.node is node]

    def kill_pod(self, worker: PodWorker, container: str | None) -> list[int]:
        """Send SIGKILL to the main processes; returns their pids."""
        runs = [supervisor.run for supervisor in self._chosen(worker, container)]
        alive = [run for run in runs if run is not None and run.alive and run.pid]
        for run in alive:
            run.kill_main()
        return [run.pid for run in alive]

    async def pause_pod(self, worker: PodWorker, container: str | None) -> list[int]:
        """Send SIGSTOP to every process; returns their pids."""
        stopped: list[int] = []
        for supervisor in self._chosen(worker, container):
            if supervisor.run is not None:
                await supervisor.run.pause()
                stopped += supervisor.run.processes()
        return stopped

    def resume_pod(self, worker: PodWorker, container: str | None) -> None:
        """Send SIGCONT to every process."""
        for supervisor in self._chosen(worker, container):
            if supervisor.run is not None:
                supervisor.run.resume()

    def cut_pod(self, worker: PodWorker, mode: Mode) -> None:
        """Cut the pod's way to the API server; its node still reports it."""
        if worker.sandbox is None:
            raise FaultError(f"pod {worker.name} is not set up yet")
        worker.sandbox.forwarder.cut(mode)

    def heal_pod(self, worker: PodWorker) -> None:
        """Undo ``cut_pod``."""
        if worker.sandbox is not None:
            worker.sandbox.forwarder.heal()

    def cut_node(self, node: Node, mode: Mode) -> None:
        """Cut the node and all of its pods off; their processes run on."""
        node.connected.clear()
        for worker in self.pods_of(node):
            if worker.sandbox is not None:
                worker.sandbox.forwarder.cut(mode)

    async def pause_node(self, node: Node) -> None:
        """Pause the whole machine: pods, heartbeats, traffic."""
        self.cut_node(node, "drop")
        await asyncio.gather(*(self.pause_pod(worker, None) for worker in self.pods_of(node)))

    async def kill_node(self, node: Node) -> None:
        """Cut the machine's power."""
        node.connected.clear()
        node.powered = False
        for worker in self.pods_of(node):
            if worker.sandbox is not None:
                worker.sandbox.forwarder.cut("reset")
        await asyncio.gather(*(worker.power_off() for worker in self.pods_of(node)))

    def heal_node(self, node: Node) -> None:
        """Undo any of these faults; after ``kill_node`` the machine starts and runs its pods again."""
        workers = self.pods_of(node)
        was_off, node.powered = not node.powered, True
        node.connected.set()
        node.beat_now()
        for worker in workers:
            self.resume_pod(worker, None)
            self.heal_pod(worker)
        self._catch_up(node)
        if was_off:
            for worker in workers:  # those that were bound to it in the meantime have just been started
                worker.power_on()

    def _chosen(self, worker: PodWorker, container: str | None) -> list[Supervisor]:
        if container is None:
            return list(worker.supervisors.values())
        if container not in worker.supervisors:
            raise FaultError(f"pod {worker.name} has no running container {container}")
        return [worker.supervisors[container]]
