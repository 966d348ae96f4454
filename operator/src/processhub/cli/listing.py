"""``kubectl hub list`` and ``dump``: the copies of all children, of one hub or of all."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from processhub.api.naming import natural_order
from processhub.api.reasons import State
from processhub.cli.durations import age
from processhub.cli.errors import DONE, CliError
from processhub.cli.objectnames import ObjectNames
from processhub.cli.output import Columns, in_order, out, say, structured
from processhub.cli.scope import Scope, opened_scope, say_unplaced
from processhub.cli.shared import Output, Target
from processhub.cli.show import ON_DEMAND, entry
from processhub.cli.target import opened, warn_of_unready
from processhub.client.hub import Hub
from processhub.client.records import Node
from processhub.client.session import Session

_DELETED = "Deleted"  # the state that --watch shows of a copy that is gone


class Selection(NamedTuple):
    """The children to list: those on a member, and those with all of these tags; each None or empty for all."""

    member: str | None = None
    tags: tuple[str, ...] = ()
    everywhere: bool = False
    watch: bool = False


Listed = list[tuple[str, list[Node]]]


async def list_children(target: Target, chosen: Selection | None = None) -> int:
    """Print all copies by id, of the chosen children; with ``watch`` also their changes. Returns the code."""
    chosen = chosen or Selection()
    members = (chosen.member,) if chosen.member else ()
    async with opened_scope(target, everywhere=chosen.everywhere, members=members) as scope:
        _check_member(scope, chosen.member)
        on_demand = any(session.living_hub().spec.on_demand is not None for session in scope.sessions)
        printer, names = _Printer(target.output, scope, watch=chosen.watch, on_demand=on_demand), ObjectNames()
        found = [(session, listed) for session in scope.sessions if (listed := copies(session, chosen))]
        if target.output is Output.NAME:
            await printer.names(found, names)
        elif target.output is Output.TABLE:
            printer.table(found)
        else:
            printer.structured(found)
        if not found and target.output is Output.TABLE:
            say(_nothing(scope, chosen))
        for session, listed in found:
            warn_of_unready(session, {node.name for _, nodes in listed for node in nodes})
        if not chosen.member and not chosen.tags:
            for session in scope.sessions:
                say_unplaced(session)
        if chosen.watch:
            await _watch(scope, chosen, printer, names if target.output is Output.NAME else None)
    return DONE


async def dump(target: Target) -> int:
    """Print the registry by id; returns the exit code."""
    if target.output in (Output.TABLE, Output.NAME):
        return await list_children(target)
    async with opened(target) as session:
        warn_of_unready(session, {node.name for record in session.registry.records.values() for node in record.nodes})
        structured(Hub.attached(session).registry_dump(), target.output)
    return DONE


def copies(session: Session, chosen: Selection, ids: Collection[str] | None = None) -> Listed:
    """The chosen copies by id, in natural order: those on record, and those that have not ended yet."""
    registry = session.registry
    records = registry.records
    wanted = records.keys() if ids is None else [child_id for child_id in ids if child_id in records]
    found = {
        child_id: [node for node in records[child_id].nodes if chosen.member in (None, node.name)]
        for child_id in wanted
        if set(chosen.tags) <= set(records[child_id].spec.tags)
    }
    for child_id, node in registry.ending() if not chosen.tags else ():
        if chosen.member in (None, node.name) and (ids is None or child_id in ids):
            found.setdefault(child_id, []).append(node)
    return in_order({child_id: nodes for child_id, nodes in found.items() if nodes})


class _Printer:
    """Prints copies as rows or as data, and knows which it has printed."""

    def __init__(self, output: Output, scope: Scope, *, watch: bool, on_demand: bool) -> None:
        """``on_demand``: whether requests start children of these hubs, so that a column says which."""
        self._output, self._scope, self._watch = output, scope, watch
        self._on_demand = on_demand
        header = (*scope.header, "ID", "MEMBER", "ROLE", "STATE", "PID", "RESTARTS", "REASON", "UPTIME")
        self._columns = Columns((*header, ON_DEMAND) if on_demand else header)
        self._shown: dict[tuple[str, str, str], dict[str, Node]] = {}  # by namespace, hub and id, then by member

    def table(self, found: list[tuple[Session, Listed]]) -> None:
        """Print rows, under the header the first time."""
        now = datetime.now(UTC)
        rows = []
        for session, listed in found:
            place = self._scope.place(session)
            for child_id, nodes in listed:
                self._note(session, child_id, nodes)
                record = session.registry.records.get(child_id)
                started = (str(record.on_demand) if record is not None else "",) if self._on_demand else ()
                rows += [(*place, child_id, *_cells(node, now), *started) for node in nodes]
        if rows:
            self._columns.print(rows)

    async def names(self, found: list[tuple[Session, Listed]], names: ObjectNames) -> None:
        """Print the objects, each once: a ChildSet has many children, and a Hub those that requests have started."""
        for session, listed in found:
            objects = await names.of(session, [child_id for child_id, _ in listed])
            for child_id, nodes in listed:
                self._note(session, child_id, nodes)
            for name in dict.fromkeys(objects.values()):
                out(name)

    def structured(self, found: list[tuple[Session, Listed]]) -> None:
        """Print one list, or in a watch each child, with its namespace and hub if there may be several."""
        plain = []
        for session, listed in found:
            plain += [self._plain(session, child_id, nodes) for child_id, nodes in listed]
        for item in plain if self._watch else [plain]:
            structured(item, self._output)

    def change(self, session: Session, child_id: str, nodes: list[Node], name: str) -> None:
        """Print those of the child's copies that are not as they were printed last, and those that are gone.

        ``name``: the child's object, for the output by names.
        """
        before = self._shown.pop((session.namespace, session.name, child_id), {})
        there = {node.name for node in nodes}
        gone = [msgspec.structs.replace(node, state=_DELETED, pid=0) for node in before.values()]
        gone = [node for node in gone if node.name not in there]
        changed = [node for node in nodes if before.get(node.name) != node] + gone
        if not changed:
            pass
        elif self._output is Output.TABLE:
            self.table([(session, [(child_id, changed)])])
        elif self._output is Output.NAME:
            out(name)
        elif session.hub is not None:
            structured(self._plain(session, child_id, changed), self._output)
        self._shown.pop((session.namespace, session.name, child_id), None)
        self._note(session, child_id, nodes)

    def _plain(self, session: Session, child_id: str, nodes: list[Node]) -> dict[str, Any]:
        self._note(session, child_id, nodes)
        return {**self._scope.plain_place(session), **entry(child_id, nodes, session)}

    def _note(self, session: Session, child_id: str, nodes: list[Node]) -> None:
        if nodes:
            self._shown[session.namespace, session.name, child_id] = {node.name: node for node in nodes}


async def _watch(scope: Scope, chosen: Selection, printer: _Printer, names: ObjectNames | None) -> None:
    """Print each copy that changes, until cancelled. With ``names`` its object is printed."""
    async for session, ids in scope.changes():
        objects = await names.of(session, ids) if names is not None and session.hub is not None else {}
        now = dict(copies(session, chosen, ids))
        for child_id in sorted(ids, key=natural_order):
            printer.change(session, child_id, now.get(child_id, []), objects.get(child_id, ""))


def _cells(node: Node, now: datetime) -> tuple[str, ...]:
    return (
        node.name,
        node.role,
        node.state,
        str(node.pid or ""),
        str(node.restarts),
        "" if node.state == State.RUNNING else node.reason,
        age(node.started_at, now),
    )


def _check_member(scope: Scope, member: str | None) -> None:
    """Raise CliError if no hub has this member."""
    known: set[str] = set()
    for session in scope.sessions:
        known |= {node.name for record in session.registry.records.values() for node in record.nodes}
        known |= {item.name for item in session.living_hub().status.members}
    if not member or member in known:
        return
    if len(scope.sessions) > 1:
        raise CliError(f"no hub has a member {member!r}")
    there = ", ".join(sorted(known, key=natural_order)) or "none"
    raise CliError(f"hub {scope.sessions[0].name} has no member {member!r}; it has {there}")


def _nothing(scope: Scope, chosen: Selection) -> str:
    tags = f" with tag {', '.join(chosen.tags)}" if chosen.tags else ""
    session = scope.sessions[0]
    place = "any namespace" if chosen.everywhere else f"hub {session.name} of namespace {session.namespace}"
    return f"no children{tags}{f' on member {chosen.member}' if chosen.member else ''} in {place}"
