"""The registry as this member knows it: all slices of the hub, what shall run joined with what runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice
from processhub.registry.grammar import (
    EntryError,
    Given,
    HandoverOrder,
    hands_over,
    has_state,
    parse_assignment,
    parse_report,
)

Entry = dict[str, Any]


class Copy(msgspec.Struct, frozen=True):
    """One copy on record, for routing: whether its member reports it Running at the entry's very epoch."""

    member: str
    address: str  # the member's, "" where it has not said
    role: str
    epoch: int
    wait: bool
    running: bool


class StateSource(msgspec.Struct, frozen=True):
    """A copy that is to hand its state over; ``sent_for``: the waiting entry's epoch for which it reported it sent."""

    uid: str
    sent_for: int = 0


def state_sources(slices: Iterable[RegistrySlice], child_id: str, target: str) -> Iterator[StateSource]:
    """The copies that are to hand the child's state over to the member ``target``."""
    for item in slices:
        text = item.spec.entries.get(child_id)
        if not text or not hands_over(text):
            continue
        with contextlib.suppress(EntryError):
            entry = parse_assignment(text)
            if not entry.to or HandoverOrder.parse(entry.to).member != target:
                continue
            given = None
            with contextlib.suppress(EntryError):
                given = Given.parse(parse_report(item.status.entries.get(child_id, "")).gave)
            yield StateSource(entry.uid, given.epoch if given else 0)


def copies(slices: Iterable[RegistrySlice], child_id: str) -> list[Copy]:
    """The child's copies in registry order: the active one first, then by member. Of one member the newest."""
    found: dict[str, Copy] = {}
    for item in slices:
        text = item.spec.entries.get(child_id)
        if not text:
            continue
        with contextlib.suppress(EntryError):
            entry = parse_assignment(text)
            known = found.get(item.spec.member)
            if known is not None and known.epoch > entry.epoch:
                continue
            running = False
            with contextlib.suppress(EntryError):
                if reported := item.status.entries.get(child_id):
                    report = parse_report(reported)
                    # One that was promoted runs on, though it may not have heard of its new epoch yet.
                    current = report.uid == entry.uid and report.epoch in (entry.epoch, entry.run)
                    running = current and report.state == State.RUNNING
            found[item.spec.member] = Copy(
                item.spec.member, item.status.address, entry.role, entry.epoch, entry.wait, running
            )
    return sorted(found.values(), key=lambda copy: (copy.role, copy.member))


def takeover_of(slices: Iterable[RegistrySlice], child_id: str, epoch: int) -> Copy | None:
    """The copy that another member than the owner started, because it could not reach that: of several the first."""
    found: list[Copy] = []
    for item in slices:
        text = item.status.entries.get(child_id)
        if not text or child_id in item.spec.entries:
            continue
        with contextlib.suppress(EntryError):
            report = parse_report(text)
            if report.claim and report.epoch == epoch:
                running = report.state == State.RUNNING
                found.append(Copy(item.spec.member, item.status.address, report.role, epoch, False, running))
    return min(found, key=lambda copy: copy.member, default=None)


def child(slices: Iterable[RegistrySlice], child_id: str) -> Entry | None:
    """One child as in Hub.status.registry, with its tags; None where the hub has no such child."""
    nodes: list[Entry] = []
    tags: list[str] = []
    for item in slices:
        if child_id in item.spec.entries or child_id in item.status.entries:
            _join(item, child_id, nodes, tags)
    return _entry(child_id, nodes, tags) if nodes else None


def children(slices: Iterable[RegistrySlice], *, tag: str = "", member: str = "") -> list[Entry]:
    """All children, sorted by id; only those with a tag, or with a copy on a member."""
    found: dict[str, tuple[list[Entry], list[str]]] = {}
    for item in slices:
        for child_id in item.spec.entries.keys() | item.status.entries.keys():
            nodes, tags = found.setdefault(child_id, ([], []))
            _join(item, child_id, nodes, tags)
    listed = (_entry(child_id, *found[child_id]) for child_id in sorted(found))
    return [
        entry
        for entry in listed
        if entry["nodes"]
        and (not tag or tag in entry["tags"])
        and (not member or any(node["name"] == member for node in entry["nodes"]))
    ]


def members(slices: Iterable[RegistrySlice]) -> list[Entry]:
    """The members that have slices, with how many children each has and how many of them run."""
    found: dict[str, Entry] = {}
    for item in slices:
        name = item.spec.member
        pod = {"pod": name} if item.spec.mode == "Replicas" else {}
        member = found.setdefault(name, {"name": name, **pod, "children": 0, "running": 0})
        member["children"] += len(item.spec.entries)
        member["running"] += sum(has_state(text, State.RUNNING) for text in item.status.entries.values())
    return [found[name] for name in sorted(found)]


def _entry(child_id: str, nodes: list[Entry], tags: list[str]) -> Entry:
    # The active one first, as everywhere.
    return {"id": child_id, "nodes": sorted(nodes, key=lambda node: (node["role"], node["name"])), "tags": tags}


def _join(item: RegistrySlice, child_id: str, nodes: list[Entry], tags: list[str]) -> None:
    """Add this slice's copy of the child. What runs counts; an entry not reported yet is Pending."""
    assignment = report = None
    with contextlib.suppress(EntryError):
        if text := item.spec.entries.get(child_id):
            assignment = parse_assignment(text)
            tags.extend(tag for tag in assignment.tags if tag not in tags)
    with contextlib.suppress(EntryError):
        if text := item.status.entries.get(child_id):
            report = parse_report(text)
    node: Entry = {"name": item.spec.member}
    if item.spec.mode == "Replicas":
        node["pod"] = item.spec.member
    if report is not None:
        node |= {"role": report.role, "state": report.state, "pid": report.pid, "epoch": report.epoch}
    elif assignment is not None:
        node |= {"role": assignment.role, "state": "Pending", "pid": 0, "epoch": assignment.epoch}
    else:
        return
    nodes.append(node)
