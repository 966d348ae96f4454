"""Planning what would be: a hub's snapshot from the cluster or from files, changed, and planned to rest.

The planner is the operator's own; here nothing is executed, so each planned step is taken as done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.hub import Hub
from processhub.api.slice import encode_workload
from processhub.client.records import Record
from processhub.core.membership import Phase
from processhub.core.plan import Move, Plan, Unplaced
from processhub.core.planner import plan
from processhub.core.snapshot import HubSnapshot, MemberView, OnRecord, Wanted, wanted_child

_NO_LIMIT = 10**9
_ROUNDS = 20


class Outlook(msgspec.Struct, frozen=True):
    """What a change comes to. ``before`` and ``after`` count children by member; ``placed`` are new ones."""

    moves: tuple[Move, ...]
    placed: Mapping[str, str]
    unplaced: Mapping[str, Unplaced]
    stranded: Mapping[str, tuple[str, ...]]
    before: Mapping[str, int]
    after: Mapping[str, int]


def from_files(hub: Hub, children: Iterable[ChildSpec]) -> HubSnapshot:
    """A hub as it is when all its members are new and nothing is placed yet."""
    count, name = hub.spec.members.replicas, hub.metadata.name
    members = tuple(_member(hub, f"{name}-{ordinal}") for ordinal in range(count))
    wanted = {spec.id: _wanted(spec, f"uid-of-{spec.id}") for spec in children}
    return HubSnapshot(spec=hub.spec, members=members, children=wanted, record={}, next_epoch=1)


def from_cluster(hub: Hub, records: Mapping[str, Record], children: Iterable[Child]) -> HubSnapshot:
    """A hub as its registry has it now, with the Child objects that wait to be placed.

    Members that are not ready keep what they have and take nothing.
    """
    names = {member.name for member in hub.status.members} | {
        node.name for record in records.values() for node in record.nodes
    }
    wanted: dict[str, Wanted] = {}
    bound: dict[str, ChildSpec] = {}
    for child in children:
        accepted = any(item.type == "Accepted" and item.status == "True" for item in child.status.conditions)
        bound[child.id] = child.spec
        if child.id not in records and accepted and not child.spec.suspend:
            wanted[child.id] = _wanted(msgspec.structs.replace(child.spec, id=child.id), child.metadata.uid)
    record: dict[str, tuple[OnRecord, ...]] = {}
    for child_id, known in records.items():
        spec = bound.get(child_id)
        # As the registry has it: edits that are still to be taken up are no moves.
        wanted[child_id] = _wanted(
            msgspec.structs.replace(known.spec, nodes=spec.nodes, pinned=spec.pinned) if spec else known.spec, known.uid
        )
        record[child_id] = tuple(
            OnRecord(node.name, wanted[child_id].entry(node.epoch, wait=node.waiting)) for node in known.nodes
        )
    ready = {member.name for member in hub.status.members if member.ready}
    members = tuple(_member(hub, name, Phase.LIVE if name in ready else Phase.HELD) for name in sorted(names))
    return HubSnapshot(spec=hub.spec, members=members, children=wanted, record=record, next_epoch=_NO_LIMIT**2)


def settled(snapshot: HubSnapshot) -> HubSnapshot:
    """The snapshot after everything that is to be placed now has been."""
    return _played(snapshot)[0]


def changed(snapshot: HubSnapshot, hub: Hub, *, add: int = 0, remove: Iterable[str] = ()) -> HubSnapshot:
    """The snapshot with members that join and members that are to be emptied."""
    leaving = set(remove)
    members = [
        msgspec.structs.replace(member, draining=True, wanted=False) if member.name in leaving else member
        for member in snapshot.members
    ]
    names = new_names(hub, {member.name for member in members}, add)
    members += [msgspec.structs.replace(_member(hub, name), joining=True) for name in names]
    return msgspec.structs.replace(snapshot, members=tuple(members))


def new_names(hub: Hub, present: set[str], add: int) -> list[str]:
    """The names that the next members get: ordinals after the present ones, or made-up nodes."""
    stem = f"{hub.metadata.name}-" if hub.spec.members.mode == "Replicas" else "new-node-"
    fresh = (f"{stem}{ordinal}" for ordinal in range(len(present) + add + 1))
    return [name for name in fresh if name not in present][:add]


def outlook(snapshot: HubSnapshot) -> Outlook:
    """What happens from here until nothing is left to do."""
    before = _counts(snapshot)
    rested, plans = _played(snapshot)
    after = _counts(rested)
    places = {child_id: record[0].member for child_id, record in rested.record.items() if record}
    last = plans[-1]
    return Outlook(
        moves=tuple(move for step in plans for move in step.moves),
        placed={child_id: places[child_id] for child_id in sorted(places.keys() - snapshot.record.keys())},
        unplaced=last.unplaced,
        stranded=last.stranded,
        before=before,
        after=after,
    )


def _played(snapshot: HubSnapshot) -> tuple[HubSnapshot, list[Plan]]:
    plans = []
    snapshot = msgspec.structs.replace(snapshot, move_budget=_NO_LIMIT)
    for _ in range(_ROUNDS):
        step = plan(snapshot)
        plans.append(step)
        if step.empty:
            break
        snapshot = _done(snapshot, step)
    return snapshot, plans


def _done(snapshot: HubSnapshot, step: Plan) -> HubSnapshot:
    """The snapshot once every order of the plan has been carried out."""
    record = dict(snapshot.record)
    for member, entries in step.entries.items():
        for child_id, entry in entries.items():
            others = tuple(place for place in record.get(child_id, ()) if place.member != member)
            places = (*others, OnRecord(member, entry)) if entry is not None else others
            if places:
                record[child_id] = places
            else:
                record.pop(child_id, None)
    members = tuple(
        msgspec.structs.replace(member, joining=step.joining.get(member.name, member.joining))
        for member in snapshot.members
    )
    return msgspec.structs.replace(snapshot, record=record, members=members, next_epoch=step.next_epoch)


def _counts(snapshot: HubSnapshot) -> dict[str, int]:
    counts = dict.fromkeys(sorted(member.name for member in snapshot.members), 0)
    for places in snapshot.record.values():
        for place in places[:1]:
            counts[place.member] = counts.get(place.member, 0) + 1
    return counts


def _member(hub: Hub, name: str, phase: Phase = Phase.LIVE) -> MemberView:
    return MemberView(name=name, phase=phase, weight=hub.spec.members.weights.get(name, 1))


def _wanted(spec: ChildSpec, uid: str) -> Wanted:
    return wanted_child(spec, spec.id, uid, encode_workload(spec)[0])
