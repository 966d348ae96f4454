"""``kubectl hub exec``: runs a command beside a child, with the child's environment."""

from __future__ import annotations

import sys
from typing import Any

from processhub.cli.errors import CliError, UsageError
from processhub.cli.output import say
from processhub.cli.podexec import PodCommand, run_in_pod
from processhub.cli.shared import Target
from processhub.cli.show import on_record, own_pod, pod_of
from processhub.cli.target import opened, unreachable_member
from processhub.client.records import Record
from processhub.client.session import Session, translated
from processhub.cluster.errors import ApiError, ForbiddenError, NotFoundError
from processhub.cluster.kinds import untyped

_PODS = untyped("v1", "pods")
_AGENT = "agent"


async def execute(child_id: str, words: list[str] | None, target: Target, *, stdin: bool, terminal: bool) -> int:
    """Run the command in the container that the child runs in; returns its exit code."""
    command = tuple(words or ())
    if not command:
        raise UsageError("exec needs the command to run: exec ID -- CMD ARG…")
    terminal = terminal and stdin
    if terminal and not sys.stdin.isatty():
        say("warning: standard input is no terminal, so -t is ignored")
        terminal = False
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        member = record.nodes[0].name
        what = await _place(session, child_id, record, command)
        try:
            return await run_in_pod(session.client, what, stdin=stdin, terminal=terminal)
        except ForbiddenError as error:
            raise CliError(
                f"exec in pod {what.pod} is not allowed: {error.message}; ask for the verb create on pods/exec, which"
                " the role edit has"
            ) from error
        except ApiError as error:
            raise unreachable_member(session, member, f"exec in pod {what.pod} failed", error) from error


async def _place(session: Session, child_id: str, record: Record, command: tuple[str, ...]) -> PodCommand:
    """The pod and the container of the child, and the command there. Raises CliError."""
    node = record.nodes[0]
    own = await own_pod(session, child_id, record, node.name)
    pod = own or pod_of(session.living_hub(), node.name)
    if not pod or not (own or node.pid):
        why = f" ({node.reason}: {node.message})" if node.reason else ""
        raise CliError(f"child {child_id!r} has no process: it is {node.state} on {node.name}{why}")
    with translated(f"pod {pod} can't be read"):
        try:
            found: Any = await session.client.get(_PODS, session.namespace, pod)
        except NotFoundError:
            raise CliError(f"child {child_id!r} is on pod {pod}, which does not exist now; try again later") from None
    containers = found["spec"]["containers"]
    if own:
        return PodCommand(session.namespace, pod, containers[0]["name"], command)
    agent = next((item for item in containers if item["name"] == _AGENT), None)
    if agent is None:
        raise CliError(f"pod {pod} has no container {_AGENT}: it is no member's pod")
    beside = ("exec", child_id, str(node.pid), str(node.epoch), node.role, "--")
    return PodCommand(session.namespace, pod, _AGENT, (*agent["command"], *beside, *command))
