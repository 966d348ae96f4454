"""``kubectl hub logs``: a child's own lines from its member pod's log, or the log of its own Pod."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from processhub.cli.errors import DONE, CliError
from processhub.cli.options import Output, Target
from processhub.cli.output import out, say
from processhub.cli.podlog import pod_log
from processhub.cli.show import on_record, own_pod, pod_of
from processhub.cli.target import opened
from processhub.client.session import Session
from processhub.cluster.errors import NotFoundError

_CONTAINER = "agent"


class _LogLine(msgspec.Struct):
    child: str = ""
    hub: str = ""
    stream: str = ""  # the agent's own lines about a child have none
    message: str = ""


_decoder = msgspec.json.Decoder(_LogLine)


async def logs(child_id: str, target: Target, *, follow: bool, tail: int | None) -> int:
    """Print the lines that the child itself wrote on its present member; returns the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        member = record.nodes[0].name
        pod = await own_pod(session, child_id, record, member) or pod_of(session.living_hub(), member)
        workload = record.spec.pod
        own = workload.template["spec"]["containers"][0]["name"] if workload is not None else ""
        if not pod:
            raise CliError(f"child {child_id!r} is on {record.nodes[0].name}, which has no pod now; try again later")
        try:
            await _print(_Log(session, pod, own, child_id, target.output), follow=follow, tail=tail)
        except NotFoundError:
            raise CliError(f"child {child_id!r} is on pod {pod}, which does not exist now; try again later") from None
        if follow:
            say(f"the log of pod {pod} ended; child {child_id!r} may run elsewhere: kubectl hub where")
    return DONE


class _Log(NamedTuple):
    """The log that contains a child's lines. ``container`` is empty for a member's log, which children share."""

    session: Session
    pod: str
    container: str
    child_id: str
    output: Output


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
    async for raw in pod_log(session.client, session.namespace, log.pod, container=container, follow=follow):
        if log.container:
            yield raw.decode(errors="replace")
            continue
        try:
            line = _decoder.decode(raw)
        except msgspec.DecodeError:
            continue  # not one of the agent's lines
        if line.child == log.child_id and line.stream and line.hub in ("", session.name):
            yield raw.decode(errors="replace") if log.output is Output.JSON else line.message
