"""``kubectl hub list``, ``where``, ``lookup``, ``members`` and ``dump``: print the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub as HubObject
from processhub.api.hub import MemberStatus
from processhub.api.naming import LABEL_MEMBER, child_object_name, child_pod_names, label_value
from processhub.api.reasons import State
from processhub.cli.durations import age
from processhub.cli.errors import DONE, CliError
from processhub.cli.options import Output, Target
from processhub.cli.output import out, say, structured, table
from processhub.cli.target import opened
from processhub.client.childsets import find_owner, list_sets
from processhub.client.hub import Hub
from processhub.client.records import Node, Record
from processhub.client.resolve import find_children
from processhub.client.resolve import list_children as list_objects
from processhub.client.session import Session, translated
from processhub.cluster.errors import ForbiddenError, NotFoundError
from processhub.cluster.kinds import PODS


async def list_children(target: Target, member: str | None) -> int:
    """Print all copies by id, with ``member`` only those on it; returns the exit code."""
    async with opened(target, members=(member,) if member else ()) as session:
        hub = session.living_hub()
        if member and member not in _members(session):
            raise CliError(
                f"hub {session.name} has no member {member!r}; it has {', '.join(sorted(_members(session))) or 'none'}"
            )
        found = {
            child_id: [node for node in record.nodes if member in (None, node.name)]
            for child_id, record in session.registry.records.items()
        }
        for child_id, node in session.registry.ending():
            if member in (None, node.name):
                found.setdefault(child_id, []).append(node)
        listed = sorted((child_id, nodes) for child_id, nodes in found.items() if nodes)
        if target.output is Output.NAME:
            with translated(f"children of hub {session.name} can't be listed"):
                names = {child.id: f"child/{child.metadata.name}" for child in await list_objects(session)}
                sets = await list_sets(session)
            owners = {item.metadata.uid: f"childset/{item.metadata.name}" for item in sets}
            records = session.registry.records
            objects = (
                (owners.get(records[child_id].uid) if child_id in records else None)
                or names.get(child_id)
                or f"child/{child_object_name(child_id)}"
                for child_id, _ in listed
            )
            for name in dict.fromkeys(objects):  # a ChildSet is printed once, however many of its children are listed
                out(name)
        elif target.output is Output.TABLE:
            _list_table(session, listed)
        else:
            structured([entry(child_id, nodes, hub) for child_id, nodes in listed], target.output)
        placed = sum(not record.nodes[0].asleep for record in session.registry.records.values())
        unplaced = hub.status.children.desired - placed if hub.status.children else 0
        if unplaced > 0 and not member:
            say(f"{unplaced} more are not placed: kubectl get children,childsets -n {session.namespace} says why")
    return DONE


async def where(child_id: str, target: Target) -> int:
    """Print each copy's member, pod, Kubernetes node and pid; returns the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        if target.output is Output.NAME:
            await _name(session, child_id)
        elif target.output is Output.TABLE:
            placed = {member.name: member for member in session.living_hub().status.members}
            rows = []
            for node in record.nodes:
                member = placed.get(node.name)
                rows.append(
                    (
                        child_id,
                        node.name,
                        await own_pod(session, child_id, record, node.name) or pod_of(session.living_hub(), node.name),
                        member.node if member else "",
                        node.role,
                        node.state,
                        str(node.pid or ""),
                    )
                )
            table(("ID", "MEMBER", "POD", "NODE", "ROLE", "STATE", "PID"), rows)
        else:
            structured(entry(child_id, record.nodes, session.living_hub()), target.output)
    return DONE


async def lookup(child_id: str, target: Target) -> int:
    """Print the child's spec and copies; returns the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        if target.output is Output.NAME:
            await _name(session, child_id)
        else:
            nodes = entry(child_id, record.nodes, session.living_hub())["nodes"]
            found = {"id": child_id, "uid": record.uid, "spec": record.spec.to_dict(), "nodes": nodes}
            with translated(f"child {child_id!r} can't be looked up"):
                owner = await find_owner(session, child_id)
            if owner is not None:
                found["childSet"] = owner.metadata.name
            structured(found, Output.YAML if target.output is Output.TABLE else target.output)
    return DONE


async def members(target: Target) -> int:
    """Print the hub's members as its status has them; returns the exit code."""
    async with opened(target) as session:
        hub = session.living_hub()
        listed = sorted(hub.status.members, key=lambda member: member.name)
        if target.output is Output.NAME:
            for member in listed:
                out(f"pod/{member.pod or member.name}")
        elif target.output is Output.TABLE:
            if not listed:
                say(f"hub {session.name} has no members yet")
                return DONE
            _members_table(listed)
        else:
            structured(msgspec.to_builtins(listed), target.output)
    return DONE


