"""``kubectl hub logs``: a child's own lines from its member pod's log, or the log of its own Pod."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from processhub.cli.durations import seconds
from processhub.cli.errors import DONE, FAILED, CliError
from processhub.cli.output import out, say
from processhub.cli.podlog import pod_log
from processhub.cli.shared import Output, Target
from processhub.cli.show import on_record, own_pod, pod_of
from processhub.cli.target import opened, unreachable_member
from processhub.client.records import Node
from processhub.client.session import Session
from processhub.cluster.errors import ApiError, NotFoundError

_CONTAINER = "agent"


class _LogLine(msgspec.Struct):
    child: str = ""
    hub: str = ""
    time: str = ""
    stream: str = ""  # the agent's own lines about a child have none
    message: str = ""
    begin: bool = False  # the agent's first line


_decoder = msgspec.json.Decoder(_LogLine)


class Wanted(NamedTuple):
    """The lines to print: the last ``tail``, those since so long ago, those that follow; each with its time."""

    follow: bool = False
    tail: int | None = None
    since: str | None = None
    timestamps: bool = False


def begin_of(wanted: Wanted, now: datetime) -> datetime | None:
    """The time from which on lines are wanted, None for all. Raises UsageError."""
    return now - timedelta(seconds=seconds(wanted.since, "--since")) if wanted.since else None


async def logs(child_id: str, target: Target, wanted: Wanted) -> int:
    """Print the lines that the child itself wrote on its present member; returns the exit code."""
    begin = begin_of(wanted, datetime.now(UTC))
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        node = record.nodes[0]
        pod = await own_pod(session, child_id, record, node.name) or pod_of(session.living_hub(), node.name)
        workload = record.spec.pod
        own = workload.template["spec"]["containers"][0]["name"] if workload is not None else ""
        if not pod:
            raise CliError(f"child {child_id!r} is on {node.name}, which has no pod now; try again later")
        log = _Log(session, pod, own, child_id, target.output, begin, wanted.timestamps)
        try:
            await _print(log, follow=wanted.follow, tail=wanted.tail)
        except NotFoundError:
            raise CliError(f"child {child_id!r} is on pod {pod}, which does not exist now; try again later") from None
        except ApiError as error:
            raise unreachable_member(session, node.name, f"the log of pod {pod} can't be read", error) from error
        code = _say_what_is_missing(log, node) if not own else DONE
        if wanted.follow:
            say(f"the log of pod {pod} ended; child {child_id!r} may run elsewhere: kubectl hub where")
    return code


def _say_what_is_missing(log: _Log, node: Node) -> int:
    """Say why a child's lines are not there, as far as that is known; returns the exit code.

    The kubelet keeps only the newest part of a container's log, which all children of a member share. A quiet child's
    lines go when a loud one writes. A log that still has the agent's first line is whole.
    """
    rotated = bool(node.started_at and log.begins > node.started_at and not log.whole)
    begins = (
        f"the log of pod {log.pod} begins at {log.begins[:19]}Z, but child {log.child_id!r} was started at"
        f" {node.started_at}: the kubelet keeps only the newest lines of all children"
    )
    if rotated and not log.lines:
        say(f"error: {begins}, and none is of this one; a collector of logs keeps all")
        return FAILED
    if rotated:
        say(f"warning: {begins}")
    elif not log.lines:
        say(f"child {log.child_id!r} has printed nothing on {node.name} so far")
    return DONE


@dataclass
class _Log:
    """The log that contains a child's lines. ``container`` is empty for a member's log, which children share.

    ``since``: older lines are left out. ``timestamps``: each line has its time. The last three fields are known when it
    was read: the time of its first line, whether it is whole, and the number of the child's lines.
    """

    session: Session
    pod: str
    container: str
    child_id: str
    output: Output
    since: datetime | None
    timestamps: bool
    begins: str = ""
    whole: bool = False
    lines: int = 0

    @property
    def query(self) -> dict[str, str]:
        """The options by which the API server chooses the lines of a Pod that has its log for itself."""
        if not self.container:
            return {}
        since = {} if self.since is None else {"sinceTime": f"{self.since:%Y-%m-%dT%H:%M:%S.%fZ}"}
        return since | ({"timestamps": "true"} if self.timestamps else {})

    def has(self, line: _LogLine) -> bool:
        """Whether the line of a member's log is new enough. Its time is by the clock of the member's node."""
        return self.since is None or datetime.fromisoformat(line.time) >= self.since


async def _print(log: _Log, *, follow: bool, tail: int | None) -> None:
    seen = 0
    if tail is not None:
        # Nothing marks the end of the present lines. They are counted, and the stream that follows skips as many.
        last: deque[str] = deque(maxlen=tail)
        async for text in _own_lines(log, follow=False):
            seen += 1
            last.append(text)
        for text in last:
            out(text)
        if not follow:
            return
    async for text in _own_lines(log, follow=follow):
        if seen:
            seen -= 1
        else:
            out(text)


async def _own_lines(log: _Log, *, follow: bool) -> AsyncIterator[str]:
    session, container = log.session, log.container or _CONTAINER
    chunks = pod_log(session.client, session.namespace, log.pod, container=container, follow=follow, query=log.query)
    async for raw in chunks:
        if log.container:
            yield raw.decode(errors="replace")
            continue
        try:
            line = _decoder.decode(raw)
        except msgspec.DecodeError:
            continue  # not one of the agent's lines
        if not log.begins:
            log.begins, log.whole = line.time, line.begin
        if line.child == log.child_id and line.stream and line.hub in ("", session.name):
            log.lines += 1
            if not log.has(line):
                continue
            text = f"{line.time} {line.message}" if log.timestamps else line.message
            yield raw.decode(errors="replace") if log.output is Output.JSON else text
