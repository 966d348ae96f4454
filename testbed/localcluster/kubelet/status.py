"""A pod's status as a pure function of its containers' states, by the names and rules of a real kubelet."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from localcluster.kubelet.environment import Json, Place
from localcluster.kubelet.runtime import Exit


def timestamp(seconds: float) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Waiting:
    """The state of a container that does not run, or not yet."""

    reason: str
    message: str = ""

    def wire(self) -> Json:
        """The ContainerState."""
        return {"waiting": {"reason": self.reason} | ({"message": self.message} if self.message else {})}


@dataclass(frozen=True)
class Running:
    """The state of a container that runs, with its start."""

    at: float

    def wire(self) -> Json:
        """The ContainerState."""
        return {"running": {"startedAt": timestamp(self.at)}}


@dataclass(frozen=True)
class Terminated:
    """The state of a container that has ended, with all of its processes."""

    started_at: float
    exit: Exit
    container_id: str

    def wire(self) -> Json:
        """The ContainerState."""
        body: Json = {
            "exitCode": self.exit.code,
            "reason": self.exit.reason,
            "startedAt": timestamp(self.started_at) if self.started_at else None,
            "finishedAt": timestamp(self.exit.at),
            "containerID": self.container_id,
        }
        if self.exit.signal:
            body["signal"] = self.exit.signal
        if self.exit.message:
            body["message"] = self.exit.message
        return {"terminated": body}


@dataclass
class Record:
    """The record of one container of the spec over all of its runs."""

    spec: Json
    state: Waiting | Running | Terminated = field(default_factory=lambda: Waiting("ContainerCreating"))
    last: Terminated | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    def wire(self) -> Json:
        """The ContainerStatus."""
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state.wire(),
            "lastState": self.last.wire() if self.last else {},
            **({"containerID": self.container_id} if self.container_id else {}),
        }


def container_id(run: str) -> str:
    """The containerID of a run."""
    return f"process://{run}"


def restarts_after(policy: str, code: int) -> bool:
    """Whether a container that exited with ``code`` is started again under the pod's restartPolicy."""
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def phase(pod: Json, initialized: bool, records: Sequence[Record], stopping: bool) -> str:
    """The pod's phase."""
    policy = pod["spec"].get("restartPolicy", "Always")
    ends = [record.state.exit.code for record in records if isinstance(record.state, Terminated)]
    final = [code for code in ends if stopping or not restarts_after(policy, code)]
    if initialized and len(final) == len(records):
        return "Failed" if any(final) else "Succeeded"
    if any(record.last or not isinstance(record.state, Waiting) for record in records):
        return "Running"
    return "Pending"


def pod_status(
    pod: Json,
    place: Place,
    started_at: float,
    now: float,
    *,
    sandboxed: bool,
    initialized: bool,
    init_failed: bool,
    stopping: bool,
    init_records: Sequence[Record],
    records: Sequence[Record],
    previous: Sequence[Json],
) -> Json:
    """The body for ``pods/status``; a strategic merge patch with it leaves other owners' conditions alone.

    ``sandboxed``: volumes and address are there. ``init_failed``: an init container failed for good. ``stopping``: no
    container will be started again. ``previous``: the conditions on record, for lastTransitionTime and readiness gates.
    """
    state = "Failed" if init_failed else phase(pod, initialized, records, stopping)
    ended = state in ("Succeeded", "Failed")
    unready = [record.name for record in records if not record.ready]
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    known = {condition["type"]: condition for condition in previous}
    open_gates = [gate for gate in gates if known.get(gate, {}).get("status") != "True"]
    message = f"containers with unready status: [{' '.join(unready)}]" if unready else None
    reason = "PodCompleted" if state == "Succeeded" else "PodFailed" if ended else "ContainersNotReady"
    conditions = [
        _condition("PodReadyToStartContainers", sandboxed and not ended),
        _condition("Initialized", initialized, "PodCompleted" if state == "Succeeded" else None),
        _condition("ContainersReady", not unready and not ended, reason if unready or ended else None, message),
        _condition(
            "Ready",
            not unready and not ended and not open_gates,
            reason if unready or ended else "ReadinessGatesNotReady" if open_gates else None,
            message or (f"corresponding conditions not true: {open_gates}" if open_gates else None),
        ),
        _condition("PodScheduled", True),
    ]
    for condition in conditions:
        before = known.get(condition["type"])
        same = before is not None and before["status"] == condition["status"]
        condition["lastTransitionTime"] = before["lastTransitionTime"] if before and same else timestamp(now)
    return {
        "phase": state,
        "hostIP": place.host_ip,
        "hostIPs": [{"ip": place.host_ip}],
        "startTime": timestamp(started_at),
        **({"podIP": place.pod_ip, "podIPs": [{"ip": place.pod_ip}]} if place.pod_ip else {}),
        "conditions": conditions,
        "containerStatuses": [record.wire() for record in records],
        "initContainerStatuses": [record.wire() for record in init_records] or None,
    }


def _condition(kind: str, true: bool, reason: str | None = None, message: str | None = None) -> Json:
    return {"type": kind, "status": "True" if true else "False", "reason": reason, "message": message}
