"""The events of one child, derived from what was known of its copies and what is seen of them now."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from processhub.api.hooks import HookEvent
from processhub.controller.hooks.hubevent import HubEvent
from processhub.controller.hooks.view import CopySeen

CopyKey = tuple[str, str]  # (uid, member)


class CopyKnown(msgspec.Struct, frozen=True):
    """A copy as hooks know it: whether it is on record, whether it has started, and its pid (0: none, or a pod's).

    ``finished``: it is not started again, there or elsewhere.
    """

    registered: bool
    up: bool
    pid: int
    epoch: int
    running: bool
    finished: bool


class ChildKnown(msgspec.Struct, frozen=True):
    """A child as hooks know it. ``departed``: members that it left, while no other member has followed yet."""

    copies: Mapping[CopyKey, CopyKnown] = {}
    departed: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether a copy runs."""
        return any(copy.running for copy in self.copies.values())

    def finished_on(self, member: str) -> bool:
        """Whether no copy on this member is to be started again, there or elsewhere."""
        return all(copy.finished for (_, where), copy in self.copies.items() if where == member)


def child_events(
    child_id: str, before: ChildKnown, copies: Sequence[CopySeen], wanted_uid: str, why: str, lost: Container[str]
) -> tuple[ChildKnown, list[HubEvent]]:
    """Derive the events of one child; returns what is known now, and the events.

    ``wanted_uid`` is the uid of the child that should run ("" for none), ``why`` the reason of its last move, ``lost``
    the members that are gone.
    """
    seen = {(copy.uid, copy.member): copy for copy in copies}
    now = {key: _known(before.copies.get(key), copy) for key, copy in seen.items()}
    events = list(_ends(child_id, before, seen, now, lost))
    arrived = []
    for (uid, member), copy in now.items():
        old = before.copies.get((uid, member))
        if copy.registered and not _registered(old):
            events.append(_event(HookEvent.CHILD_REGISTERED, child_id, seen[uid, member], **_data(seen[uid, member])))
            if uid == wanted_uid:
                arrived.append(member)
    left = [
        member
        for (uid, member), old in before.copies.items()
        if uid == wanted_uid and old.registered and not _registered(now.get((uid, member)))
    ]
    departed = [*before.departed, *left] if wanted_uid else []
    for member in arrived:
        if member in departed:
            departed.remove(member)
        elif departed:
            data = {"child": child_id, "uid": wanted_uid, "epoch": now[wanted_uid, member].epoch}
            data |= {"from": departed.pop(0), "to": member, "why": why}
            events.append(HubEvent(HookEvent.CHILD_MOVED, child_id, data))
    events += _starts(child_id, before, seen, now)
    if any(copy.registered for copy in now.values()) and not any(copy.waiting for copy in copies):
        departed = []  # no move is under way: the child has one copy less
    return ChildKnown(now, tuple(departed)), events


def _registered(copy: CopyKnown | None) -> bool:
    return copy is not None and copy.registered


def _known(old: CopyKnown | None, copy: CopySeen) -> CopyKnown:
    report = copy.report
    up, pid = (old.up, old.pid) if old else (False, 0)
    if copy.running:
        assert report is not None
        up, pid = True, report.pid
    elif copy.ended:
        up, pid = False, 0
    return CopyKnown(copy.registered, up, pid, copy.epoch, copy.running, copy.finished)


def _ends(
    child_id: str,
    before: ChildKnown,
    seen: Mapping[CopyKey, CopySeen],
    now: Mapping[CopyKey, CopyKnown],
    lost: Container[str],
) -> Iterator[HubEvent]:
    for key, old in before.copies.items():
        uid, member = key
        copy = seen.get(key)
        ended = copy or CopySeen(uid=uid, member=member)
        about = {"epoch": old.epoch, "reason": "MemberLost" if member in lost else _reason(copy)}
        if old.registered and not (copy and copy.registered):
            yield _event(HookEvent.CHILD_UNREGISTERED, child_id, ended, **about)
        if old.up and not (copy and now[key].up):
            exit_text = {"exit": copy.report.last_exit} if copy and copy.report and copy.report.last_exit else {}
            yield _event(HookEvent.CHILD_STOPPED, child_id, ended, pid=old.pid, **about, **exit_text)


def _starts(
    child_id: str, before: ChildKnown, seen: Mapping[CopyKey, CopySeen], now: Mapping[CopyKey, CopyKnown]
) -> Iterator[HubEvent]:
    for key, copy in now.items():
        old = before.copies.get(key)
        if not copy.running:
            continue
        about = {"epoch": copy.epoch, "pid": copy.pid, "role": _role(seen[key])}
        if old is None or not old.up:
            yield _event(HookEvent.CHILD_STARTED, child_id, seen[key], **about)
            entry = seen[key].entry
            if entry is not None and entry.state and entry.epoch == copy.epoch:
                about = {"epoch": copy.epoch, "checksum": entry.state}
                yield _event(HookEvent.HANDOVER_DELIVERED, child_id, seen[key], **about)
        elif copy.pid != old.pid:
            yield _event(HookEvent.CHILD_PID_UPDATED, child_id, seen[key], previousPid=old.pid, **about)


def _event(kind: HookEvent, child_id: str, copy: CopySeen, **data: Any) -> HubEvent:
    return HubEvent(kind, child_id, {"child": child_id, "uid": copy.uid, "member": copy.member, **data})


def _data(copy: CopySeen) -> dict[str, Any]:
    assert copy.entry is not None
    tags, metadata = list(copy.entry.tags), dict(copy.entry.metadata)
    return {"epoch": copy.entry.epoch, "role": copy.entry.role, "tags": tags, "metadata": metadata}


def _role(copy: CopySeen) -> str:
    return copy.report.role if copy.report else "Active"


def _reason(copy: CopySeen | None) -> str:
    """Partitioned, the member's own reason (Completed, Exited, …), or Ordered if the entry was removed."""
    if copy is not None and copy.partitioned:
        return "Partitioned"
    if copy is not None and copy.registered and copy.report and copy.report.reason:
        return copy.report.reason
    return "Ordered"
