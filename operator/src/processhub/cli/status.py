"""``kubectl hub status`` and ``members``: how a hub does, or all hubs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec

from processhub.api.hub import MemberStatus
from processhub.api.meta import find_condition
from processhub.api.naming import natural_order
from processhub.api.reasons import State
from processhub.cli.conditions import first_against, print_conditions
from processhub.cli.errors import DONE
from processhub.cli.output import Columns, out, say, structured, table
from processhub.cli.scope import Scope, members_of, opened_scope, say_unplaced
from processhub.cli.shared import Output, Target
from processhub.client.records import Node
from processhub.client.session import Session

_NAMED = 20  # children that do not run are listed up to this number
_MEMBER = ("NAME", "READY", "NODE", "IP", "WEIGHT", "CHILDREN")
_Row = tuple[str, ...]


async def status(target: Target, *, everywhere: bool, watch: bool) -> int:
    """Print the hub's conditions, members and what does not run; with -A or --watch a row for each hub."""
    async with opened_scope(target, everywhere=everywhere) as scope:
        header = (*(scope.header or ("HUB",)), "READY", "MEMBERS", "CHILDREN", "REASON", "MESSAGE")
        rows = _Rows(
            header,
            lambda session: {(*(scope.place(session) or (session.name,)), *_summary(session)): f"hub/{session.name}"},
        )
        if target.output in (Output.JSON, Output.YAML):
            found = [plain_status(session) for session in scope.sessions]
            for plain in found if watch or not everywhere else [found]:
                structured(plain, target.output)
        elif target.output is Output.NAME:
            rows.print_names(scope.sessions)
        elif not everywhere and not watch:
            _print(scope.sessions[0])
        if target.output is Output.TABLE and (everywhere or watch):
            rows.print(scope.sessions)
        if watch:
            await rows.follow(scope, target.output, plain_status)
    return DONE


async def members(target: Target, *, everywhere: bool, watch: bool) -> int:
    """Print the hub's members as its status has them; returns the exit code."""
    async with opened_scope(target, everywhere=everywhere) as scope:
        rows = _Rows(
            (*scope.header, *_MEMBER),
            lambda session: {
                (*scope.place(session), *_member_row(session, member)): f"pod/{member.pod or member.name}"
                for member in members_of(session)
            },
        )
        if target.output is Output.TABLE:
            rows.print(scope.sessions)
            for session in scope.sessions:
                _explain_unready(session)
        elif target.output is Output.NAME:
            rows.print_names(scope.sessions)
        else:
            each = [_plain_members(scope, session) for session in scope.sessions]
            for plain in each if watch else [list(chain.from_iterable(each))]:
                structured(plain, target.output)
        if watch:
            await rows.follow(scope, target.output, lambda session: _plain_members(scope, session))
    return DONE


class _Rows:
    """Rows of hubs, each with the name of its object. Only those that changed are printed again."""

    def __init__(self, header: _Row, rows_of: Callable[[Session], dict[_Row, str]]) -> None:
        self._columns, self._rows_of = Columns(header), rows_of
        self._shown: dict[tuple[str, str], dict[_Row, str]] = {}  # by namespace and hub

    def print(self, sessions: list[Session]) -> None:
        """Print the rows of these hubs that are not as they were printed last."""
        rows = [row for session in sessions for row in self._new(session)]
        if rows:
            self._columns.print(rows)

    def print_names(self, sessions: list[Session]) -> None:
        """Print the names of those rows of these hubs that are not as they were printed last."""
        for session in sessions:
            for name in self._new(session).values():
                out(name)

    async def follow(self, scope: Scope, output: Output, plain: Callable[[Session], Any]) -> None:
        """Print the rows or the data of each hub that changes, until cancelled."""
        for session in scope.sessions:
            self._new(session)
        async for session, _ in scope.changes():
            if session.hub is None:
                say(f"hub {session.name} of namespace {session.namespace} was deleted")
                self._shown.pop((session.namespace, session.name), None)
            elif output is Output.TABLE:
                self.print([session])
            elif output is Output.NAME:
                self.print_names([session])
            elif self._new(session):
                structured(plain(session), output)

    def _new(self, session: Session) -> dict[_Row, str]:
        rows, key = self._rows_of(session), (session.namespace, session.name)
        before, self._shown[key] = self._shown.get(key, {}), rows
        return {row: name for row, name in rows.items() if row not in before}


