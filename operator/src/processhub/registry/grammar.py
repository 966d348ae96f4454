"""The grammar of the entries of RegistrySlices. No other module reads or writes the text of an entry.

An entry of ``spec.entries``, which the operator writes, has its fields separated by one space::

    <uid> <epoch> <role> <workload hash> [wait] [asleep] [run=<epoch>] [to=<member>:<epoch>[:must]] [state=<checksum>]
        [restart=<policy>] [idle=<seconds>] [demand] [origin=<member>] [tags=<t>,<t>] [meta=<k>:<v>,<k>:<v>]
        [ask=<digest>] [ended=<report>]

- ``wait``: the child is on record, but must not be started yet, as on the target of a move whose source still runs.
- ``asleep`` (with ``wait``): the child waits because it is suspended. The entry keeps its place.
- ``run``: the epoch that the copy was started with, if it was promoted since. With its new role it got a new epoch, and
  it runs on.
- ``to``: the order to end and to hand the state to that member, whose waiting entry has that epoch; ``must``: without
  asking the child whether it may be moved.
- ``state``: the checksum of the state that the copy is started with.
- ``idle``: after so many seconds without a request the member reports the child Idle.
- ``demand``: the child was started by a request.
- ``origin`` (with ``demand``): the member that was asked first. The strategies Local and NotLocal go by it.
- ``ask``: the digest of the child as its user wrote it, if a hook changed it. While that is unchanged, the entry is
  kept.
- ``ended``: the report of a child that has ended for good and was moved since. The member reports the same end, and
  does not start it.

An entry of ``status.entries``, which the member writes::

    <uid> <epoch> <role> <state> <pid> <restarts> <startedAt> [reason=<reason>] [gave=<epoch>:<checksum>]
        [kept=<epoch>:<why>[:<text>]] [got=<checksum>] [claim=<member>] [view=<number>] [exit=<text>] [msg=<text>]

- ``gave``: the child has quiesced, and its state for that waiting entry was sent.
- ``kept``: the state was not sent, and why: the child ``refused``, is ``stateless``, or it ``failed``, with a text for
  people. On the target, ``lost`` means that the state was lost with an earlier agent: it must be sent again.
- ``got``: the whole state for this waiting entry has arrived.
- ``claim``: the run is a local takeover. The entry is that of the named member, which could not be reached.
- ``view``: the member has started the child by itself under the view of that number, and has no entry for it yet.

``-`` stands for an empty positional field. Values after ``=`` are percent-encoded. Readers ignore options that they
don't know, and accept them in any order: earlier agents wrote ``exit`` and ``msg`` before the options of a handover.
Both grammars are format 2. In the stored form of a status, children that run well are not in ``status.entries`` but in
groups (api/running.py); ``SliceStatus.reports`` has the texts of all.

Texts for people (``exit``, ``msg``, the text of ``kept``) are bounded, and cut further if a status becomes too large
for its object. Nothing else in a report is ever cut, because clients wait for it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

import msgspec

from processhub.api.reasons import State
from processhub.api.slice import FORMAT

_WAIT = " wait"  # options as they appear in a text; this one is the first
_DEMAND = " demand"
_TO = " to="
_STATE = " state="
NOBODY = "-"  # the uid of an entry that keeps an id on record until its end is proven
EXIT_BYTES, MESSAGE_BYTES, KEPT_BYTES = 1024, 2048, 512  # the longest texts for people in a report, percent-encoded
ENDED_BYTES = 512  # the longest of those in an entry's ``ended``


class EntryError(ValueError):
    """An entry that does not follow the grammar. The message quotes the text."""


class HandoverOrder(msgspec.Struct, frozen=True):
    """The value of an entry's ``to``: the target of the state, the epoch of its waiting entry, and ``must``."""

    member: str
    epoch: int
    must: bool = False

    @classmethod
    def parse(cls, text: str) -> HandoverOrder:
        """Parse the value of an entry's ``to``. Raises EntryError."""
        member, _, rest = text.partition(":")
        epoch, _, must = rest.partition(":")
        if not member or not epoch.isdecimal():
            raise EntryError(f"not an order to hand over: {text!r}")
        return cls(member, int(epoch), must == "must")

    def format(self) -> str:
        """The order as the entry contains it."""
        return f"{self.member}:{self.epoch}" + (":must" if self.must else "")


