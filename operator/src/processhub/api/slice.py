"""The RegistrySlice resource and the grammar of its entries: the only place that reads or writes them.

An entry of ``spec.entries`` (the operator's word), fields parted by one space::

    <uid> <epoch> <role> <workload hash> [wait] [restart=<policy>] [tags=<t>,<t>] [meta=<k>:<v>,<k>:<v>]

``wait`` means: on record, not to be started yet (the target of a move whose source still runs).

An entry of ``status.entries`` (the member's word)::

    <uid> <epoch> <role> <state> <pid> <restarts> <startedAt> [reason=<reason>] [exit=<text>] [msg=<text>]

``-`` stands for an empty positional field; values after ``=`` are percent-encoded. Readers ignore
options that they don't know. Both grammars are format 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, unquote

import msgspec
import xxhash

from processhub.api.child import Exec, PodWorkload, Python, Workload
from processhub.api.meta import ObjectMeta, Wire

FORMAT = 1
EPOCHS_PER_TERM = 10**9
MAX_ENTRIES = 1000
MAX_BYTES = 512 * 1024

_encoder = msgspec.json.Encoder(order="sorted")
_workload_decoder = msgspec.json.Decoder(Workload)


class EntryError(ValueError):
    """An entry that does not follow the grammar; the message names the text."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed entry of spec.entries: this member shall run that child."""

    uid: str
    epoch: int
    role: str = "Active"
    workload: str
    wait: bool = False
    restart_policy: str = "Permanent"
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed entry of status.entries: what this member runs. ``started_at`` is RFC 3339 or empty."""

    uid: str
    epoch: int
    role: str = "Active"
    state: str = "Pending"
    pid: int = 0
    restarts: int = 0
    started_at: str = ""
    reason: str = ""
    last_exit: str = ""
    message: str = ""


class Settings(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """What a member needs to know of its Hub, in seconds; ``fence`` is true with a quorum strategy."""

    start_seconds: int = 10
    stop_seconds: int = 10
    lease_seconds: int = 15
    restarts_max: int = 0
    restarts_window_seconds: int = 60
    fence: bool = False


class SliceSpec(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The operator's word on what a member shall run.

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
    settings: Settings = Settings()
    workloads: dict[str, str] = {}
    entries: dict[str, str] = {}


class SliceStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A member's word on what it runs."""

    observed_generation: int = 0
    holder: str = ""
    entries: dict[str, str] = {}


class RegistrySlice(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A part of the registry: what one member shall run (spec) and runs (status)."""

    api_version: str = "processhub.dev/v1alpha1"
    kind: str = "RegistrySlice"
    metadata: ObjectMeta
    spec: SliceSpec
    status: SliceStatus = SliceStatus()


def _encode(value: str) -> str:
    return quote(value, safe="/@+!$*;()[]{}'")


def _options(fields: list[str]) -> Iterator[tuple[str, str]]:
    for field in fields:
        name, _, value = field.partition("=")
        yield name, value


def format_assignment(entry: Assignment) -> str:
    """The text of a spec entry."""
    text = f"{entry.uid} {entry.epoch} {entry.role} {entry.workload}"
    if entry.wait:
        text += " wait"
    if entry.restart_policy != "Permanent":
        text += f" restart={entry.restart_policy}"
    if entry.tags:
        text += " tags=" + ",".join(map(_encode, entry.tags))
    if entry.metadata:
        text += " meta=" + ",".join(f"{_encode(key)}:{_encode(value)}" for key, value in entry.metadata)
    return text


def parse_assignment(text: str) -> Assignment:
    """The parsed spec entry. Raises EntryError."""
    fields = text.split(" ")
    try:
        uid, epoch, role, workload = fields[:4]
        wait, restart_policy = False, "Permanent"
        tags: tuple[str, ...] = ()
        metadata: tuple[tuple[str, str], ...] = ()
        for name, value in _options(fields[4:]):
            if name == "wait":
                wait = True
            elif name == "restart":
                restart_policy = value
            elif name == "tags":
                tags = tuple(map(unquote, value.split(",")))
            elif name == "meta":
                pairs = (pair.partition(":") for pair in value.split(","))
                metadata = tuple((unquote(key), unquote(text)) for key, _, text in pairs)
        return Assignment(
            uid=uid,
            epoch=int(epoch),
            role=role,
            workload=workload,
            wait=wait,
            restart_policy=restart_policy,
            tags=tags,
            metadata=metadata,
        )
    except ValueError as error:
        raise EntryError(f"not a spec entry of format {FORMAT}: {text!r}") from error


def format_report(entry: Report) -> str:
    """The text of a status entry."""
    text = (
        f"{entry.uid} {entry.epoch} {entry.role} {entry.state} {entry.pid or '-'} {entry.restarts}"
        f" {entry.started_at or '-'}"
    )
    if entry.reason:
        text += f" reason={entry.reason}"
    if entry.last_exit:
        text += f" exit={_encode(entry.last_exit)}"
    if entry.message:
        text += f" msg={_encode(entry.message)}"
    return text


def parse_report(text: str) -> Report:
    """The parsed status entry. Raises EntryError."""
    fields = text.split(" ")
    try:
        uid, epoch, role, state, pid, restarts, started_at = fields[:7]
        options = dict(_options(fields[7:])) if len(fields) > 7 else {}
        return Report(
            uid=uid,
            epoch=int(epoch),
            role=role,
            state=state,
            pid=0 if pid == "-" else int(pid),
            restarts=int(restarts),
            started_at="" if started_at == "-" else started_at,
            reason=options.get("reason", ""),
            last_exit=unquote(options.get("exit", "")),
            message=unquote(options.get("msg", "")),
        )
    except ValueError as error:
        raise EntryError(f"not a status entry of format {FORMAT}: {text!r}") from error


def encode_workload(workload: Workload) -> tuple[str, str]:
    """``(hash, canonical JSON)`` of what a child runs; equal workloads have equal texts."""
    bare = Workload(exec=workload.exec, python=workload.python, pod=workload.pod)
    text = _encoder.encode(bare)
    return xxhash.xxh3_64_hexdigest(text), text.decode()


def is_pod_workload(text: str) -> bool:
    """Whether the canonical JSON is that of a pod child; decodes nothing."""
    return text.startswith('{"pod":')


def decode_workload(text: str) -> Exec | Python | PodWorkload:
    """The workload of a slice's ``workloads``. Raises EntryError where it names none."""
    try:
        workload = _workload_decoder.decode(text)
    except msgspec.DecodeError as error:
        raise EntryError(f"not a workload: {text[:200]!r}: {error}") from error
    chosen = workload.exec or workload.python or workload.pod
    if chosen is None:
        raise EntryError(f"a workload without exec, python or pod: {text[:200]!r}")
    return chosen
