"""The few fields of Kubernetes' own objects that the project reads. Times are RFC 3339 text."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub.api.meta import EnvVar, ObjectMeta, Wire
from processhub.api.naming import ENV_CHILD_ID, ENV_MEMBER

AGENT_CONTAINER = "agent"  # of a member's pod


class LeaseSpec(Wire, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 LeaseSpec."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """coordination.k8s.io/v1 Lease."""

    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class Terminated(Wire, frozen=True, kw_only=True):
    """ContainerStateTerminated."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class Running(Wire, frozen=True, kw_only=True):
    """ContainerStateRunning."""

    started_at: str | None = None


class Waiting(Wire, frozen=True, kw_only=True):
    """ContainerStateWaiting."""

    reason: str = ""
    message: str = ""


class ContainerState(Wire, frozen=True, kw_only=True):
    """ContainerState: one field is set."""

    running: Running | None = None
    terminated: Terminated | None = None
    waiting: Waiting | None = None


class ContainerStatus(Wire, frozen=True, kw_only=True):
    """ContainerStatus."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodCondition(Wire, frozen=True, kw_only=True):
    """PodCondition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class SchedulingGate(Wire, frozen=True, kw_only=True):
    """PodSchedulingGate: a Pod that has one gets no node."""

    name: str


class ContainerPort(Wire, frozen=True, kw_only=True):
    """The part of ContainerPort that is read."""

    name: str = ""
    container_port: int = 0


class Container(Wire, frozen=True, kw_only=True):
    """The part of Container that is read.

    That is the environment variables that say which child a Pod belongs to, and an agent's port ``http``.
    """

    name: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()

    def __post_init__(self) -> None:
        # Tens of thousands of Pods are kept in memory, and users' environments may be large.
        kept = tuple(variable for variable in self.env if variable.name in (ENV_CHILD_ID, ENV_MEMBER))
        msgspec.structs.force_setattr(self, "env", kept)
        ports = tuple(port for port in self.ports if port.name == "http") if self.name == AGENT_CONTAINER else ()
        msgspec.structs.force_setattr(self, "ports", ports)


class PodSpec(Wire, frozen=True, kw_only=True):
    """The part of PodSpec that is read."""

    node_name: str = ""
    scheduler_name: str = ""
    service_account_name: str = ""
    containers: tuple[Container, ...] = ()
    scheduling_gates: tuple[SchedulingGate, ...] = ()


class PodStatus(Wire, frozen=True, kw_only=True):
    """The part of PodStatus that is read."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: tuple[PodCondition, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Wire, frozen=True, kw_only=True):
    """v1 Pod."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeSpec(Wire, frozen=True, kw_only=True):
    """The part of NodeSpec that is read."""

    unschedulable: bool = False
    taints: tuple[dict[str, Any], ...] = ()


class NodeState(Wire, frozen=True, kw_only=True):
    """The part of NodeStatus that is read."""

    conditions: tuple[PodCondition, ...] = ()


class KubernetesNode(Wire, frozen=True, kw_only=True):
    """v1 Node."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeState = NodeState()
