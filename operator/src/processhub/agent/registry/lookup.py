"""Look-ups in the registry: all slices of the hub, with the entries of their specs and their statuses joined."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from processhub.api.addresses import authority
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice
from processhub.registry.copies import Copy, is_running, parse_copy
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


class StateSource(msgspec.Struct, frozen=True):
    """A copy that is to hand its state over; ``sent_for``: the epoch of the waiting entry it was sent to, or 0."""

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


def copies(slices: Iterable[RegistrySlice], child_id: str) -> list[RoutedCopy]:
    """The child's copies in registry order: the active one first, then by member. Of each member only the newest."""
    found: dict[str, RoutedCopy] = {}
    for item in slices:
        if child_id not in item.spec.entries:
            continue
        copy = _copy(item, child_id)
        if copy is None or copy.entry is None:
            continue
        entry, known = copy.entry, found.get(copy.member)
        if known is None or known.epoch <= entry.epoch:
            found[copy.member] = RoutedCopy(
                copy.member, _address(item), entry.role, entry.epoch, entry.wait, copy.running
            )
    return sorted(found.values(), key=lambda copy: (copy.role, copy.member))


def takeover_of(slices: Iterable[RegistrySlice], child_id: str, epoch: int) -> RoutedCopy | None:
    """The copy that another member started because it could not reach the owner; the first by member if several did."""
    found: list[RoutedCopy] = []
    for item in slices:
        text = item.status.entries.get(child_id)
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
    nodes: list[Entry] = []
    tags: list[str] = []
    for item in slices:
        if child_id in item.spec.entries or child_id in item.status.entries:
            _add(item, child_id, nodes, tags)
    return _entry(child_id, nodes, tags) if nodes else None


def children(slices: Iterable[RegistrySlice], *, tag: str = "", member: str = "") -> list[Entry]:
    """All children, sorted by id; only those with the tag, or with a copy on the member, if one is given."""
    found: dict[str, tuple[list[Entry], list[str]]] = {}
    for item in slices:
        for child_id in item.spec.entries.keys() | item.status.entries.keys():
            nodes, tags = found.setdefault(child_id, ([], []))
            _add(item, child_id, nodes, tags)
    listed = (_entry(child_id, *found[child_id]) for child_id in sorted(found))
    return [
        entry
        for entry in listed
        if entry["nodes"]
        and (not tag or tag in entry["tags"])
        and (not member or any(node["name"] == member for node in entry["nodes"]))
    ]


def members(slices: Iterable[RegistrySlice]) -> list[Entry]:
    """The members that have slices, each with the number of its children and how many of them run."""
    found: dict[str, Entry] = {}
    for item in slices:
        name, entries = item.spec.member, item.spec.entries
        pod = {"pod": name} if item.spec.mode == "Replicas" else {}
        children = {known for known, text in entries.items() if not is_of_nobody(text)}
        children |= {known for known, text in item.status.entries.items() if known not in entries and is_by_view(text)}
        member = found.setdefault(name, {"name": name, **pod, "children": 0, "running": 0})
        member["children"] += len(children)
        member["running"] += sum(is_running(entries.get(known), text) for known, text in item.status.entries.items())
    return [found[name] for name in sorted(found)]


def _copy(item: RegistrySlice, child_id: str) -> Copy | None:
    return parse_copy(item.spec.member, item.spec.entries.get(child_id), item.status.entries.get(child_id))


def _entry(child_id: str, nodes: list[Entry], tags: list[str]) -> Entry:
    # As everywhere, the active copy is first.
    return {"id": child_id, "nodes": sorted(nodes, key=lambda node: (node["role"], node["name"])), "tags": tags}


def _add(item: RegistrySlice, child_id: str, nodes: list[Entry], tags: list[str]) -> None:
    """Add this slice's copy of the child, and its tags."""
    copy = _copy(item, child_id)
    if copy is not None and copy.entry is not None and copy.entry.of_nobody:
        copy = Copy(copy.member, None, copy.report) if copy.report is not None else None
    if copy is None:
        return
    if copy.entry is not None:
        tags.extend(tag for tag in copy.entry.tags if tag not in tags)
    shown = copy.shown
    known = shown or copy.entry
    assert known is not None
    node: Entry = {"name": copy.member}
    if item.spec.mode == "Replicas":
        node["pod"] = copy.member
    pid = shown.pid if shown is not None else 0
    nodes.append(node | {"role": known.role, "state": copy.state, "pid": pid, "epoch": known.epoch})