class Kept(msgspec.Struct, frozen=True):
    """The value of a report's ``kept``: the epoch of the waiting entry, and why the state was not handed over."""

    epoch: int
    why: str
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Kept | None:
        """Parse the value of a report's ``kept``; None if it is empty or can't be read."""
        epoch, _, rest = text.partition(":")
        why, _, said = rest.partition(":")
        return cls(int(epoch), why, unquote(said)) if epoch.isdecimal() else None

    def format(self) -> str:
        """The text as the report contains it."""
        text = _cut(_encode(self.text), KEPT_BYTES)
        return f"{self.epoch}:{self.why}" + (f":{text}" if text else "")


class Given(msgspec.Struct, frozen=True):
    """The value of a report's ``gave``: the epoch of the waiting entry, and the checksum of the state that was sent."""

    epoch: int
    checksum: str = ""

    @classmethod
    def parse(cls, text: str) -> Given | None:
        """Parse the value of a report's ``gave``; None if it is empty or can't be read."""
        epoch, _, checksum = text.partition(":")
        return cls(int(epoch), checksum) if epoch.isdecimal() else None

    def format(self) -> str:
        """The text as the report contains it."""
        return f"{self.epoch}:{self.checksum}"


class Assignment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One parsed entry of spec.entries: a child that this member is to run."""

    uid: str
    epoch: int
    role: str = "Active"
    workload: str
    wait: bool = False
    asleep: bool = False  # the child waits because it is suspended
    run: int = 0  # the epoch of the copy's start, if it is not ``epoch``
    to: str = ""
    state: str = ""
    restart_policy: str = "Permanent"
    idle_seconds: int = 0
    on_demand: bool = False
    origin: str = ""  # of a child on demand: the member that was asked first
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    asked: str = ""  # digest of the child before hooks changed it
    ended: str = ""  # format_end of the report by which the child is not started again

    @property
    def started_with(self) -> int:
        """The epoch of the incarnation that this entry names."""
        return self.run or self.epoch

    @property
    def of_nobody(self) -> bool:
        """Whether the entry stands for no child: it keeps the id on record until the end of its run is proven."""
        return self.uid == NOBODY


class Report(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One parsed entry of status.entries: a child that this member runs. ``started_at`` is RFC 3339 or empty."""

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
    view: int = 0


@functools.lru_cache(maxsize=256)  # a child in a crash loop ends with the same text each time
def _encode(value: str) -> str:
    # A lone surrogate, which an exception's text may contain, has no UTF-8.
    return quote(value, safe="/@+!$*;()[]{}'", errors="replace")


def _cut(encoded: str, most: int) -> str:
    """The beginning of a percent-encoded text: at most ``most`` bytes, in whole characters."""
    if len(encoded) <= most:
        return encoded
    if most <= 0:
        return ""
    return _encode(unquote_to_bytes(re.sub("%.?$", "", encoded[:most])).decode(errors="ignore"))


def format_assignment(entry: Assignment) -> str:
    """The text of a spec entry."""
    text = f"{entry.uid} {entry.epoch} {entry.role} {entry.workload}"
    if entry.wait:
        text += _WAIT
    if entry.asleep:
        text += " asleep"
    if entry.run:
        text += f" run={entry.run}"
    if entry.to:
        text += f"{_TO}{entry.to}"
    if entry.state:
        text += f"{_STATE}{entry.state}"
    if entry.restart_policy != "Permanent":
        text += f" restart={entry.restart_policy}"
    if entry.idle_seconds:
        text += f" idle={entry.idle_seconds}"
    if entry.on_demand:
        text += _DEMAND
    if entry.origin:
        text += f" origin={entry.origin}"
    if entry.tags:
        text += " tags=" + ",".join(map(_encode, entry.tags))
    if entry.metadata:
        text += " meta=" + ",".join(f"{_encode(key)}:{_encode(value)}" for key, value in entry.metadata)
    if entry.asked:
        text += f" ask={entry.asked}"
    if entry.ended:
        text += f" ended={entry.ended}"
    return text


def waits(text: str) -> bool:
    """Whether the spec entry does not order a start. The text is not parsed."""
    return f"{text} ".find(f"{_WAIT} ") > 0


def is_on_demand(text: str) -> bool:
    """Whether a request started the child of the spec entry. The text is not parsed."""
    return text.endswith(_DEMAND) or f"{_DEMAND} " in text


def hands_over(text: str) -> bool:
    """Whether the spec entry orders a handover. The text is not parsed."""
    return _TO in text


def names_state(text: str) -> bool:
    """Whether the spec entry names a state with which the child is started. The text is not parsed."""
    return _STATE in text


def uid_and_role(text: str) -> tuple[str, str]:
    """The uid and the role of an entry of spec or status. The rest is not parsed."""
    uid, _, role, _ = text.split(" ", 3)
    return uid, role


