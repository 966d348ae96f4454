"""The RegistrySlice resource and the grammar of its entries: the only place that reads or writes them.

An entry of ``spec.entries`` (the operator's word), fields parted by one space::

    <uid> <epoch> <role> <workload hash> [wait] [asleep] [run=<epoch>] [to=<member>:<epoch>[:must]] [state=<checksum>]
        [restart=<policy>] [idle=<seconds>] [demand] [tags=<t>,<t>] [meta=<k>:<v>,<k>:<v>] [ask=<digest>]

``wait`` means: on record, not to be started yet (the target of a move whose source still runs); with ``asleep``:
because the child is suspended, so that it keeps its place. ``run`` is the epoch that the copy was started with, where
it was promoted since: it got a new epoch with its role and runs on. ``to`` is the order to end and hand the state to
that member, whose waiting entry has that epoch; ``must``: without asking the child whether it may be moved. ``state``
is the checksum of the state that the copy is started with. After ``idle`` seconds without a request the member reports
the child Idle; ``demand`` marks one that a request started. ``ask`` is the digest of the child as its user wrote it,
where a hook changed it: as long as that stands, so does the entry.

An entry of ``status.entries`` (the member's word)::

    <uid> <epoch> <role> <state> <pid> <restarts> <startedAt> [reason=<reason>] [gave=<epoch>:<checksum>]
        [kept=<epoch>:<why>[:<text>]] [got=<checksum>] [claim=<member>] [exit=<text>] [msg=<text>]

``gave``: quiesced, and the state for that waiting entry was sent; ``kept``: it was not, and why: the child ``refused``,
is ``stateless``, or it ``failed``, with a text for people; ``got``: the state for this waiting entry is here, whole. On
the target ``kept`` says that the state came and was ``lost`` with the agent that had it: it waits to be sent once more.
``claim``: no entry of this member's says so, but that of the named one, which could not be reached.

``-`` stands for an empty positional field; values after ``=`` are percent-encoded. Readers ignore
options that they don't know and take them in any order: earlier agents wrote ``exit`` and ``msg`` before the words
of a handover. Both grammars are format 1.

The texts for people (``exit``, ``msg``, the text of ``kept``) are bounded, and cut further where a status outgrows its
object; everything else of a report is never cut, for somebody waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote, unquote_to_bytes

import msgspec
import xxhash

from processhub.api.child import Exec, PodWorkload, Python, Workload
from processhub.api.meta import ObjectMeta, Wire

FORMAT = 1
EPOCHS_PER_TERM = 10**9
MAX_ENTRIES = 1000
_WAIT_OPTION = " wait"  # first of the options
DEMAND_OPTION = " demand"  # as it stands in a spec entry, for counting without parsing
MAX_BYTES = 512 * 1024
EXIT_BYTES, MESSAGE_BYTES, KEPT_BYTES = 1024, 2048, 512  # of a report's texts for people, percent-encoded

_wire = msgspec.json.Encoder().encode
_encoder = msgspec.json.Encoder(order="sorted")
_workload_decoder = msgspec.json.Decoder(Workload)


class EntryError(ValueError):
    """An entry that does not follow the grammar; the message names the text."""


class HandoverOrder(msgspec.Struct, frozen=True):
    """What an entry's ``to`` says: to whom the state goes, for which waiting entry's epoch, and whether unasked."""

    member: str
    epoch: int
    must: bool = False

    @classmethod
    def parse(cls, text: str) -> HandoverOrder:
        """The order. Raises EntryError."""
        member, _, rest = text.partition(":")
        epoch, _, must = rest.partition(":")
        if not member or not epoch.isdecimal():
            raise EntryError(f"not an order to hand over: {text!r}")
        return cls(member, int(epoch), must == "must")

    def text(self) -> str:
        """As the entry holds it."""
        return f"{self.member}:{self.epoch}" + (":must" if self.must else "")


class Kept(msgspec.Struct, frozen=True):
    """What a report's ``kept`` says: for which waiting entry's epoch a state was not handed over, and why."""

    epoch: int
    why: str
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Kept | None:
        """What it says; None where it says nothing that can be read."""
        epoch, _, rest = text.partition(":")
        why, _, said = rest.partition(":")
        return cls(int(epoch), why, unquote(said)) if epoch.isdecimal() else None

    def format(self) -> str:
        """As the report holds it."""
        text = _cut(_encode(self.text), KEPT_BYTES)
        return f"{self.epoch}:{self.why}" + (f":{text}" if text else "")


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed entry of spec.entries: this member shall run that child."""

    uid: str
    epoch: int
    role: str = "Active"
    workload: str
    wait: bool = False
    asleep: bool = False  # it waits because the child is suspended
    run: int = 0  # the epoch of its start where that is not ``epoch``
    to: str = ""
    state: str = ""
    restart_policy: str = "Permanent"
    idle_seconds: int = 0
    on_demand: bool = False
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    asked: str = ""  # digest of the child as it was before hooks changed it

    @property
    def started_with(self) -> int:
        """The epoch of the incarnation that this entry means."""
        return self.run or self.epoch


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
    gave: str = ""
    kept: str = ""
    got: str = ""
    claim: str = ""


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


def _encode(value: str) -> str:
    # A lone surrogate, as an exception's text may have one, has no UTF-8.
    return quote(value, safe="/@+!$*;()[]{}'", errors="replace")


