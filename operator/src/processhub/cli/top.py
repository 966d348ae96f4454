"""``kubectl hub top``: the CPU and memory that members use, and the children with most restarts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from processhub.api.hub import MemberStatus
from processhub.api.naming import natural_order
from processhub.cli.errors import DONE
from processhub.cli.output import out, say, structured, table
from processhub.cli.scope import Scope, members_of, opened_scope
from processhub.cli.shared import Output, Target
from processhub.client.session import Session

_CHILDREN = 10
_FIELDS = ("name", "ready", "children", "cpu", "memory")


async def top(target: Target, *, everywhere: bool) -> int:
    """Print each member's children, CPU and memory as its agent reports them, and the copies with the most restarts."""
    async with opened_scope(target, everywhere=everywhere) as scope:
        if target.output is Output.NAME:
            for session in scope.sessions:
                for member in members_of(session):
                    out(f"pod/{member.pod or member.name}")
        elif target.output is Output.TABLE:
            _print(scope)
        else:
            found = [_plain(scope, session) for session in scope.sessions]
            structured(found if everywhere else found[0], target.output)
    return DONE


def most_restarts(sessions: Iterable[Session]) -> list[tuple[Session, dict[str, Any]]]:
    """The copies with the most restarts, at most ten, with their hubs; copies without a restart are left out."""
    copies: list[tuple[Session, dict[str, Any]]] = [
        (session, {"id": child_id, "member": node.name, "state": node.state, "restarts": node.restarts})
        for session in sessions
        for child_id, record in session.registry.records.items()
        for node in record.nodes
        if node.restarts
    ]
    return sorted(copies, key=lambda copy: (-copy[1]["restarts"], natural_order(copy[1]["id"])))[:_CHILDREN]


def _print(scope: Scope) -> None:
    sessions = scope.sessions
    rows = [(*scope.place(session), *_row(member)) for session in sessions for member in members_of(session)]
    for session in sessions:
        if not session.living_hub().status.members:
            say(f"hub {session.name} has no members yet")
    if rows:
        table((*scope.header, "MEMBER", "READY", "CHILDREN", "CPU", "MEMORY"), rows)
    if restarted := most_restarts(sessions):
        out("")
        table(
            (*scope.header, "CHILD", "MEMBER", "STATE", "RESTARTS"),
            ((*scope.place(session), *map(str, one.values())) for session, one in restarted),
        )


def _plain(scope: Scope, session: Session) -> dict[str, Any]:
    return {
        **scope.plain_place(session),
        "members": [
            {field: msgspec.to_builtins(getattr(member, field)) for field in _FIELDS} for member in members_of(session)
        ],
        "restarts": [one for _, one in most_restarts([session])],
    }


def _row(member: MemberStatus) -> tuple[str, str, str, str, str]:
    return member.name, str(member.ready), str(member.children), member.cpu, member.memory
