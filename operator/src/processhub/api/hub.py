"""The Hub resource. The defaults equal the CRD's, which a test checks."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from processhub.api.child import ChildSpec, Workload
from processhub.api.hooks import Hook
from processhub.api.meta import Condition, ObjectMeta, Wire, find_condition
from processhub.api.naming import ANNOTATION_DRAINED
from processhub.api.reasons import Reason
from processhub.api.switches import parse_drained

AGENT_PORT = 8080  # of a member, unless members.port names another


class PythonModules(Wire, frozen=True, kw_only=True):
    """Modules from a ConfigMap on the children's Python path."""

    config_map: str = ""


class MemberAccount(Wire, frozen=True, kw_only=True):
    """The members' ServiceAccount: one of the user's own by ``name``, or the hub's own with these annotations."""

    name: str = ""
    annotations: dict[str, str] = {}


class Members(Wire, frozen=True, kw_only=True):
    """The members of the hub, which run its children."""

    mode: Literal["Replicas", "PerNode"] = "Replicas"
    replicas: int = 3
    max_children: int = 10000
    weights: dict[str, int] = {}
    image: str = ""
    python: PythonModules = PythonModules()
    service_account: MemberAccount = MemberAccount()
    port: int = AGENT_PORT
    template: dict[str, Any] = {}


class Rebalance(Wire, frozen=True, kw_only=True):
    """The moves after a join of a member, and their rate."""

    on_join: bool = True
    max_moves_per_second: int = 500


class DistributionSpec(Wire, frozen=True, kw_only=True):
    """How the hub chooses a member for each child."""

    strategy: str = "ConsistentHashing"
    load_cap_percent: int = 125
    not_local_fallback: Literal["Pending", "Local"] = "Pending"
    rebalance: Rebalance = Rebalance()


class RedundancySpec(Wire, frozen=True, kw_only=True):
    """How many copies a child has."""

    strategy: str = "Singularity"
    replication_factor: int | Literal["ClusterSize"] = 2
    replication_model: Literal["ActiveActive", "ActivePassive"] = "ActiveActive"
    redundancy_signal: Literal["None", "Active", "Passive", "All"] = "None"


class MigrationSpec(Wire, frozen=True, kw_only=True):
    """How a child is moved to another member."""

    strategy: str = "ColdSwap"
    handover_timeout_seconds: int = 15
    on_restart: Literal["Hold", "Move"] | None = None
    hold_seconds: int = 30

    @property
    def hands_over(self) -> bool:
        """Whether a child's state may be handed over at a move: with HotSwap, and as a user's own strategy decides."""
        return self.strategy != "ColdSwap"

    @property
    def holds(self) -> bool:
        """Whether a restarting member keeps its children."""
        if self.on_restart is not None:
            return self.on_restart == "Hold" and self.hold_seconds > 0
        return self.strategy == "ColdSwap" and self.hold_seconds > 0


class PartitionTolerance(Wire, frozen=True, kw_only=True):
    """The behaviour while members can't be reached."""

    strategy: str = "Divergence"
    quorum_size: int | None = None
    quorum_percent: int = 50
    threshold_seconds: int = 30


class Timeouts(Wire, frozen=True, kw_only=True):
    """The time limits, all in seconds."""

    start_seconds: int = 10
    stop_seconds: int = 10
    lease_seconds: int = 15
    request_seconds: int = 5


class Restarts(Wire, frozen=True, kw_only=True):
    """How many restarts of one child within a window make it Failed; with ``max`` 0 there is no limit."""

    max: int = 0
    window_seconds: int = 60


class OnDemand(Workload, frozen=True, kw_only=True):
    """The workload that a first request for an unknown id starts. ``max`` limits such children; None: no limit.

    ``max_failed`` children, or a share of them, may fail with a changed template before its roll-out stops. A child
    must be up for ``min_ready_seconds`` before another one is restarted in its place.
    """

    ttl_seconds: int | None = None
    idle_seconds: int | None = None
    max: int | None = None
    on_owner_lost: Literal["Wait", "Local"] = "Wait"
    max_failed: int | str = "10%"
    min_ready_seconds: int = 2


