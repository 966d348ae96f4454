"""The controllers of StatefulSets and DaemonSets, and the scheduler, as far as the members of one hub need them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memoryapi import Json
from memoryrequests import Key

from .kubelet import Pod
from .naming import NODES, is_member
from .rollouts import REVISION, is_outdated, is_there, outdated_daemon, outdated_replica, revision_of

if TYPE_CHECKING:
    from .world import World


class Workloads:
    """The workload of the members. ``rolls``: Pods are replaced that are not as its template says."""

    def __init__(self, world: World, *, rolls: bool) -> None:
        self._world, self._made, self.rolls = world, 0, rolls
        self.key = Key("daemonsets" if world.per_node else "statefulsets", "ns", "hub")

    async def run(self) -> None:
        """Do their work."""
        world = self._world
        while True:
            await asyncio.sleep(world.rng.uniform(0.1, 0.5))
            workload = world.server.objects.get(self.key)
            if workload is None:
                continue
            if world.per_node:
                self._keep_daemons(workload)
            else:
                self._keep_replicas(workload)

    def is_outdated(self, pod: Json) -> bool:
        """Whether a Pod is to be replaced."""
        workload = self._world.server.objects.get(self.key)
        return workload is not None and is_outdated(workload, pod)

    @property
    def whole(self) -> bool:
        """Whether all members are there, and none is to be replaced."""
        workload, pods = self._world.server.objects.get(self.key), self._pods
        complete = workload is not None and len(pods) == len(self._world.members)
        return complete and all(is_there(workload, pod) for pod in pods)

    @property
    def _pods(self) -> list[Json]:
        return [item for key, item in self._world.server.objects.items() if key.plural == "pods" and is_member(item)]

    def _keep_daemons(self, workload: Json) -> None:
        pods = self._pods
        for node in NODES:
            if not any(pod["spec"]["nodeName"] == node for pod in pods):
                self._made += 1
                self._make_pod(f"hub-{self._made:05d}", workload, "DaemonSet", node)
        if self.rolls and (pod := outdated_daemon(workload, self._pods)) is not None:
            self._delete(pod, "daemonset")

    def _keep_replicas(self, workload: Json) -> None:
        world, replicas = self._world, workload["spec"]["replicas"]
        for ordinal in range(replicas):
            nodes = [node for node in NODES if not world.is_cordoned(node)]
            if Key("pods", "ns", f"hub-{ordinal}") not in world.server.objects and nodes:
                self._make_pod(f"hub-{ordinal}", workload, "StatefulSet", world.rng.choice(nodes))
        for pod in self._pods:
            metadata = pod["metadata"]
            if int(metadata["name"].rpartition("-")[2]) >= replicas and "deletionTimestamp" not in metadata:
                self._delete(pod, "statefulset")
        if self.rolls and (outdated := outdated_replica(workload, self._pods)) is not None:
            self._delete(outdated, "statefulset")

    def take_back(self) -> None:
        """Start the containers of Pods that have gone and are back by a restore of etcd."""
        world = self._world
        running = {pod.uid for pod in world.running_pods}
        for pod in self._pods:
            metadata = pod["metadata"]
            if metadata["uid"] in running:
                continue
            if "deletionTimestamp" in metadata:
                world.loop.later(world.rng.uniform(0.1, 2.0), self._remove, metadata["uid"])
            else:
                world.pods.append(Pod(world, pod, pod["spec"]["nodeName"], f" again, at {world.loop.time():.0f}"))

    def _remove(self, uid: str) -> None:
        server = self._world.server
        for key in [key for key, item in server.objects.items() if item["metadata"]["uid"] == uid]:
            server.end(key, 0)

    def _delete(self, pod: Json, who: str) -> None:
        name: str = pod["metadata"]["name"]
        self._world.trace.note(who, f"deletes pod {name}")
        self._world.server.end(Key("pods", "ns", name))

    def _make_pod(self, name: str, workload: Json, kind: str, node: str) -> None:
        world = self._world
        owner = {
            "apiVersion": "apps/v1", "kind": kind, "name": "hub",
            "uid": workload["metadata"]["uid"], "controller": True,
        }  # fmt: skip
        template = workload["spec"]["template"]
        metadata: Json = {"name": name, "ownerReferences": [owner]} | {
            marks: dict(template["metadata"][marks]) for marks in ("labels", "annotations")
        }
        if self.rolls:
            metadata["labels"] |= {REVISION: revision_of(workload)}
        spec = {"nodeName": node, "terminationGracePeriodSeconds": template["spec"]["terminationGracePeriodSeconds"]}
        item = world.server.create("pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})
        world.trace.note(kind.lower(), f"makes pod {name} on {node}")
        world.pods = [pod for pod in world.pods if not pod.gone]
        world.pods.append(Pod(world, item, node))
