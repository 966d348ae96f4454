"""The RegistrySlice resource: which children a member shall run, and which it runs.

The grammar of its entries is in registry/grammar.py.
"""

from __future__ import annotations

import msgspec

from processhub.api.meta import ObjectMeta, Wire

FORMAT = 1  # of the entries
EPOCHS_PER_TERM = 10**9
MAX_ENTRIES = 1000
MAX_BYTES = 512 * 1024

_wire = msgspec.json.Encoder().encode


class Settings(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """What a member needs to know of its Hub, in seconds.

    ``fence`` is true with a quorum strategy; ``redundancy_signal`` says which roles a child is told of; ``on_demand``
    whether a first request starts a child, and ``on_demand_max`` how many of those there may be (0: no limit).
    ``partitioned``: the hub has lost its quorum; whatever its entries say, the member runs nothing.
    ``handover_seconds`` is how long a handover of state may take, 0 where none is made (ColdSwap).
    ``on_owner_lost_local``: the hub's onDemand.onOwnerLost is Local.
    """

    start_seconds: int = 10
    stop_seconds: int = 10
    lease_seconds: int = 15
    request_seconds: int = 5
    restarts_max: int = 0
    restarts_window_seconds: int = 60
    fence: bool = False
    partitioned: bool = False
    redundancy_signal: str = "None"
    on_demand: bool = False
    on_demand_max: int = 0
    handover_seconds: int = 0
    on_owner_lost_local: bool = False


class SliceSpec(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The operator's word on what a member shall run.

    ``attempt`` rises where the outcome of a write is unknown. A write is made on a generation: with the next one no
    write on the one before can land any more, whatever it says.

    ``holder``: the Lease holder (``<pod uid>/<start nonce>``) that the entries were granted to; an agent whose own
    holder identity is another starts nothing from the slice. Empty (hubs with onRestart Hold): any holder may.
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
    workloads: dict[str, str] = {}
    entries: dict[str, str] = {}


class SliceStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A member's word on what it runs, and where it takes requests: ``address`` is its pod's IP, "" where unknown."""

    observed_generation: int = 0
    holder: str = ""
    address: str = ""
    entries: dict[str, str] = {}


class RegistrySlice(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A part of the registry: what one member shall run (spec) and runs (status)."""

    api_version: str = "processhub.dev/v1alpha1"
    kind: str = "RegistrySlice"
    metadata: ObjectMeta
    spec: SliceSpec
    status: SliceStatus = SliceStatus()


def stored_bytes(value: object) -> int:
    """The bytes of a string, struct or mapping in the JSON that the API server stores.

    Beside what JSON escapes it writes ``<``, ``>``, ``&`` and the two Unicode line ends as six bytes each.
    """
    text = _wire(value)
    escaped = 5 * (text.count(b"<") + text.count(b">") + text.count(b"&"))
    return len(text) + escaped + 3 * (text.count(b"\xe2\x80\xa8") + text.count(b"\xe2\x80\xa9"))