def _members_table(listed: Iterable[MemberStatus]) -> None:
    """The members, and below the table why some are not ready."""
    table(
        ("NAME", "READY", "NODE", "IP", "WEIGHT", "CHILDREN"),
        (
            (
                member.name,
                str(member.ready),
                member.node,
                member.pod_ip,
                str(member.weight),
                str(member.children),
            )
            for member in listed
        ),
    )
    for member in listed:
        if member.message:
            out(f"{member.name} is not ready: {member.message}")


async def dump(target: Target) -> int:
    """Print the registry by id; returns the exit code."""
    async with opened(target) as session:
        found = Hub.attached(session).registry_dump()
        if target.output in (Output.TABLE, Output.NAME):
            return await list_children(target, None)
        structured(found, target.output)
    return DONE


async def on_record(session: Session, child_id: str) -> Record:
    """The child's record. Raises CliError, which says why it is not placed, or that there is no such child."""
    record = session.registry.records.get(child_id)
    if record is not None:
        return record
    with translated(f"child {child_id!r} can't be looked up"):
        child = (await find_children(session, [child_id])).get(child_id)
        owner = await find_owner(session, child_id) if child is None else None
    asks: Child | ChildSet | None = child or owner
    if asks is None:
        raise CliError(f"no child {child_id!r} in hub {session.name} of namespace {session.namespace}")
    of = f"hub {session.name}" if owner is None else f"childset/{owner.metadata.name} of hub {session.name}"
    refused = [condition for condition in asks.status.conditions if condition.status == "False"]
    why = f"{refused[0].reason}: {refused[0].message}" if refused else "the operator has not answered yet"
    raise CliError(f"child {child_id!r} of {of} is not placed: {why}")


def entry(child_id: str, nodes: Iterable[Node], hub: HubObject) -> dict[str, Any]:
    """A child in the form of Hub.status.registry."""
    listed = []
    for node in nodes:
        plain: dict[str, Any] = msgspec.to_builtins(node)
        listed.append({"name": plain.pop("name"), "pod": pod_of(hub, node.name), **plain})
    return {"id": child_id, "nodes": listed}


def pod_of(hub: HubObject, member: str) -> str:
    """The name of the member's pod: by the hub's status, else, in mode Replicas, the member's own; else empty."""
    known = next((one.pod for one in hub.status.members if one.name == member), "")
    return known or (member if hub.spec.members.mode == "Replicas" else "")


async def own_pod(session: Session, child_id: str, record: Record, member: str) -> str:
    """The name of the Pod of a pod child on the member; empty for other children."""
    if record.spec.pod is None:
        return ""
    hub = session.living_hub()
    single, copy = child_pod_names(session.name, hub.metadata.uid, child_id, member)
    names = (copy, single) if hub.spec.keeps_copies else (single, copy)
    for name in names:  # a Pod from before the hub began, or stopped, to keep copies has the other name
        with contextlib.suppress(NotFoundError, ForbiddenError):
            pod = await session.client.get(PODS, session.namespace, name)
            if pod.metadata.labels.get(LABEL_MEMBER) == label_value(member):
                return name
    return names[0]


def _members(session: Session) -> set[str]:
    on_file = {node.name for record in session.registry.records.values() for node in record.nodes}
    return on_file | {member.name for member in session.living_hub().status.members}


def _list_table(session: Session, listed: list[tuple[str, list[Node]]]) -> None:
    if not listed:
        say(f"no children in hub {session.name} of namespace {session.namespace}")
        return
    now = datetime.now(UTC)
    table(
        ("ID", "MEMBER", "ROLE", "STATE", "PID", "RESTARTS", "REASON", "AGE"),
        (
            (
                child_id,
                node.name,
                node.role,
                node.state,
                str(node.pid or ""),
                str(node.restarts),
                "" if node.state == State.RUNNING else node.reason,
                age(node.started_at, now),
            )
            for child_id, nodes in listed
            for node in nodes
        ),
    )


async def _name(session: Session, child_id: str) -> None:
    with translated(f"child {child_id!r} can't be looked up"):
        child = (await find_children(session, [child_id])).get(child_id)
        owner = await find_owner(session, child_id)
    if owner is not None:
        out(f"childset/{owner.metadata.name}")
    else:
        out(f"child/{child.metadata.name if child else child_object_name(child_id)}")
