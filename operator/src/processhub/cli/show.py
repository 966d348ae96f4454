"""``kubectl hub where`` and ``lookup``: print what the registry has of one child."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub as HubObject
from processhub.api.naming import LABEL_MEMBER, child_object_name, child_pod_names, label_value
from processhub.cli.conditions import first_against
from processhub.cli.errors import DONE, CliError
from processhub.cli.output import out, structured, table
from processhub.cli.shared import Output, Target
from processhub.cli.target import opened, warn_of_unready
from processhub.client.records import Node, Record
from processhub.client.resolve import find_children, find_owner, list_sets, no_child, owner_among
from processhub.client.session import Session, translated
from processhub.cluster.errors import ForbiddenError, NotFoundError
from processhub.cluster.kinds import PODS

ON_DEMAND = "ON-DEMAND"  # the column that says whether a request has started the child


async def where(child_id: str, target: Target) -> int:
    """Print each copy's member, pod, Kubernetes node and pid; returns the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        warn_of_unready(session, {node.name for node in record.nodes})
        if target.output is Output.NAME:
            out(await object_of(session, child_id))
        elif target.output is Output.TABLE:
            placed = {member.name: member for member in session.living_hub().status.members}
            demand = session.living_hub().spec.on_demand is not None
            rows: list[tuple[str, ...]] = []
            for node, shown in zip(record.nodes, (await _found(session, child_id, record))["nodes"], strict=True):
                member = placed.get(node.name)
                rows.append(
                    (
                        child_id,
                        node.name,
                        shown["pod"],
                        member.node if member else "",
                        node.role,
                        node.state,
                        str(node.pid or ""),
                        *((str(record.on_demand),) if demand else ()),
                    )
                )
            header = ("ID", "MEMBER", "POD", "NODE", "ROLE", "STATE", "PID")
            table((*header, ON_DEMAND) if demand else header, rows)
        else:
            structured(await _found(session, child_id, record), target.output)
    return DONE


async def lookup(child_id: str, target: Target) -> int:
    """Print the child's spec and copies; returns the exit code."""
    async with opened(target, ids=(child_id,)) as session:
        record = await on_record(session, child_id)
        warn_of_unready(session, {node.name for node in record.nodes})
        if target.output is Output.NAME:
            out(await object_of(session, child_id))
        else:
            nodes = (await _found(session, child_id, record))["nodes"]
            found = {"id": child_id, "uid": record.uid, "spec": record.spec.to_dict(), "nodes": nodes}
            with translated(f"child {child_id!r} can't be looked up"):
                owner = await find_owner(session, child_id)
            if owner is not None:
                found["childSet"] = owner.metadata.name
            if record.on_demand:
                found["onDemand"] = True
            structured(found, Output.YAML if target.output is Output.TABLE else target.output)
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
        with translated(f"child {child_id!r} can't be looked up"):
            raise CliError(await no_child(session, child_id))
    of = f"hub {session.name}" if owner is None else f"childset/{owner.metadata.name} of hub {session.name}"
    against = first_against(asks.status.conditions)
    why = f"{against.reason}: {against.message}" if against else "the operator has not answered yet"
    raise CliError(f"child {child_id!r} of {of} is not placed: {why}")


def entry(child_id: str, nodes: Iterable[Node], session: Session) -> dict[str, Any]:
    """A child in the form of Hub.status.registry; ``onDemand`` is true where a request has started it."""
    hub, record = session.living_hub(), session.registry.records.get(child_id)
    listed = []
    for node in nodes:
        plain: dict[str, Any] = msgspec.to_builtins(node)
        listed.append({"name": plain.pop("name"), "pod": pod_of(hub, node.name), **plain})
    started = {"onDemand": True} if record is not None and record.on_demand else {}
    return {"id": child_id, **started, "nodes": listed}


def pod_of(hub: HubObject, member: str) -> str:
    """The name of the member's pod: by the hub's status, else, in mode Replicas, the member's own; else empty."""
    known = next((one.pod for one in hub.status.members if one.name == member), "")
    return known or (member if hub.spec.members.mode == "Replicas" else "")


async def _found(session: Session, child_id: str, record: Record) -> dict[str, Any]:
    """The child as in ``entry``, with the pods that hold it: those of a pod child are its own."""
    found = entry(child_id, record.nodes, session)
    for node in found["nodes"]:
        node["pod"] = await own_pod(session, child_id, record, node["name"]) or node["pod"]
    return found


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


async def object_of(session: Session, child_id: str) -> str:
    """The object that the child belongs to, as ``-o name`` prints it. Raises the client's errors."""
    return (await objects_of(session, [child_id]))[child_id]


async def objects_of(session: Session, ids: Collection[str]) -> dict[str, str]:
    """The objects that these children belong to, by id, as ``-o name`` prints it. Raises the client's errors."""
    objects = {child_id: f"hub/{session.name}" for child_id in ids if session.on_demand(child_id)}
    others = [child_id for child_id in ids if child_id not in objects]
    if not others:
        return objects
    with translated(f"children of hub {session.name} can't be looked up"):
        children, records = await find_children(session, others), session.registry.records
        # A Child that is on record is the owner of its id. The ChildSets, which not all may list, are for the others.
        certain = all(
            child_id in records and child_id in children and records[child_id].uid == children[child_id].metadata.uid
            for child_id in others
        )
        sets = [] if certain else await list_sets(session)
    for child_id in others:
        owner, child = owner_among(sets, session, child_id), children.get(child_id)
        name = child.metadata.name if child is not None else child_object_name(child_id)
        objects[child_id] = f"childset/{owner.metadata.name}" if owner is not None else f"child/{name}"
    return objects
