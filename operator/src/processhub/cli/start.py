"""``kubectl hub start``: makes specs from the command line or from files, and starts them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from processhub.api.naming import child_object_name
from processhub.cli.durations import seconds
from processhub.cli.errors import DONE, FAILED, TIMED_OUT, UsageError
from processhub.cli.files import child_spec, documents, marks_of, namespace_of
from processhub.cli.output import in_order, named, out, quoted, say, structured
from processhub.cli.shared import Output, Target
from processhub.cli.target import opened
from processhub.client.errors import ChildError, ClientReason
from processhub.client.hub import Hub
from processhub.client.results import Result
from processhub.client.session import Session
from processhub.core.listing import counted, listed

_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Order:
    """The children to start, by the command line."""

    ids: tuple[str, ...] = ()
    exec: bool = False
    command: tuple[str, ...] = ()
    python: str | None = None
    files: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pinned: bool = False


async def start_children(
    order: Order, target: Target, *, on_failure: Literal["continue", "rollback"], wait: bool, timeout: str
) -> int:
    """Start the children and print the outcome of each; returns the exit code."""
    limit = seconds(timeout)
    manifests = tuple(chain.from_iterable(map(documents, order.files)))
    specs = specs_of(order, manifests)
    for where, found in manifests:
        if marks := marks_of(where, found):
            say(f"warning: {where}: start leaves out metadata.{' and metadata.'.join(marks)}; kubectl apply keeps them")
    target = replace(target, hub=hub_of(specs, target.hub), namespace=namespace_of(manifests, target.namespace))
    async with opened(target, members=order.nodes, follow=wait or on_failure == "rollback") as session:
        try:
            result = await Hub.attached(session).start_children(
                specs, wait=wait, timeout=limit, on_failure=on_failure, tags=order.tags
            )
        except asyncio.CancelledError:
            undone = "what this call had started was removed" if on_failure == "rollback" else "what it started stays"
            say(f"start was interrupted; {undone}")
            raise
        if not wait:
            _warn_of_unknown_members(session, specs, result)
    return report(result, target.output, wait=wait)


def _warn_of_unknown_members(session: Session, specs: list[dict[str, Any]], result: Result) -> None:
    """Say which started children wait for members that the hub does not have. With --wait their conditions say it."""
    there = [member.name for member in session.living_hub().status.members]
    for spec in specs:
        unknown = [node for node in spec.get("nodes") or () if node not in there]
        if unknown and there and spec.get("id") in result.started:
            names = listed([repr(node) for node in unknown])
            say(f"warning: child {spec['id']} waits: hub {session.name} has no member {names}; it has {listed(there)}")


def specs_of(order: Order, manifests: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The children to start, as specs; ``manifests`` are those of the order's files. Raises UsageError."""
    chosen = [
        name for name, given in (("--exec", order.exec), ("--python", order.python), ("-f", order.files)) if given
    ]
    if len(chosen) != 1:
        said = f"{' and '.join(chosen)} are given" if chosen else "none is given"
        raise UsageError(f"start needs exactly one of --exec -- CMD…, --python MODULE:CLASS and -f FILE; {said}")
    if order.files:
        found = [child_spec(where, found) for where, found in manifests]
        specs = _chosen(found, order.ids, listed(order.files))
    else:
        if not order.ids:
            raise UsageError(f"start {chosen[0]} needs the ids to start: start ID… {chosen[0]} …")
        workload = _workload(order)
        specs = [{"id": child_id, **workload} for child_id in order.ids]
    extra: dict[str, Any] = {"pinned": True} if order.pinned else {}
    if order.nodes:
        extra["nodes"] = list(order.nodes)
    return [{**spec, **extra} for spec in specs]