class HubSpec(Wire, frozen=True, kw_only=True):
    """The spec of a Hub."""

    members: Members = Members()
    distribution: DistributionSpec = DistributionSpec()
    redundancy: RedundancySpec = RedundancySpec()
    migration: MigrationSpec = MigrationSpec()
    partition_tolerance: PartitionTolerance = PartitionTolerance()
    timeouts: Timeouts = Timeouts()
    restarts: Restarts = Restarts()
    children: tuple[ChildSpec, ...] = ()
    on_demand: OnDemand | None = None
    suspend: bool = False
    hooks: tuple[Hook, ...] = ()

    @property
    def keeps_copies(self) -> bool:
        """Whether the hub may keep more than one copy of a child."""
        return self.redundancy.strategy != "Singularity" or self.distribution.strategy == "ForEach"

    @property
    def keeps_standbys(self) -> bool:
        """Whether only one of a child's copies is active."""
        return self.redundancy.strategy != "Singularity" and self.redundancy.replication_model == "ActivePassive"


class Summary(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """Two texts for the printer columns, such as ``3/3`` and ``12/12``."""

    members: str = ""
    children: str = ""


class MemberStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The status of one member."""

    name: str
    pod: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    port: int = AGENT_PORT
    node: str = ""
    ready: bool = False
    message: str = ""
    drained: bool = False
    weight: int = 1
    children: int = 0
    cpu: str = ""
    memory: str = ""


class ChildCounts(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The number of children by state."""

    desired: int = 0
    running: int = 0
    pending: int = 0
    failed: int = 0


class Quorum(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The number of members that are required, that are live now, and that were live at most."""

    required: int = 0
    live: int = 0
    largest_seen: int = 0


class RegistryNode(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One copy of a child in Hub.status.registry."""

    name: str
    pod: str = ""
    role: str = "Active"
    state: str = "Pending"
    pid: int = 0
    epoch: int = 0


class RegistryEntry(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One child in Hub.status.registry."""

    id: str
    nodes: tuple[RegistryNode, ...] = ()


class RejectedHook(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A hook that a client registered, and why it is not called."""

    name: str
    message: str = ""


class HookStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The names of the hooks that are called, and those that can't be; ``observed``: of which annotation."""

    in_effect: tuple[str, ...] = ()
    rejected: tuple[RejectedHook, ...] = ()
    observed: str = ""


class TlsStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The TLS of a hub's members, where the chart's ``tls.enabled`` is true.

    ``required``: all members accept TLS, and refuse requests without it. ``server_name``: the name for which their
    certificates are valid. ``authorities``: the certificates (PEM) by which they are verified. ``message``: what is
    waited for, or "".
    """

    required: bool = False
    server_name: str = ""
    authorities: str = ""
    message: str = ""


class HubStatus(Wire, frozen=True, kw_only=True):
    """The status of a Hub, which the operator writes. A count is None before the first round, and then a number."""

    conditions: tuple[Condition, ...] = ()
    observed_generation: int = -1
    term: int = 0
    replicas: int | None = None
    ready_replicas: int | None = None
    selector: str = ""
    summary: Summary | None = None
    members: tuple[MemberStatus, ...] = ()
    children: ChildCounts | None = None
    quorum: Quorum | None = None
    registry: tuple[RegistryEntry, ...] = ()
    registry_size: int | None = None
    hooks: HookStatus | None = None
    tls: TlsStatus | None = None


class Hub(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A hub of equal members that share children."""

    api_version: str = "processhub.dev/v1alpha1"
    kind: str = "Hub"
    metadata: ObjectMeta
    spec: HubSpec = HubSpec()
    status: HubStatus = HubStatus()

    @property
    def partitioned(self) -> str:
        """Why the hub has lost its quorum, by its condition; "" if it has not."""
        quorate = find_condition(self.status.conditions, "Quorate")
        if quorate is None or quorate.status != "False" or quorate.reason != Reason.PARTITIONED:
            return ""
        return quorate.message or "too few members are live"

    @property
    def drained(self) -> dict[str, bool]:
        """The members that are ordered to be drained, and whether by force."""
        return parse_drained(self.metadata.annotations.get(ANNOTATION_DRAINED, ""))
