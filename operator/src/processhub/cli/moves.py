"""``kubectl hub drain``, ``undrain`` and ``move``."""

from __future__ import annotations

import msgspec

from processhub.cli.durations import seconds
from processhub.cli.errors import DONE, FAILED
from processhub.cli.output import named, out, quoted, say, structured
from processhub.cli.shared import Output, Target
from processhub.cli.show import object_of, pod_of
from processhub.cli.target import opened
from processhub.client.errors import HubError
from processhub.client.hub import Hub
from processhub.core.listing import by_reason, counted
from processhub.core.model.plan import STRANDED_ALONE


async def drain(member: str, target: Target, *, force: bool, wait: bool, timeout: str) -> int:
    """Order a member to be drained, and print the children that can't leave it; returns the exit code."""
    limit = seconds(timeout)
    async with opened(target, members=(member,), follow=wait) as session:
        result = await Hub.attached(session).drain(member, force=force, wait=wait, timeout=limit)
        if target.output in (Output.JSON, Output.YAML):
            structured(msgspec.to_builtins(result), target.output)
        elif target.output is Output.NAME:
            out(f"pod/{pod_of(session.living_hub(), member) or member}")
        else:
            out(f"member/{member} {'drained' if wait and not result.left else 'draining'}")
    if result.stranded:
        remedy = "delete or rebind them" if set(result.reasons.values()) - {STRANDED_ALONE} else "add a member"
        say(
            f"error: {counted(len(result.stranded), 'child', 'children')} can't leave {member}: "
            f"{by_reason(result.reasons)}; "
            f"{remedy}, or stop them there with --force"
        )
        return FAILED
    return DONE


async def undrain(member: str, target: Target, *, wait: bool, timeout: str) -> int:
    """Allow a member to take children again; returns the exit code."""
    limit = seconds(timeout)
    async with opened(target, members=(member,), follow=wait) as session:
        changed = await Hub.attached(session).undrain(member, wait=wait, timeout=limit)
        if target.output in (Output.JSON, Output.YAML):
            structured({"member": member, "drained": False, "changed": changed}, target.output)
        elif target.output is Output.NAME:
            out(f"pod/{pod_of(session.living_hub(), member) or member}")
        else:
            out(f"member/{member} {'takes children again' if changed else 'was not drained'}")
    return DONE


async def move(child_id: str, member: str, target: Target, *, wait: bool, timeout: str) -> int:
    """Order a child to be moved to a member; returns the exit code."""
    limit = seconds(timeout)
    async with opened(target, ids=(child_id,), members=(member,), follow=wait) as session:
        await Hub.attached(session).migrate_child(child_id, member, wait=wait, timeout=limit)
        known = ""
        if target.output in (Output.TABLE, Output.NAME):
            try:
                known = await object_of(session, child_id)
            except HubError as error:
                say(f"warning: the order is given, but the object of child {child_id!r} is not known: {error}")
    if target.output in (Output.JSON, Output.YAML):
        structured({"id": child_id, "member": member, "done": wait}, target.output)
    elif target.output is Output.NAME:
        if known:
            out(known)
    else:
        kind, _, name = known.partition("/")
        words = named(child_id, name) if kind == "child" else quoted(child_id)
        out(f"{words} {'running on' if wait else 'moving to'} {member}")
    return DONE