def hub_of(specs: list[dict[str, Any]], named: str | None) -> str | None:
    """The hub that the files name, or ``named``. Raises UsageError if they name different ones."""
    hubs = sorted({str(spec["hub"]) for spec in specs if spec.get("hub")} | ({named} if named else set()))
    if len(hubs) > 1:
        raise UsageError(f"the children name different hubs: {', '.join(hubs)}; start them hub by hub")
    return hubs[0] if hubs else None


def report(result: Result, output: Output, *, wait: bool, objects: Mapping[str, str] = _NONE) -> int:
    """Print each child's outcome: started ones to stdout, errors to stderr; returns the exit code.

    ``objects``: by id what a child belongs to if that is no Child of the result, such as ``hub/shop``.
    """
    if output in (Output.JSON, Output.YAML):
        structured(_plain(result), output)
    else:
        for child_id, processes in in_order(result.started):
            name = result.objects.get(child_id) or child_object_name(child_id)
            places = ", ".join(f"{member} (pid {pid})" if pid else member for member, pid in processes)
            words = quoted(child_id) if child_id in objects else named(child_id, name)
            known = objects.get(child_id) or f"child/{name}"
            done = f"running on {places}" if places else "ended with success" if wait else "created"
            out(known if output is Output.NAME else f"{words} {done}")
    failures(result.errors, "started")
    if result.rollback is not None:
        say(f"rolled back: {counted(len(result.rollback.removed), 'child', 'children')} removed again")
        for child_id, error in in_order(result.rollback.left):
            say(f"error: child {child_id} could not be removed: {error}")
    return code_of(result.errors)


def failures(errors: dict[str, ChildError], what: str) -> None:
    """Print a sentence for each child to stderr."""
    for child_id, error in in_order(errors):
        say(f"error: child {child_id} not {what}: {error}")


def code_of(errors: dict[str, ChildError]) -> int:
    """The exit code for the errors of single children."""
    if not errors:
        return DONE
    late = {ClientReason.TIMEOUT, ClientReason.NOT_SENT}
    return TIMED_OUT if all(error.reason in late for error in errors.values()) else FAILED


def _workload(order: Order) -> dict[str, Any]:
    if order.exec:
        if not order.command:
            raise UsageError("--exec needs the program to run: start ID… --exec -- CMD ARG…")
        if not order.command[0]:
            raise UsageError("--exec -- '' names no program; write the program to run")
        return {"exec": {"command": list(order.command)}}
    module, colon, name = (order.python or "").partition(":")
    if not (module and colon and name):
        raise UsageError(f"--python {order.python!r} names no class; write MODULE:CLASS, such as app.workers:Poller")
    return {"python": {"target": order.python}}


def _chosen(found: list[dict[str, Any]], ids: tuple[str, ...], path: str) -> list[dict[str, Any]]:
    """The files' children, those with the given ids, or one spec without an id for each of the ids."""
    if not found:
        raise UsageError(f"{path} holds no child")
    if not ids:
        if missing := [index + 1 for index, spec in enumerate(found) if not spec.get("id")]:
            raise UsageError(f"{path}: child {missing[0]} has no id; write one, or name the ids: start ID… -f FILE")
        return found
    if len(found) == 1 and not found[0].get("id"):
        return [{**found[0], "id": child_id} for child_id in ids]
    by_id = {str(spec.get("id")): spec for spec in found}
    if strangers := [child_id for child_id in ids if child_id not in by_id]:
        raise UsageError(f"{path} has no child {strangers[0]!r}; it has {', '.join(sorted(by_id)[:10])}")
    return [by_id[child_id] for child_id in ids]


def _plain(result: Result) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "started": {
            child_id: [{"name": member, "pid": pid} for member, pid in processes]
            for child_id, processes in result.started.items()
        },
        "errors": {
            child_id: {"reason": error.reason, "message": error.message} for child_id, error in result.errors.items()
        },
    }
    if result.rollback is not None:
        plain["rollback"] = {
            "removed": list(result.rollback.removed),
            "left": {child_id: str(error) for child_id, error in result.rollback.left.items()},
        }
    return plain