def workload_of(text: str) -> str:
    """The hash of the spec entry's workload. The rest is not parsed."""
    return text.split(" ", 4)[3]


def same_incarnation(text: str, other: str) -> bool:
    """Whether two entries of spec or status have the same uid and epoch. The rest is not parsed."""
    return text.split(" ", 2)[:2] == other.split(" ", 2)[:2]


def has_state(text: str, state: State) -> bool:
    """Whether the status entry reports the state. The text is not parsed."""
    return f" {state} " in text


def is_of_nobody(text: str) -> bool:
    """Whether the spec entry stands for no child. The text is not parsed."""
    return text.startswith(f"{NOBODY} ")


def is_by_view(text: str) -> bool:
    """Whether the member of the status entry has started the child by itself. The text is not parsed."""
    return " view=" in text


def parse_assignment(text: str) -> Assignment:
    """Parse a spec entry. Raises EntryError."""
    fields = text.split(" ")
    try:
        uid, epoch, role, workload = fields[:4]
        if len(fields) == 4:
            return Assignment(uid=uid, epoch=int(epoch), role=role, workload=workload)
        options: dict[str, Any] = {}
        for option in fields[4:]:
            name, _, value = option.partition("=")
            if (known := _OPTIONS.get(name)) is not None:
                field, read = known
                options[field] = read(value)
        return Assignment(uid=uid, epoch=int(epoch), role=role, workload=workload, **options)
    except ValueError as error:
        raise EntryError(f"not a spec entry of format {FORMAT}: {text!r}") from error


def _flag(_: str) -> bool:
    return True


def _tags(value: str) -> tuple[str, ...]:
    return tuple(map(unquote, value.split(",")))


def _pairs(value: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.partition(":") for pair in value.split(","))
    return tuple((unquote(key), unquote(text)) for key, _, text in pairs)


# The options of a spec entry: the field of Assignment, and how the value is read.
_OPTIONS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "wait": ("wait", _flag),
    "asleep": ("asleep", _flag),
    "run": ("run", int),
    "to": ("to", str),
    "state": ("state", str),
    "restart": ("restart_policy", str),
    "idle": ("idle_seconds", int),
    "demand": ("on_demand", _flag),
    "origin": ("origin", str),
    "tags": ("tags", _tags),
    "meta": ("metadata", _pairs),
    "ask": ("asked", str),
    "ended": ("ended", str),
}


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
    if entry.view:
        text += f" view={entry.view}"
    if entry.last_exit:
        text += f" exit={_cut(_encode(entry.last_exit), EXIT_BYTES)}"
    if entry.message:
        text += f" msg={_cut(_encode(entry.message), MESSAGE_BYTES)}"
    return text


def report_texts(text: str) -> list[int]:
    """The lengths, percent-encoded, of the texts for people in a status entry."""
    return [len(said) for _, said in map(_parted, text.split(" ")[7:]) if said]


def shorten_report(text: str, most: int) -> str:
    """Cut each text for people in a status entry to ``most`` bytes. Everything else stays whole."""
    fields = text.split(" ")
    for at in range(7, len(fields)):
        rest, said = _parted(fields[at])
        if said:
            said = _cut(said, most)
            fields[at] = rest + said if said else rest.rstrip(":") if rest.startswith("kept=") else ""
    return " ".join(filter(None, fields))


def _parted(field: str) -> tuple[str, str]:
    """Split an option of a status entry into the part that must stay and the text for people."""
    if field.startswith(("exit=", "msg=")):
        name, _, said = field.partition("=")
        return f"{name}=", said
    if field.startswith("kept="):
        epoch, _, rest = field.partition(":")
        why, parted, said = rest.partition(":")
        return f"{epoch}:{why}{parted}", said
    return field, ""


def parse_report(text: str) -> Report:
    """Parse a status entry. Raises EntryError."""
    fields = text.split(" ")
    try:
        uid, epoch, role, state, pid, restarts, started_at = fields[:7]
        options = dict(field.partition("=")[::2] for field in fields[7:]) if len(fields) > 7 else {}
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
            view=int(options.get("view", 0)),
        )
    except ValueError as error:
        raise EntryError(f"not a status entry of format {FORMAT}: {text!r}") from error


def format_end(report: Report) -> str:
    """The value of an entry's ``ended``: the report of a child that is not started again, with its texts cut."""
    end = msgspec.structs.replace(report, pid=0, gave="", kept="", got="", claim="", view=0)
    return _encode(shorten_report(format_report(end), ENDED_BYTES))


def parse_end(text: str) -> Report:
    """Parse the value of an entry's ``ended``. Raises EntryError."""
    return parse_report(unquote(text))
