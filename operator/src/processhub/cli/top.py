"""``kubectl hub top``: what members use, and which children restart most."""

from __future__ import annotations

from typing import Any

import msgspec

from processhub.api.hub import MemberStatus
from processhub.cli.errors import DONE
from processhub.cli.options import Output, Target
from processhub.cli.output import out, say, structured, table
from processhub.cli.target import opened
from processhub.client.records import Record

_CHILDREN = 10


async def top(target: Target) -> int:
    """Members by children, CPU and memory as their agents report them; the children with most restarts."""
    async with opened(target) as session:
        members = sorted(session.living_hub().status.members, key=lambda member: member.name)
        restless = most_restarts(session.registry.records)
        if target.output is Output.NAME:
            for member in members:
                out(f"pod/{member.pod or member.name}")
        elif target.output is Output.TABLE:
            if not members:
                say(f"hub {session.name} has no members yet")
            else:
                table(("MEMBER", "READY", "CHILDREN", "CPU", "MEMORY"), map(_row, members))
            if restless:
                out("")
                table(
                    ("CHILD", "MEMBER", "STATE", "RESTARTS"),
                    ((one["id"], one["member"], one["state"], str(one["restarts"])) for one in restless),
                )
        else:
            fields = ("name", "ready", "children", "cpu", "memory")
            plain = [{field: msgspec.to_builtins(getattr(member, field)) for field in fields} for member in members]
            structured({"members": plain, "restarts": restless}, target.output)
    return DONE


def most_restarts(records: dict[str, Record]) -> list[dict[str, Any]]:
    """The copies that were restarted most, at most ten, those that were never are not among them."""
    copies = [
        {"id": child_id, "member": node.name, "state": node.state, "restarts": node.restarts}
        for child_id, record in records.items()
        for node in record.nodes
        if node.restarts
    ]
    return sorted(copies, key=lambda copy: (-int(str(copy["restarts"])), str(copy["id"])))[:_CHILDREN]


def _row(member: MemberStatus) -> tuple[str, str, str, str, str]:
    return member.name, str(member.ready), str(member.children), member.cpu, member.memory
