"""``kubectl hub top``: the CPU and memory that members use, and the children with most restarts."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub.api.hub import MemberStatus
from processhub.api.naming import natural_order
from processhub.cli.errors import DONE
from processhub.cli.output import out, say, structured, table
from processhub.cli.shared import Output, Target
from processhub.cli.target import opened
from processhub.client.records import Record

_CHILDREN = 10


async def top(target: Target) -> int:
    """Print each member's children, CPU and memory as its agent reports them, and the copies with the most restarts."""
    async with opened(target) as session:
        members = sorted(session.living_hub().status.members, key=lambda member: natural_order(member.name))
        restarted = most_restarts(session.registry.records)
        if target.output is Output.NAME:
            for member in members:
                out(f"pod/{member.pod or member.name}")
        elif target.output is Output.TABLE:
            if not members:
                say(f"hub {session.name} has no members yet")
            else:
                table(("MEMBER", "READY", "CHILDREN", "CPU", "MEMORY"), map(_row, members))
            if restarted:
                out("")
                table(
                    ("CHILD", "MEMBER", "STATE", "RESTARTS"),
                    ((one["id"], one["member"], one["state"], str(one["restarts"])) for one in restarted),
                )
        else:
            fields = ("name", "ready", "children", "cpu", "memory")
            plain = [{field: msgspec.to_builtins(getattr(member, field)) for field in fields} for member in members]
            structured({"members": plain, "restarts": restarted}, target.output)
    return DONE


def most_restarts(records: dict[str, Record]) -> list[dict[str, Any]]:
    """The copies with the most restarts, at most ten; copies without a restart are left out."""
    copies = [
        {"id": child_id, "member": node.name, "state": node.state, "restarts": node.restarts}
        for child_id, record in records.items()
        for node in record.nodes
        if node.restarts
    ]
    return sorted(copies, key=lambda copy: (-int(str(copy["restarts"])), natural_order(str(copy["id"]))))[:_CHILDREN]


def _row(member: MemberStatus) -> tuple[str, str, str, str, str]:
    return member.name, str(member.ready), str(member.children), member.cpu, member.memory
