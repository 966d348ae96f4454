"""The life of one pod, from its binding to one of our nodes until its object may be deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from localcluster.kubelet import status
from localcluster.kubelet.environment import Json, Place
from localcluster.kubelet.events import Recorder
from localcluster.kubelet.node import Node
from localcluster.kubelet.publish import Publisher
from localcluster.kubelet.records import make_records
from localcluster.kubelet.runtime import Spec
from localcluster.kubelet.sandbox import Host, Sandbox, open_sandbox
from localcluster.kubelet.status import Record
from localcluster.kubelet.supervision import Supervisor
from localcluster.kubelet.volumes import VolumeError
from processhub.cluster.errors import ApiError

log = logging.getLogger(__name__)
_REFRESH_SECONDS = 10.0
_MIN_GRACE = 1.0  # like a real kubelet: a forced deletion still sends SIGTERM first


class PodWorker:
    """Runs one pod. ``on_gone(worker)`` is called when none of its processes and files is left here."""

    def __init__(self, host: Host, node: Node, pod: Json, on_gone: Callable[[PodWorker], None]) -> None:
        self.pod, self.node = pod, node
        self.uid: str = pod["metadata"]["uid"]
        self.sandbox: Sandbox | None = None
        self.supervisors: dict[str, Supervisor] = {}
        self._host, self._on_gone = host, on_gone
        self._init_records, self._records = make_records(pod)
        self._sandboxed = self._initialized = self._init_failed = self._stopping = self._object_gone = False
        self._grace = float("inf")
        self._started_at = time.time()
        self._conditions: list[Json] = []
        self._publisher = Publisher(host.client, pod, node.connected, self._status)
        self._recorder = Recorder(host.client, pod, node.name)
        self._publishing = asyncio.create_task(self._publisher.run())
        self._ending: asyncio.Task[None] | None = None
        finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        self._life: asyncio.Task[None] | None = None if finished else asyncio.create_task(self._live())

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"

    def update(self, pod: Json) -> None:
        """Take a newer version of the object; ends the pod if it is being deleted."""
        self.pod = pod
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            given = metadata.get("deletionGracePeriodSeconds")
            self._terminate(self._spec_grace if given is None else float(given))
        else:
            self._publisher.observe(pod)
            if pod["spec"].get("readinessGates"):
                self._publisher.mark()  # a scheduling gate may have changed

    def removed(self) -> None:
        """The object has been deleted by force; the processes are ended nevertheless."""
        self._object_gone = self._publisher.gone = True
        self._terminate(self._spec_grace)

    async def power_off(self) -> None:
        """The node loses its power: all processes die at once, and no status is reported."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        await asyncio.gather(*(supervisor.kill() for supervisor in self.supervisors.values()))

    def power_on(self) -> None:
        """The node is back: the pod is started again, with the contents of its volumes."""
        self._initialized = self._init_failed = False
        if self._ending is None and self._life is not None:
            self._life = asyncio.create_task(self._live())

    @property
    def _spec_grace(self) -> float:
        given = self.pod["spec"].get("terminationGracePeriodSeconds")
        return 30.0 if given is None else float(given)

    # The running pod.

    async def _live(self) -> None:
        try:
            await self._prepare()
            async with asyncio.TaskGroup() as group:
                refresher = group.create_task(self._keep_volumes_fresh())
                sidecars = await self._initialize(group)
                if not self._init_failed:
                    self._initialized = True
                    self._publisher.mark()
                    await asyncio.gather(*(self._supervisor(record).supervise() for record in self._records))
                for task in (refresher, *sidecars):
                    task.cancel()
            await self._stop_sidecars()
        except Exception:
            log.exception("pod %s: the process kubelet failed", self.name)
            raise

    async def _prepare(self) -> None:
        if self.sandbox is None:
            self.sandbox = await open_sandbox(self._host, self.pod, self.node.name, self.node.ip)
        while True:
            try:
                await self.sandbox.refresh(self.pod)
                break
            except (VolumeError, ApiError, OSError) as error:
                self._recorder.warn("FailedMount", str(error))
                for record in self._init_records or self._records:
                    record.state = status.Waiting("ContainerCreating", str(error))
                self._publisher.mark()
                await asyncio.sleep(0.3)
        self._sandboxed = True

    async def _keep_volumes_fresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            assert self.sandbox is not None
            try:
                await self.sandbox.refresh(self.pod)
            except (VolumeError, ApiError, OSError) as error:
                log.info("volumes of pod %s stay as they are: %s", self.name, error)

    async def _initialize(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        sidecars: list[asyncio.Task[None]] = []
        for record in self._init_records:
            supervisor = self._supervisor(record)
            if record.spec.get("restartPolicy") == "Always":
                sidecars.append(group.create_task(supervisor.supervise()))
                await supervisor.started.wait()
                continue
            await supervisor.supervise()
            record.ready = isinstance(record.state, status.Terminated) and record.state.exit.code == 0
            if not record.ready:
                self._init_failed = True
                self._publisher.mark()
                break
        return sidecars

    def _supervisor(self, record: Record) -> Supervisor:
        policy = record.spec.get("restartPolicy") or self.pod["spec"].get("restartPolicy", "Always")
        if record in self._init_records and not record.spec.get("restartPolicy") and policy == "Always":
            policy = "OnFailure"
        assert self.sandbox is not None
        sandbox = self.sandbox

        async def make_spec(restarts: int) -> Spec:
            return await sandbox.container_spec(self.pod, record.spec, restarts)

        supervisor = Supervisor(
            record, policy, sandbox.place.pod_ip, self._spec_grace, make_spec, self._publisher.mark, self._recorder.warn
        )
        self.supervisors[record.name] = supervisor
        return supervisor

    # The end of the pod.

    def _terminate(self, grace: float) -> None:
        grace = max(_MIN_GRACE, grace)
        if self._ending is None:
            self._grace, self._stopping = grace, True
            self._ending = asyncio.create_task(self._end(grace))
        elif grace < self._grace:
            self._grace = grace
            for supervisor in self.supervisors.values():
                supervisor.hurry(grace)

    async def _end(self, grace: float) -> None:
        try:
            if self._life is not None:
                self._life.cancel()
                await asyncio.wait({self._life})
            mains = [self.supervisors[record.name] for record in self._records if record.name in self.supervisors]
            await asyncio.gather(*(supervisor.stop(grace) for supervisor in mains))
            await self._stop_sidecars()
            if not self._object_gone:
                self._publisher.mark()
                await self._publisher.settled()
                await self._publisher.delete()
            self._publishing.cancel()
            if self.sandbox is not None:
                await self.sandbox.close()
        except Exception:
            log.exception("pod %s could not be ended", self.name)
            raise
        self._on_gone(self)

    async def _stop_sidecars(self) -> None:
        for record in reversed(self._init_records):
            if record.name in self.supervisors:
                await self.supervisors[record.name].stop(self._spec_grace)

    # The status of the pod.

    def _status(self) -> Json:
        own = {condition["type"] for condition in self._conditions}
        others = [entry for entry in self.pod.get("status", {}).get("conditions") or () if entry["type"] not in own]
        place = self.sandbox.place if self.sandbox else Place(self.node.name, self.node.ip, "")
        body = status.pod_status(
            self.pod,
            place,
            self._started_at,
            time.time(),
            sandboxed=self._sandboxed,
            initialized=self._initialized,
            init_failed=self._init_failed,
            stopping=self._stopping,
            init_records=self._init_records,
            records=self._records,
            previous=[*others, *self._conditions],
        )
        self._conditions = body["conditions"]
        return body

    async def kill_now(self) -> None:
        """End all processes at once, for the end of the kubelet itself."""
        for task in (self._life, self._ending, self._publishing):
            if task is not None:
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(supervisor.kill() for supervisor in self.supervisors.values()))
