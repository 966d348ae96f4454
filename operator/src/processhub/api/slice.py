"""The RegistrySlice resource: the children that a member is to run, and those that it runs.

The grammar of the entries is in registry/grammar.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec

from processhub.api.meta import ObjectMeta, Wire
from processhub.api.running import RunningGroup, grouped, whole_reports

FORMAT = 2  # the format of the entries
EPOCHS_PER_TERM = 10**9
TERM_MAX = 9_000_000  # By the schema: readers of JSON round no epoch of it.
MAX_ENTRIES = 1000
MAX_REPORTS = 10_000  # of a slice 0 with the children that its member has started by itself
MAX_BYTES = 512 * 1024
MAX_ASKS = 1000  # the ids that a member asks for at once

_wire = msgspec.json.Encoder().encode


class Settings(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The part of its Hub's spec that a member needs; times are in seconds.

    ``fence`` is true with a quorum strategy. ``redundancy_signal`` says for which roles a child is signalled.
    ``max_children``: how many children a member may have. ``on_demand`` says whether a first request starts a child,
    and ``on_demand_max`` how many such children there may be (0: no limit). ``partitioned``: the hub has lost its
    quorum, and the member runs nothing, whatever its entries say. ``suspended``: the hub's spec.suspend is true, and no
    request starts a child. ``handover_seconds`` limits a handover of state; 0 if
    there is none (ColdSwap). ``on_owner_lost_local``: the hub's onDemand.onOwnerLost is Local.
    """

    start_seconds: int = 10
    stop_seconds: int = 10
    lease_seconds: int = 15
    request_seconds: int = 5
    restarts_max: int = 0
    restarts_window_seconds: int = 60
    fence: bool = False
    partitioned: bool = False
    suspended: bool = False
    redundancy_signal: str = "None"
    max_children: int = 10_000
    on_demand: bool = False
    on_demand_max: int = 0
    handover_seconds: int = 0
    on_owner_lost_local: bool = False


class ViewMember(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A member of a view, with its weight."""

    name: str
    weight: int


class Activation(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """What a member may start by itself (docs/protocol.md, rules 26 to 33).

    - ``view``: the number of the view. ``phase``: Open, or Closing, when nothing more may be started under it.
    - ``strategy`` and ``members``: by them each id has one member that may start it. The members are in ordinal order.
    - ``holder``: the holder of the Lease that the epochs are granted to, ``first_epoch`` to ``last_epoch``.
    - ``most``: how many children on demand the hub may have; 0: no limit. ``share``: how many of them the member may.
    - ``entry``: the entry of what is started, with epoch 0. ``workload``: its workload.
    """

    view: int
    phase: str
    strategy: str = "ConsistentHashing"
    members: tuple[ViewMember, ...] = ()
    holder: str = ""
    first_epoch: int = 0
    last_epoch: int = 0
    share: int = 0
    most: int = 0
    entry: str = ""
    workload: str = ""


class SliceTls(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The TLS of one member, in its slice 0. All texts are PEM, and empty where the chart's ``tls.enabled`` is false.

    ``authorities``: the certificates of the authorities whose signature on a member's certificate is valid.
    ``certificate``: the member's own, for the key of its latest request. ``required``: requests without TLS are
    refused.
    """

    authorities: str = ""
    certificate: str = ""
    required: bool = False


class SliceSpec(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The spec of a slice, which the operator writes: the children that the member is to run.

    ``attempt`` is raised if the outcome of a write is unknown. Each write tests the slice's generation, so after the
    next one no earlier write can be stored any more.

    ``holder``: the holder of the Lease (``<pod uid>/<start nonce>``) to which the entries were granted. An agent with
    another identity starts nothing from the slice. If it is empty (hubs with onRestart Hold), any holder may.

    ``activation`` is in slice 0 only, if the hub has a view.
    """

    hub: str
    hub_uid: str
    member: str
    mode: str = "Replicas"
    holder: str = ""
    term: int
    format: int = FORMAT
    attempt: int = 0
    settings: Settings = Settings()
    tls: SliceTls = SliceTls()
    workloads: dict[str, str] = {}
    entries: dict[str, str] = {}
    activation: Activation | msgspec.UnsetType = msgspec.UNSET

    @property
    def order(self) -> Activation | None:
        """What the member may start by itself; None if the slice says nothing of that."""
        return None if isinstance(self.activation, msgspec.UnsetType) else self.activation


class TlsReport(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The TLS of one member as its agent reports it, in slice 0.

    ``request``: a certificate signing request (PEM), "" before there is one. ``offered``: whether the member accepts
    TLS at its address.
    """

    request: str = ""
    offered: bool = False


class SliceStatus(Wire, frozen=True, kw_only=True, omit_defaults=False, dict=True):
    """The status of a slice, which its member writes.

    ``address`` is the IP of the member's pod, "" if unknown. ``port``: where the member accepts requests. ``asks``, in
    slice 0 only: the ids that requests wait for here and that the operator is to place on demand, sorted.
    ``lease_refused``, in slice 0 only: why the API server does not store the member's Lease.

    ``running`` and ``entries`` are the stored form of ``reports``: the children that run well, and all others. Nobody
    reads them by themselves.
    """

    observed_generation: int = 0
    holder: str = ""
    address: str = ""
    port: int = 8080
    tls: TlsReport = TlsReport()
    asks: tuple[str, ...] = ()
    lease_refused: str = ""
    running: tuple[RunningGroup, ...] = ()
    entries: dict[str, str] = {}

    @cached_property
    def reports(self) -> Mapping[str, str]:
        """The reports of all children, by id, in the grammar of registry/grammar.py. A child not listed has ended."""
        return whole_reports(self.running, self.entries) if self.running else self.entries

    def reporting(self, reports: Mapping[str, str]) -> SliceStatus:
        """The status with these reports instead, in their stored form."""
        running, entries = grouped(reports)
        return msgspec.structs.replace(self, running=running, entries=entries)


class RegistrySlice(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A part of the registry: the children that one member is to run (spec) and runs (status)."""

    api_version: str = "processhub.dev/v1alpha1"
    kind: str = "RegistrySlice"
    metadata: ObjectMeta
    spec: SliceSpec
    status: SliceStatus = SliceStatus()


def stored_bytes(value: object) -> int:
    """The bytes of a string, struct or mapping in the JSON that the API server stores.

    Besides the characters that JSON escapes, it writes ``<``, ``>``, ``&`` and the two Unicode line ends as six bytes
    each.
    """
    text = _wire(value)
    escaped = 5 * (text.count(b"<") + text.count(b">") + text.count(b"&"))
    return len(text) + escaped + 3 * (text.count(b"\xe2\x80\xa8") + text.count(b"\xe2\x80\xa9"))