def _summary(session: Session) -> _Row:
    """The readiness, members, children and the first reason that is against it."""
    status = session.living_hub().status
    ready = find_condition(status.conditions, "Ready")
    against = first_against(status.conditions)
    counts = status.summary
    return (
        ready.status if ready else "Unknown",
        counts.members if counts else "",
        counts.children if counts else "",
        against.reason if against else "",
        against.message if against else "" if ready else "the operator has not answered yet",
    )


def _explain_unready(session: Session) -> None:
    """Say why members are not ready, or that there is none."""
    listed = members_of(session)
    if not listed:
        say(f"hub {session.name} has no members yet")
    for member in listed:
        if member.message:
            out(f"{member.name} is not ready: {member.message}")


def ready_of(ready: bool, drained: bool) -> str:
    """Whether a member is ready, and ``Drained`` if it takes no children."""
    return f"{ready},Drained" if drained else str(ready)


def _member_row(session: Session, member: MemberStatus) -> _Row:
    ready = ready_of(member.ready, member.name in session.living_hub().drained)
    return (member.name, ready, member.node, member.pod_ip, str(member.weight), str(member.children))


def _plain_members(scope: Scope, session: Session) -> list[dict[str, Any]]:
    place, drained = scope.plain_place(session), session.living_hub().drained
    return [
        {**place, **msgspec.to_builtins(member), "drained": member.name in drained} for member in members_of(session)
    ]


def _not_running(session: Session) -> list[tuple[str, Node]]:
    """The copies that should run and do not."""
    records = session.registry.records
    return [
        (child_id, node)
        for child_id in sorted(records, key=natural_order)
        for node in records[child_id].nodes
        if not node.waiting and not node.asleep and node.state not in (State.RUNNING, State.STOPPED)
    ]


def plain_status(session: Session) -> dict[str, Any]:
    """The hub's status, and what does not run, as data."""
    hub = session.living_hub()
    plain: dict[str, Any] = msgspec.to_builtins(hub.status)
    return {
        "hub": session.name,
        "namespace": session.namespace,
        "conditions": plain.get("conditions", []),
        "members": [{**member, "drained": member["name"] in hub.drained} for member in plain.get("members", [])],
        "children": plain.get("children"),
        "quorum": plain.get("quorum"),
        "notRunning": [
            {
                "id": child_id,
                **{("member" if key == "name" else key): value for key, value in msgspec.to_builtins(node).items()},
            }
            for child_id, node in _not_running(session)
        ],
    }


def _print(session: Session) -> None:
    hub = session.living_hub()
    ready, members, children, *_ = _summary(session)
    condition = find_condition(hub.status.conditions, "Ready")
    why = "the operator has not answered yet" if condition is None else condition.message
    out(f"Hub:        {session.name} (namespace {session.namespace})")
    out(f"Ready:      {ready}{f' ({why})' if why else ''}")
    out(f"Members:    {members or '<none>'} ready")
    out(f"Children:   {children or '<none>'} running")
    quorum = hub.status.quorum
    if quorum and quorum.required:
        out(f"Quorum:     {quorum.live} live, {quorum.required} needed")
    print_conditions(hub.status.conditions, datetime.now(UTC))
    if listed := members_of(session):
        out("\nMembers:")
        table(_MEMBER, (_member_row(session, each) for each in listed))
        _explain_unready(session)
    if idle := _not_running(session):
        out("\nChildren that do not run:")
        table(
            ("ID", "MEMBER", "STATE", "RESTARTS", "REASON", "MESSAGE"),
            (
                (child_id, node.name, node.state, str(node.restarts), node.reason, node.message or node.last_exit)
                for child_id, node in idle[:_NAMED]
            ),
        )
        if len(idle) > _NAMED:
            say(f"and {len(idle) - _NAMED} more: kubectl hub list --hub {session.name} -n {session.namespace}")
    say_unplaced(session)