def _cut(encoded: str, most: int) -> str:
    """The beginning of a percent-encoded text that takes ``most`` bytes at most, in whole characters."""
    if len(encoded) <= most:
        return encoded
    if most <= 0:
        return ""
    return _encode(unquote_to_bytes(re.sub("%.?$", "", encoded[:most])).decode(errors="ignore"))


def stored_bytes(value: object) -> int:
    """The bytes of a string, struct or mapping in the JSON that the API server stores.

    Beside what JSON escapes it writes ``<``, ``>``, ``&`` and the two Unicode line ends as six bytes each.
    """
    text = _wire(value)
    escaped = 5 * (text.count(b"<") + text.count(b">") + text.count(b"&"))
    return len(text) + escaped + 3 * (text.count(b"\xe2\x80\xa8") + text.count(b"\xe2\x80\xa9"))


def _options(fields: list[str]) -> Iterator[tuple[str, str]]:
    for field in fields:
        name, _, value = field.partition("=")
        yield name, value


def format_assignment(entry: Assignment) -> str:
    """The text of a spec entry."""
    text = f"{entry.uid} {entry.epoch} {entry.role} {entry.workload}"
    if entry.wait:
        text += _WAIT_OPTION
    if entry.asleep:
        text += " asleep"
    if entry.run:
        text += f" run={entry.run}"
    if entry.to:
        text += f" to={entry.to}"
    if entry.state:
        text += f" state={entry.state}"
    if entry.restart_policy != "Permanent":
        text += f" restart={entry.restart_policy}"
    if entry.idle_seconds:
        text += f" idle={entry.idle_seconds}"
    if entry.on_demand:
        text += DEMAND_OPTION
    if entry.tags:
        text += " tags=" + ",".join(map(_encode, entry.tags))
    if entry.metadata:
        text += " meta=" + ",".join(f"{_encode(key)}:{_encode(value)}" for key, value in entry.metadata)
    if entry.asked:
        text += f" ask={entry.asked}"
    return text


def waits(text: str) -> bool:
    """Whether the spec entry is no order to start; without parsing it."""
    return f"{text} ".find(f"{_WAIT_OPTION} ") > 0


def parse_assignment(text: str) -> Assignment:
    """The parsed spec entry. Raises EntryError."""
    fields = text.split(" ")
    try:
        uid, epoch, role, workload = fields[:4]
        wait, asleep, run, to, state, restart_policy, asked = False, False, 0, "", "", "Permanent", ""
        idle_seconds, on_demand = 0, False
        tags: tuple[str, ...] = ()
        metadata: tuple[tuple[str, str], ...] = ()
        for name, value in _options(fields[4:]):
            if name == "wait":
                wait = True
            elif name == "asleep":
                asleep = True
            elif name == "run":
                run = int(value)
            elif name == "to":
                to = value
            elif name == "state":
                state = value
            elif name == "restart":
                restart_policy = value
            elif name == "idle":
                idle_seconds = int(value)
            elif name == "demand":
                on_demand = True
            elif name == "tags":
                tags = tuple(map(unquote, value.split(",")))
            elif name == "meta":
                pairs = (pair.partition(":") for pair in value.split(","))
                metadata = tuple((unquote(key), unquote(text)) for key, _, text in pairs)
            elif name == "ask":
                asked = value
        return Assignment(
            uid=uid,
            epoch=int(epoch),
            role=role,
            workload=workload,
            wait=wait,
            asleep=asleep,
            run=run,
            to=to,
            state=state,
            restart_policy=restart_policy,
            idle_seconds=idle_seconds,
            on_demand=on_demand,
            tags=tags,
            metadata=metadata,
            asked=asked,
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
    if entry.gave:
        text += f" gave={entry.gave}"
    if entry.kept:
        text += f" kept={entry.kept}"
    if entry.got:
        text += f" got={entry.got}"
    if entry.claim:
        text += f" claim={entry.claim}"
    if entry.last_exit:
        text += f" exit={_cut(_encode(entry.last_exit), EXIT_BYTES)}"
    if entry.message:
        text += f" msg={_cut(_encode(entry.message), MESSAGE_BYTES)}"
    return text


def report_texts(text: str) -> list[int]:
    """The lengths, percent-encoded, of what a status entry has for people alone."""
    return [len(said) for _, said in map(_parted, text.split(" ")[7:]) if said]


def shorten_report(text: str, most: int) -> str:
    """The status entry with at most ``most`` bytes of each text for people; what somebody waits for stays whole."""
    fields = text.split(" ")
    for at in range(7, len(fields)):
        rest, said = _parted(fields[at])
        if said:
            said = _cut(said, most)
            fields[at] = rest + said if said else rest.rstrip(":") if rest.startswith("kept=") else ""
    return " ".join(filter(None, fields))


def _parted(field: str) -> tuple[str, str]:
    """An option of a status entry as what must stay and what is for people alone."""
    if field.startswith(("exit=", "msg=")):
        name, _, said = field.partition("=")
        return f"{name}=", said
    if field.startswith("kept="):
        epoch, _, rest = field.partition(":")
        why, parted, said = rest.partition(":")
        return f"{epoch}:{why}{parted}", said
    return field, ""


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
            gave=options.get("gave", ""),
            kept=options.get("kept", ""),
            got=options.get("got", ""),
            claim=options.get("claim", ""),
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
