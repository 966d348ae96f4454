"""The registry as this member knows it: all slices of the hub, what shall run joined with what runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from processhub.api.slice import EntryError, RegistrySlice, parse_assignment, parse_report

Entry = dict[str, Any]


def lookup(slices: Iterable[RegistrySlice], child_id: str) -> Entry | None:
    """One child as in Hub.status.registry, with its tags; None where the hub has no such child."""
    nodes: list[Entry] = []
    tags: list[str] = []
    for item in slices:
        if child_id in item.spec.entries or child_id in item.status.entries:
            _join(item, child_id, nodes, tags)
    return _entry(child_id, nodes, tags) if nodes else None


def entries(slices: Iterable[RegistrySlice], *, tag: str = "", member: str = "") -> list[Entry]:
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
        member["running"] += sum(" Running " in text for text in item.status.entries.values())
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
