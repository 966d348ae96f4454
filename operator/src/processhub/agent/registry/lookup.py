"""Look-ups in the registry: all slices of the hub, with the entries of their specs and their statuses joined."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from processhub.api.addresses import authority
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice
from processhub.registry.copies import Copy, is_running, joined, of_a_child, parse_copy
from processhub.registry.grammar import (
    EntryError,
    Given,
    HandoverOrder,
    hands_over,
    is_by_view,
    is_of_nobody,
    parse_assignment,
    parse_report,
)

Entry = dict[str, Any]


class RoutedCopy(msgspec.Struct, frozen=True):
    """One copy on record, for routing: the address of its member, and whether the copy runs."""

    member: str
    address: str  # host and port of the member, "" if it has not reported them
    role: str
    epoch: int
    wait: bool
    running: bool


def sent_for(slices: Iterable[RegistrySlice], child_id: str, uid: str, target: str) -> int | None:
    """The epoch of the entry on the member ``target`` for which the child's state was sent there; 0: for none yet.

    None if no copy of this uid is to hand its state over to that member.
    """
    for item in slices:
        text = item.spec.entries.get(child_id)
        if not text or not hands_over(text):
            continue
        with contextlib.suppress(EntryError):
            entry = parse_assignment(text)
            if entry.uid != uid or not entry.to or HandoverOrder.parse(entry.to).member != target:
                continue
            given = None
            with contextlib.suppress(EntryError):
                given = Given.parse(parse_report(item.status.reports.get(child_id, "")).gave)
            return given.epoch if given else 0
    return None


def copies(slices: Iterable[RegistrySlice], child_id: str) -> list[RoutedCopy]:
    """The child's copies in registry order: the active one first, then by member. Of each member only the newest."""
    found: dict[str, RoutedCopy] = {}
    for copy in joined(_copies(slices, child_id)):
        if copy.entry is None:
            continue
        entry, known = copy.entry, found.get(copy.member)
        if known is None or known.epoch <= entry.epoch:
            found[copy.member] = RoutedCopy(
                copy.member, _address(copy.item), entry.role, entry.epoch, entry.wait, copy.running
            )
    return sorted(found.values(), key=lambda copy: (copy.role, copy.member))


def why_not_running(slices: Iterable[RegistrySlice], child_id: str) -> str:
    """Why a child on record does not run, as a clause about its first copy; "" if it is on no record."""
    owned = [(copy.entry, copy) for copy in joined(_copies(slices, child_id)) if copy.entry is not None]
    if not owned:
        return ""
    entry, copy = min(owned, key=lambda each: (each[0].role, each[0].wait, each[1].member))
    if entry.asleep:
        return "it is suspended, by its own spec.suspend or by its hub's"
    report = copy.shown
    what = [report.reason, report.message or report.last_exit] if report is not None else []
    said = ", ".join(part for part in what if part not in ("", copy.state))
    return f"it is {copy.state} on member {copy.member}{f': {said}' if said else ''}"


def takeover_of(slices: Iterable[RegistrySlice], child_id: str, epoch: int) -> RoutedCopy | None:
    """The copy that another member started because it could not reach the owner; the first by member if several did."""
    found: list[RoutedCopy] = []
    for item in slices:
        text = item.status.reports.get(child_id)
        if not text or child_id in item.spec.entries:
            continue
        with contextlib.suppress(EntryError):
            report = parse_report(text)
            if report.claim and report.epoch == epoch:
                running = report.state == State.RUNNING
                found.append(RoutedCopy(item.spec.member, _address(item), report.role, epoch, False, running))
    return min(found, key=lambda copy: copy.member, default=None)


def address_of(slices: Iterable[RegistrySlice], member: str) -> str:
    """The host and port at which the member accepts requests, "" if it has not reported them."""
    return next((found for item in slices if item.spec.member == member and (found := _address(item))), "")


def _address(item: RegistrySlice) -> str:
    """The host and port at which the slice's member accepts requests, "" if it has not reported them."""
    return authority(item.status.address, item.status.port) if item.status.address else ""


def child(slices: Iterable[RegistrySlice], child_id: str) -> Entry | None:
    """One child as in Hub.status.registry, with its tags; None if the hub has no such child."""
    return _entry(child_id, _copies(slices, child_id))


def children(slices: Iterable[RegistrySlice], *, tags: Collection[str] = (), member: str = "") -> list[Entry]:
    """All children, sorted by id; only those with all of the tags, or with a copy on the member, if one is given."""
    found: dict[str, list[RegistrySlice]] = {}
    for item in slices:
        for child_id in item.spec.entries.keys() | item.status.reports.keys():
            found.setdefault(child_id, []).append(item)
    listed = (_entry(child_id, _copies(found[child_id], child_id)) for child_id in sorted(found))
    return [
        entry
        for entry in listed
        if entry is not None
        and all(tag in entry["tags"] for tag in tags)
        and (not member or any(node["name"] == member for node in entry["nodes"]))
    ]


def members(slices: Iterable[RegistrySlice]) -> list[Entry]:
    """The members that have slices, each with the number of its children and how many of them run."""
    modes: dict[str, str] = {}
    children: dict[str, set[str]] = {}
    running: dict[str, set[str]] = {}
    for item in slices:
        name, entries, reports = item.spec.member, item.spec.entries, item.status.reports
        modes[name] = item.spec.mode
        there = children.setdefault(name, set())
        there.update(known for known, text in entries.items() if not is_of_nobody(text))
        there.update(known for known, text in reports.items() if known not in entries and is_by_view(text))
        runs = running.setdefault(name, set())
        runs.update(known for known, text in reports.items() if is_running(entries.get(known), text))
    return [
        {
            "name": name,
            **({"pod": name} if modes[name] == "Replicas" else {}),
            "children": len(children[name]),
            "running": len(running[name]),
        }
        for name in sorted(modes)
    ]


class _SliceCopy(Copy, frozen=True):
    """A copy with the slice that names it."""

    item: RegistrySlice


def _copies(slices: Iterable[RegistrySlice], child_id: str) -> list[_SliceCopy]:
    """The copies of a child, as each slice names it."""
    found = []
    for item in slices:
        entry, report = item.spec.entries.get(child_id), item.status.reports.get(child_id)
        if (entry or report) and (copy := parse_copy(item.spec.member, entry, report)) is not None:
            found.append(_SliceCopy(copy.member, copy.entry, copy.report, item))
    return found


def _entry(child_id: str, copies: list[_SliceCopy]) -> Entry | None:
    """The copies as in Hub.status.registry, with the tags; None if there is nothing to show."""
    shown = [
        msgspec.structs.replace(copy, entry=entry, report=report)
        for copy in copies
        for entry, report in ((of_a_child(copy.entry), of_a_child(copy.report)),)
        if entry is not None or report is not None
    ]
    if not shown:
        return None
    nodes = [_node(copy) for copy in joined(shown)]
    tags = [tag for copy in shown if copy.entry is not None for tag in copy.entry.tags]
    # As everywhere, the active copy is first.
    nodes.sort(key=lambda node: (node["role"], node["name"]))
    return {"id": child_id, "nodes": nodes, "tags": list(dict.fromkeys(tags))}


def _node(copy: _SliceCopy) -> Entry:
    shown = copy.shown
    known = shown or copy.entry
    assert known is not None
    node: Entry = {"name": copy.member}
    if copy.item.spec.mode == "Replicas":
        node["pod"] = copy.member
    pid = shown.pid if shown is not None else 0
    return node | {"role": known.role, "state": copy.state, "pid": pid, "epoch": known.epoch}
