"""The events of a round: the difference between what was known of a hub and what is seen of it now.

The functions are pure: no I/O and no clock. Changes between two looks count as one change, or none: a child that
crashed and runs again has a new pid. docs/concepts.md says what triggers each event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from processhub.api.hooks import HookEvent
from processhub.controller.hooks.children import ChildKnown, child_events
from processhub.controller.hooks.hubevent import HubEvent
from processhub.controller.hooks.view import HubView, MemberSeen
from processhub.core.model.membership import Phase

NAMED = 100  # the most ids in one event
_NOTHING = ChildKnown()


class _MemberKnown(msgspec.Struct):
    """The events that a present member has had; ``children`` is the number it had when it began to leave."""

    joined: bool = False
    leaving: bool = False
    emptied: bool = False
    children: int = 0


class _Recovery(msgspec.Struct):
    """The recovery of a member that was lost or restarts: the number of its children, and those that do not run yet."""

    total: int
    missing: set[str]


class Tracker:
    """The last known state of one hub. The first view is the state that was found, so it gives no events.

    A child that a member has started by itself, and that no leader has put on record yet, counts as new all the same.
    """

    def __init__(self) -> None:
        self._begun = False
        self._members: dict[str, _MemberKnown] = {}
        self._children: dict[str, ChildKnown] = {}
        self._on_member: dict[str, set[str]] = {}  # member → ids that are registered there
        self._why: dict[str, str] = {}  # id → the reason of its move
        self._recovering: dict[str, _Recovery] = {}
        self._stranded: dict[str, tuple[str, ...]] = {}
        self._wave: int | None = None  # number of moves of the present redistribution
        self._partitioned = False
        self._seen: Mapping[str, MemberSeen] = {}

    def changed_members(self, members: Mapping[str, MemberSeen]) -> set[str]:
        """The members that changed since the last view or are new ones of that name. Their children may have too."""
        return {name for name, member in members.items() if _life(member) != _life(self._seen.get(name))}

    def advance(self, view: HubView) -> list[HubEvent]:
        """Take a view; returns the events since the last one, in an order that makes sense to a reader."""
        members = self._follow_members(view)
        children = self._follow_children(view)
        self._seen = view.members
        events = [*members, *children, *self._redistribution(view), *self._recoveries(view), *self._partition(view)]
        if not self._begun:
            self._begun = True
            return []
        return events

    # Members.

    def _follow_members(self, view: HubView) -> list[HubEvent]:
        events: list[HubEvent] = []
        for name in self._members.keys() - view.members.keys():
            events += self._left(name, "removed")
        for name, member in view.members.items():
            known = self._members.get(name)
            if member.phase is Phase.GONE:
                if known is not None:
                    events += self._left(name, member.why)
                continue
            if known is None:
                # Before its first start a member looks like one that restarts, but it has nothing.
                if member.phase is not Phase.LIVE and (self._begun or not member.occupied):
                    continue
                known = self._members[name] = _MemberKnown(joined=not self._begun and not member.joining)
                events.append(_member(HookEvent.MEMBER_JOINING, name))
            if member.restarting or self._replaced(name, member):
                self._begin_recovery(name)
            if not known.joined and member.phase is Phase.LIVE and not member.joining and not member.leaving:
                known.joined = True
                events.append(_member(HookEvent.MEMBER_JOINED, name, children=len(self._on_member.get(name, ()))))
            events += self._leaving(name, known, member)
        return events

    def _replaced(self, name: str, member: MemberSeen) -> bool:
        """Whether the member restarted between two looks: another holds its Lease. Its children restart with it."""
        before = self._seen.get(name)
        return before is not None and bool(before.holder and member.holder) and before.holder != member.holder

    def _leaving(self, name: str, known: _MemberKnown, member: MemberSeen) -> list[HubEvent]:
        if not member.leaving:
            known.leaving = known.emptied = False
            return []
        events = []
        if not known.leaving:
            known.leaving, known.children = True, len(self._on_member.get(name, ()))
            events.append(_member(HookEvent.MEMBER_LEAVING, name, children=known.children))
        if not member.occupied and not known.emptied:
            known.emptied = True
            events.append(_member(HookEvent.DRAIN_COMPLETED, name, children=known.children))
        return events

    def _left(self, name: str, why: str) -> list[HubEvent]:
        known, children = self._members.pop(name), len(self._on_member.get(name, ()))
        self._begin_recovery(name)
        events = [_member(HookEvent.MEMBER_LEFT, name, children=children, reason=why)]
        if known.leaving and not known.emptied and not children:
            # The member left as soon as it was empty.
            events.insert(0, _member(HookEvent.DRAIN_COMPLETED, name, children=known.children))
        return events

    # Children.

    def _follow_children(self, view: HubView) -> list[HubEvent]:
        self._why.update((move.id, move.why) for move in view.moves)
        events: list[HubEvent] = []
        lost = {name for name, member in view.members.items() if member.phase is Phase.GONE}
        for child_id, copies in view.copies.items():
            if not self._begun:
                copies = tuple(copy for copy in copies if not copy.self_started)
            before = self._children.get(child_id, _NOTHING)
            wanted = view.wanted.get(child_id)
            uid, why = wanted.uid if wanted else "", self._why.get(child_id, "")
            now, happened = child_events(child_id, before, copies, uid, why, lost)
            events += happened
            self._index(child_id, before, now)
            if now.copies or wanted is not None:
                self._children[child_id] = now
            else:
                self._children.pop(child_id, None)
            if any(event.kind == HookEvent.CHILD_MOVED for event in happened) or wanted is None:
                self._why.pop(child_id, None)
        return events

    def _index(self, child_id: str, before: ChildKnown, now: ChildKnown) -> None:
        for (_, member), copy in before.copies.items():
            if copy.registered:
                self._on_member[member].discard(child_id)
        for (_, member), copy in now.copies.items():
            if copy.registered:
                self._on_member.setdefault(member, set()).add(child_id)

    # The hub.

    def _redistribution(self, view: HubView) -> list[HubEvent]:
        events: list[HubEvent] = []
        if view.moves or view.moving or view.pending_moves:
            self._wave = (self._wave or 0) + len(view.moves)
        elif self._wave is not None:
            if self._wave:
                events.append(HubEvent(HookEvent.REDISTRIBUTION_DONE, "", {"moves": self._wave}))
            self._wave = None
        for member, ids in view.stranded.items():
            if self._stranded.get(member) != ids:
                data = {"children": list(ids[:NAMED]), "count": len(ids), "reason": "Bound"}
                events.append(_member(HookEvent.MIGRATION_DEFERRED, member, **data))
        self._stranded = dict(view.stranded)
        events += [
            HubEvent(HookEvent.MIGRATION_DEFERRED, child_id, {"child": child_id, "reason": "Kept"})
            for child_id in view.deferred
        ]
        return events

    def _begin_recovery(self, member: str) -> None:
        ids = self._on_member.get(member)
        if ids and member not in self._recovering:
            missing = {child_id for child_id in ids if not self._children[child_id].finished_on(member)}
            self._recovering[member] = _Recovery(len(ids), missing)

    def _recoveries(self, view: HubView) -> list[HubEvent]:
        events = []
        for member, recovery in list(self._recovering.items()):
            for child_id in recovery.missing & view.copies.keys():
                known = self._children.get(child_id)
                if known is None or child_id not in view.wanted or known.running:
                    recovery.missing.discard(child_id)
            if not recovery.missing:
                del self._recovering[member]
                events.append(_member(HookEvent.RECOVERY_DONE, member, children=recovery.total))
        return events

    def _partition(self, view: HubView) -> list[HubEvent]:
        if view.partitioned == self._partitioned:
            return []
        self._partitioned = view.partitioned
        kind = HookEvent.PARTITION_ENTERED if view.partitioned else HookEvent.PARTITION_HEALED
        return [HubEvent(kind, "", dict(view.quorum))]


def _life(member: MemberSeen | None) -> tuple[Phase, bool, str] | None:
    return (member.phase, member.restarting, member.holder) if member is not None else None


def _member(kind: HookEvent, member: str, **data: Any) -> HubEvent:
    return HubEvent(kind, member, {"member": member, **data})
