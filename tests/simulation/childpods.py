"""The Pods of pod children: a scheduler that binds them, and the kubelets that run their containers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from memoryapi import Json
from memoryrequests import Key

from processhub.agent.request import OutcomeUnknownError, Request, Response
from processhub.api.naming import (
    ANNOTATION_EPOCH,
    ANNOTATION_ROLE,
    ENV_CHILD_ID,
    ENV_MEMBER,
    LABEL_CHILD,
    run_of,
)
from processhub.api.reasons import Role

from .machines import fail, settle
from .serving import Asked

if TYPE_CHECKING:
    from .kubelet import Container
    from .world import World

_LOOK_SECONDS = 0.5
_AGAIN_SECONDS = 0.5  # between two attempts to connect
_NO_ROOM = "exceeded quota: pods, requested: pods=1, used: pods=9, limited: pods=9"
_PULLS = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}


class PodRun:
    """One process of a pod child, from the start of its container to its end."""

    handles = 0  # a server that serves HTTP may handle several requests beside each other

    def __init__(self, pod: ChildPod) -> None:
        self.pod, self.child_id, self.member, self.where = pod, pod.child_id, pod.member, pod.where
        self.command: tuple[str, ...] = tuple(pod.container["command"])
        self.ending = False
        self._answers: dict[asyncio.Future[Response], Container] = {}

    @property
    def epoch(self) -> int:
        """The epoch, as the Pod's annotations say."""
        return self.pod.epoch

    @property
    def role_now(self) -> str:
        """The role, as the Pod's annotations say."""
        return self.pod.role

    @property
    def given_up(self) -> bool:
        """Whether somebody deleted its Pod by force, so that nothing shows it any more."""
        return self.pod.given_up

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.pod.run is self

    def crash(self) -> None:
        """End by itself."""
        self.end("exit code 1")

    def signal(self, kill_after: float) -> None:
        """Get a stop signal, and end some time later; one in ten does not heed it."""
        if not self.ending:
            self.ending = True
            rng, loop = self.pod.rng, self.pod.world.loop
            heeds = rng.random() < 0.9
            loop.later(min(rng.uniform(0.01, 4.0), kill_after) if heeds else kill_after, self.end, "killed")

    def end(self, how: str) -> None:
        """End."""
        if self.runs:
            self.pod.run = None
            self.pod.world.checks.pod_changed(self, f"ends: {how}")
            for answer, own in self._answers.items():
                own.process.call(fail, answer, OutcomeUnknownError("its connection broke"))

    def handle(self, asked: Asked, answer: asyncio.Future[Response], own: Container) -> None:
        """Handle a request of a member, beside others."""
        self.pod.world.checks.executes(self, asked.number)
        self._answers[answer] = own
        self.pod.world.loop.later(asked.seconds, self._handled, asked, answer, own)

    def _handled(self, asked: Asked, answer: asyncio.Future[Response], own: Container) -> None:
        if self.runs and asked.crashes:
            self.crash()
        elif self.runs:
            self._answers.pop(answer, None)
            own.process.call(settle, answer, Response(200, b"done"))


