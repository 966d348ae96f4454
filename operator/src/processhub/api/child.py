"""The Child resource. The defaults equal the CRD's, which a test checks."""

from __future__ import annotations

from typing import Any, Literal

from processhub.api.meta import Condition, EnvVar, ObjectMeta, Wire


class Liveness(Wire, frozen=True, kw_only=True):
    """How a hanging process is noticed: by GET on HUB_SOCKET, or by a command; one of them is set."""

    http: str = ""
    command: tuple[str, ...] = ()
    period_seconds: int = 10
    timeout_seconds: int = 1
    failure_threshold: int = 3


class ActorLiveness(Wire, frozen=True, kw_only=True):
    """How a hanging actor is noticed: a handler that runs for longer is a crash."""

    handler_seconds: int


class EnvSource(Wire, frozen=True, kw_only=True):
    """Where the value of an environment variable comes from: a file of the member's container."""

    file: str


class ChildEnvVar(EnvVar, frozen=True, kw_only=True):
    """An environment variable of a child: ``value``, or what the file of ``value_from`` has at each start."""

    value_from: EnvSource | None = None


class Exec(Wire, frozen=True, kw_only=True):
    """A child that is a process."""

    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    env: tuple[ChildEnvVar, ...] = ()
    working_dir: str = ""
    stop_signal: str = "SIGTERM"
    stop_target: str = "Group"
    role_signal: str = ""
    liveness: Liveness | None = None


class Python(Wire, frozen=True, kw_only=True):
    """A child that is an Actor in a runner process; ``target`` is ``module:Class``."""

    target: str
    args: dict[str, Any] = {}
    env: tuple[ChildEnvVar, ...] = ()
    liveness: ActorLiveness | None = None


class PodWorkload(Wire, frozen=True, kw_only=True):
    """A child that is a Pod of its own."""

    template: dict[str, Any] = {}
    port: int = 8080


class Workload(Wire, frozen=True, kw_only=True):
    """The workload of a child. Exactly one field is set."""

    exec: Exec | None = None
    python: Python | None = None
    pod: PodWorkload | None = None


class ChildSpec(Workload, frozen=True, kw_only=True):
    """The spec of a Child. ``hub`` is empty in a Hub's static children."""

    hub: str = ""
    id: str = ""
    nodes: tuple[str, ...] = ()
    origin: str = ""
    pinned: bool = False
    suspend: bool = False
    restart_policy: Literal["Permanent", "Transient", "Temporary"] = "Permanent"
    ttl_seconds: int | None = None
    idle_seconds: int | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}


class NodeStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The status of one copy of a child, on the member ``name``."""

    name: str
    pod: str = ""
    role: str = "Active"
    state: str = "Pending"
    pid: int = 0
    epoch: int = 0
    restarts: int = 0
    started_at: str = ""
    last_exit: str = ""


class ChildStatus(Wire, frozen=True, kw_only=True):
    """The status of a Child, which the operator writes."""

    conditions: tuple[Condition, ...] = ()
    observed_generation: int = -1
    id: str = ""
    member: str = ""
    role: str = ""
    state: str = ""
    first_started_at: str = ""
    nodes: tuple[NodeStatus, ...] = ()


class Child(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A small, named, stateful worker of a hub."""

    api_version: str = "processhub.dev/v1alpha1"
    kind: str = "Child"
    metadata: ObjectMeta
    spec: ChildSpec
    status: ChildStatus = ChildStatus()

    @property
    def id(self) -> str:
        """The child's id in its hub: spec.id, else the object's name."""
        return self.spec.id or self.metadata.name

    def known_as(self, hub: str) -> str:
        """What the object is to somebody who gives its name for an id of this hub, as a clause; "" if that is its id.

        kubectl shows names, which need not be ids, and shows the Children of a misspelt hub like all others.
        """
        if self.spec.hub != hub:
            return f"child/{self.metadata.name} is of hub {self.spec.hub!r}"
        return f"child/{self.metadata.name} has the id {self.id!r}" if self.id != self.metadata.name else ""