class ChildPod:
    """One Pod of a pod child, as the scheduler and the kubelet of its node see it."""

    def __init__(self, pods: ChildPods, item: Json) -> None:
        self.pods, self.world, self.rng = pods, pods.world, pods.rng
        metadata, self.container = item["metadata"], item["spec"]["containers"][0]
        self.key, self.uid = Key("pods", "ns", metadata["name"]), metadata["uid"]
        values = {variable["name"]: variable.get("value", "") for variable in self.container["env"]}
        self.child_id, self.member = values[ENV_CHILD_ID], values[ENV_MEMBER]
        self.run: PodRun | None = None
        self.given_up, self._node = False, ""
        self.epoch, self.started_with, self.role = 0, 0, str(Role.PASSIVE)
        self._kubelet = _Status(self)
        self.seen(item)
        self.world.loop.apart(self._keep())

    @property
    def where(self) -> str:
        """Its name and the number of its uid."""
        return f"{self.key.name}/{self.uid.removeprefix('uid-')}"

    @property
    def address(self) -> str:
        """Its address."""
        return f"10.1.0.{self.uid.removeprefix('uid-')}"

    def seen(self, item: Json) -> None:
        """Take role and epoch of the object, which a downwardAPI volume shows to the process."""
        before = self.role
        self.take(item)
        if self.role != before:
            self.tell_role()

    def tell_role(self) -> None:
        """Tell what follows the process that its role is another."""
        if self.run is not None:
            self.world.checks.pod_changed(self.run, f"is {self.role} now, of epoch {self.epoch}")

    def take(self, item: Json) -> None:
        """Take role and epoch of the object. Where somebody removed them, the process goes by what it has read."""
        annotations = item["metadata"].get("annotations", {})
        self.epoch = int(annotations.get(ANNOTATION_EPOCH) or self.epoch)
        self.started_with = int(run_of(annotations) or self.started_with)
        self.role = annotations.get(ANNOTATION_ROLE) or self.role

    def restored(self, item: Json) -> None:
        """Take all of the object as it is in a backup, and report of it anew."""
        self.given_up = False
        self.take(item)
        self._kubelet.report_again()

    def evict(self) -> None:
        """End its process, as a kubelet whose node is short of memory does."""
        if self.run is not None:
            self._kubelet.final = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
            self.run.end("evicted")

    @property
    def node(self) -> str:
        """Its node; "" while it has none."""
        item = self._object()
        if item is not None:
            self._node = item["spec"].get("nodeName", "")
        return self._node

    def _object(self) -> Json | None:
        item = self.world.server.objects.get(self.key)
        return item if item is not None and item["metadata"]["uid"] == self.uid else None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS * self.rng.uniform(0.2, 1.5))
            item = self._object()
            if item is None and self.run is None:
                break
            if item is not None and not self.node:
                self._schedule(item)
            elif self.node in self.pods.lost:
                continue  # neither its kubelet nor its processes hear anything
            elif item is None:
                assert self.run is not None
                self.run.signal(30.0)
            elif self._kubelet.look(item):
                await asyncio.sleep(self.rng.uniform(0.0, 1.0))
                if self._object() is not None:
                    self.world.server.end(self.key, 0)
        self.pods.all.pop(self.uid, None)

    def _schedule(self, item: Json) -> None:
        """Bind the Pod to the node that its affinity names, unless it is gated or the node is not free."""
        if item["spec"].get("schedulingGates"):
            return
        required = item["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (name,) = required["nodeSelectorTerms"][0]["matchFields"][0]["values"]
        node = self.world.server.get("nodes", name, "")
        ready = all(each["status"] == "True" for each in node["status"]["conditions"] if each["type"] == "Ready")
        free = ready and not node["spec"].get("unschedulable")
        scheduled = {"type": "PodScheduled", "status": "True"}
        if not free:
            text = "0/4 nodes are available: 1 node(s) were unschedulable."
            scheduled |= {"status": "False", "reason": "Unschedulable", "message": text}
        self.world.server.update(self.key, lambda item: self._kubelet.put(item, scheduled))
        if free:
            self.world.server.update(self.key, lambda item: item["spec"].update(nodeName=name))


class _Status:
    """What the kubelet does with one Pod, and reports of it."""

    def __init__(self, pod: ChildPod) -> None:
        self._pod = pod
        self.final: Json = {}  # the last status of a Pod that has ended
        self._restarts, self._again_at, self._up_at, self._started = 0, 0.0, 0.0, False
        self._reported: Json = {}

    def report_again(self) -> None:
        """Report anew, whatever was reported."""
        self._reported = {}

    def look(self, item: Json) -> bool:
        """Run the container as the object asks. Returns whether the Pod has ended, and its object is to go."""
        pod, now = self._pod, self._pod.world.loop.time()
        ends = "deletionTimestamp" in item["metadata"]
        if ends and pod.run is not None:
            pod.run.signal(float(item["metadata"]["deletionGracePeriodSeconds"]))
        if pod.run is None and not self.final and not ends:
            self._begin(now)
        self._report(item, now)
        return ends and pod.run is None

    def _begin(self, now: float) -> None:
        pod, rng = self._pod, self._pod.rng
        if self._started:  # it has ended by itself
            self._started = False
            self._restarts += 1
            self._again_at = now + rng.uniform(0.2, 1.0) * min(10, 2**self._restarts)
        if now >= self._again_at and not pod.pods.no_images:
            self._started, self._up_at = True, now + rng.uniform(0.1, 1.0)
            pod.run = PodRun(pod)
            pod.world.checks.pod_changed(pod.run, "starts")

    def _report(self, item: Json, now: float) -> None:
        pod, ended = self._pod, {"terminated": {"exitCode": 1, "reason": "Error"}}
        up = pod.run is not None and now >= self._up_at
        state: Json = {"running": {}} if pod.run is not None else {"waiting": {"reason": "ContainerCreating"}}
        if pod.run is None and (self._started or self.final):
            state = ended
        elif pod.run is None and self._restarts:
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
        elif pod.run is None and pod.pods.no_images:
            state = _PULLS
        container = {"name": "main", "ready": up, "restartCount": self._restarts, "state": state}
        if self._restarts:
            container["lastState"] = ended
        status = {
            "phase": "Running" if self._started or self._restarts else "Pending",
            "podIP": pod.address,
            "containerStatuses": [container],
            **self.final,
        }
        if status != self._reported:
            self._reported = status
            ready = {"type": "Ready", "status": "True" if up else "False"}
            pod.world.server.update(pod.key, lambda item: self.put(item, ready, **status))

    @staticmethod
    def put(item: Json, condition: Json, **status: Any) -> None:
        """Set a condition and fields of the status."""
        others = [each for each in item["status"].get("conditions", ()) if each["type"] != condition["type"]]
        item["status"] |= {**status, "conditions": [*others, condition]}


class ChildPods:
    """All Pods of pod children.

    ``lost``: the nodes that are cut off. ``no_images``: no image can be pulled now. ``full``: a quota has no room for
    a Pod.
    """

    def __init__(self, world: World, rng: Random) -> None:
        self.world, self.rng = world, rng
        self.all: dict[str, ChildPod] = {}  # by uid
        self.lost: set[str] = set()
        self.no_images = self.full = False
        world.server.listeners.append(self._stored)
        world.server.policy = self._refusal

    def mend(self) -> None:
        """End all faults."""
        self.lost.clear()
        self.no_images = self.full = False

    def restored(self) -> dict[str, int]:
        """Follow a restore of etcd: kubelets end what is in no backup, and start what had ended.

        Returns the epochs of the children whose Pods start again, by id.
        """
        objects = self.world.server.objects.items()
        backup = {item["metadata"]["uid"]: item for key, item in objects if _is_childs(key, item)}
        before = {pod: pod.role for pod in self.all.values()}
        back = [pod for pod in before if pod.run is None or pod.given_up]
        for pod in before:
            if pod.uid in backup:
                pod.restored(backup[pod.uid])
            else:
                pod.given_up = True
        for pod, role in before.items():
            if pod.role != role:
                pod.tell_role()
        new = {uid: ChildPod(self, item) for uid, item in backup.items() if uid not in self.all}
        self.all |= new
        return {pod.child_id: pod.epoch for pod in (*back, *new.values()) if not pod.given_up}

    @property
    def present(self) -> Iterator[ChildPod]:
        """The Pods whose objects are there."""
        return (pod for pod in self.all.values() if not pod.given_up and pod.key in self.world.server.objects)

    def lose(self, node: str, *, reboots: bool | None = None) -> None:
        """Cut a node off; with ``reboots`` its processes end. None: by chance."""
        self.lost.add(node)
        if reboots is None:
            reboots = self.rng.random() < 0.5
        for pod in list(self.all.values()):
            if reboots and pod.run is not None and pod.node == node:
                pod.run.end("its node reboots")

    def run_at(self, base: str) -> PodRun | None:
        """Return what accepts connections at this URL."""
        host = base.removeprefix("http://").partition(":")[0]
        runs = (pod.run for pod in self.all.values() if pod.address == host)
        return next((run for run in runs if run is not None and not run.ending), None)

    def _stored(self, key: Key, before: Json | None, after: Json | None) -> None:
        if key.plural != "pods":
            return
        item = after or before
        assert item is not None
        if before is None and _is_childs(key, item):
            self.all[item["metadata"]["uid"]] = ChildPod(self, item)
        elif (pod := self.all.get(item["metadata"]["uid"])) is not None:
            if after is not None:
                pod.seen(after)
            elif pod.run is not None and not pod.given_up:
                self.world.trace.break_promise(f"the object of pod {pod.where} is deleted, and its process runs")

    def _refusal(self, key: Key, item: Json) -> str:
        return f'pods "{key.name}" is forbidden: {_NO_ROOM}' if _is_childs(key, item) and self.full else ""


def _is_childs(key: Key, item: Json) -> bool:
    return key.plural == "pods" and LABEL_CHILD in item["metadata"].get("labels", {})


class PodRequests:
    """Requests of one member to the Pods of its children, without HTTP."""

    def __init__(self, world: World, own: Container) -> None:
        self._world, self._own = world, own

    async def post(self, base: str, request: Request, place: str) -> Response:
        """Send the request once the child accepts a connection."""
        own, network = self._own, self._world.network
        while True:
            await network.travel()
            await own.wire.whole.wait()
            if (run := self._world.child_pods.run_at(base)) is not None:
                break
            request.obstacle = f"nothing accepts connections on {place}"
            await asyncio.sleep(_AGAIN_SECONDS)
        asked = msgspec.json.decode(await request.content(), type=Asked)
        request.handed_over.set()
        if not run.runs:
            raise OutcomeUnknownError("its connection broke")
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        run.handle(asked, answer, own)
        return await answer

    async def close(self) -> None:
        """Break no connection: none is kept."""
