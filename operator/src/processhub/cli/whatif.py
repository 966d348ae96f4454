"""Forecasts: a hub's snapshot from the cluster or from files, changed, and planned until nothing is left to do.

The planner is the operator's own. Nothing is executed here, so each planned step is taken as done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.movednodes import guided_nodes
from processhub.api.naming import member_ordinal, natural_order
from processhub.api.usage import parse_usage
from processhub.cli.errors import CliError
from processhub.client.records import Node, Record
from processhub.core.acceptance import MIGRATIONS, REDUNDANCIES
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Move, Plan, Unplaced
from processhub.core.model.snapshot import DesiredChild, HubSnapshot, MemberView, OnRecord, desired_child
from processhub.core.planning.planner import plan
from processhub.core.strategies import BUILT_IN, Strategy, strategy_of
from processhub.core.strategies.migration import MigrationStrategy, migration_of
from processhub.extensions import own_strategies
from processhub.registry.grammar import Assignment
from processhub.registry.workloads import encode_workload
from processhub.strategies import Member

T = TypeVar("T")
_NO_LIMIT = 10**9
_ROUNDS = 20


class Forecast(msgspec.Struct, frozen=True):
    """The effect of a change.

    ``children`` are on record before it; ``placed`` are new ones, with the members of their copies, the active one
    first. ``stranded``: by member, the children that can't leave it; ``why_stranded`` has the reason of each.
    ``before`` and ``after`` count copies by member.
    """

    children: int
    moves: tuple[Move, ...]
    placed: Mapping[str, tuple[str, ...]]
    unplaced: Mapping[str, Unplaced]
    stranded: Mapping[str, tuple[str, ...]]
    why_stranded: Mapping[str, str]
    before: Mapping[str, int]
    after: Mapping[str, int]


def from_files(hub: Hub, children: Iterable[ChildSpec]) -> HubSnapshot:
    """A hub whose members are all new, and that has nothing placed yet."""
    count, name = hub.spec.members.replicas, hub.metadata.name
    members = tuple(_member(hub, f"{name}-{ordinal}") for ordinal in range(count))
    desired = {spec.id: _desired(spec, f"uid-of-{spec.id}") for spec in children}
    return HubSnapshot(spec=hub.spec, members=members, children=desired, record={}, next_epoch=1)


def from_cluster(
    hub: Hub, records: Mapping[str, Record], children: Iterable[Child], sets: Iterable[ChildSet] = ()
) -> HubSnapshot:
    """A hub as its registry is now, with the Child and ChildSet objects that wait to be placed.

    Members that are not ready keep what they have and take nothing.
    """
    names = {member.name for member in hub.status.members} | {
        node.name for record in records.values() for node in record.nodes
    }
    guided = hub.spec.distribution.strategy == "Guided"
    desired: dict[str, DesiredChild] = {}
    bound: dict[str, ChildSpec] = {}
    for child in children:
        accepted = any(item.type == "Accepted" and item.status == "True" for item in child.status.conditions)
        nodes = guided_nodes(child) if guided else ()  # on any other hub nodes are refused, and bind nothing
        spec = bound[child.id] = msgspec.structs.replace(child.spec, nodes=nodes)
        if child.id not in records and accepted and not child.spec.suspend:
            desired[child.id] = _desired(msgspec.structs.replace(spec, id=child.id), child.metadata.uid)
    for item in sets:
        accepted = any(found.type == "Accepted" and found.status == "True" for found in item.status.conditions)
        template = item.spec.template if guided else msgspec.structs.replace(item.spec.template, nodes=())
        for child_id in item.ids:
            known_as = records.get(child_id)
            if known_as is not None and known_as.uid == item.metadata.uid:
                bound[child_id] = template
            elif known_as is None and child_id not in bound and accepted and not template.suspend:
                bound[child_id] = template
                desired[child_id] = _desired(msgspec.structs.replace(template, id=child_id), item.metadata.uid)
    record: dict[str, tuple[OnRecord, ...]] = {}
    for child_id, known in records.items():
        known_spec = bound.get(child_id)
        # Taken from the registry: edits that have not been applied yet are no moves.
        desired[child_id] = _desired(
            msgspec.structs.replace(
                known.spec, nodes=known_spec.nodes, pinned=known_spec.pinned, origin=known_spec.origin
            )
            if known_spec
            else known.spec,
            known.uid,
        )
        record[child_id] = tuple(OnRecord(node.name, _entry(desired[child_id], node)) for node in known.nodes)
        if any(node.asleep for node in known.nodes):
            desired[child_id] = msgspec.structs.replace(desired[child_id], suspended=True)
    members = _members(hub, names)
    return HubSnapshot(spec=hub.spec, members=members, children=desired, record=record, next_epoch=_NO_LIMIT**2)


def _members(hub: Hub, names: Iterable[str]) -> tuple[MemberView, ...]:
    """The members of these names, as the Hub's status has them."""
    drained = hub.drained
    known_members = {member.name: member for member in hub.status.members}
    members = []
    for name in sorted(names, key=lambda name: (member_ordinal(hub.metadata.name, name) or 0, name)):
        status = known_members.get(name)
        view = _member(hub, name, Phase.LIVE if status is not None and status.ready else Phase.HELD)
        usage = parse_usage(f"cpu={status.cpu} memory={status.memory} children={status.children}") if status else None
        members.append(msgspec.structs.replace(view, draining=name in drained, usage=usage))
    return tuple(members)


def at_rest(snapshot: HubSnapshot) -> HubSnapshot:
    """The snapshot after everything that can be placed now has been placed."""
    return _simulate(snapshot)[0]


def changed(snapshot: HubSnapshot, hub: Hub, *, add: int = 0, remove: Iterable[str] = ()) -> HubSnapshot:
    """The snapshot with members that join and members that are to be emptied."""
    leaving = set(remove)
    members = [
        msgspec.structs.replace(member, draining=True, wanted=False) if member.name in leaving else member
        for member in snapshot.members
    ]
    names = new_names(hub, {member.name for member in members}, add)
    members += [msgspec.structs.replace(_member(hub, name), joining=True) for name in names]
    strategy, weights = _strategy(hub.spec.distribution.strategy), hub.spec.members.weights
    if strategy.fingerprint(weights, _order(snapshot.members)) != strategy.fingerprint(weights, _order(members)):
        members = [msgspec.structs.replace(member, joining=True) for member in members]
    return msgspec.structs.replace(snapshot, members=tuple(members))


def new_names(hub: Hub, present: set[str], add: int) -> list[str]:
    """The names that the next members get: ordinals after the present ones, or made-up nodes."""
    stem = f"{hub.metadata.name}-" if hub.spec.members.mode == "Replicas" else "new-node-"
    fresh = (f"{stem}{ordinal}" for ordinal in range(len(present) + add + 1))
    return [name for name in fresh if name not in present][:add]


def forecast(snapshot: HubSnapshot) -> Forecast:
    """The forecast from this snapshot until nothing is left to do."""
    before = _counts(snapshot)
    rested, plans = _simulate(snapshot)
    after = _counts(rested)
    places = {child_id: tuple(place.member for place in record) for child_id, record in rested.record.items() if record}
    last = plans[-1]
    return Forecast(
        children=len(snapshot.record),
        moves=tuple(move for step in plans for move in step.moves),
        placed={
            child_id: places[child_id] for child_id in sorted(places.keys() - snapshot.record.keys(), key=natural_order)
        },
        unplaced=last.unplaced,
        stranded=last.stranded,
        why_stranded=last.why_stranded,
        before=before,
        after=after,
    )


def _simulate(snapshot: HubSnapshot) -> tuple[HubSnapshot, list[Plan]]:
    plans = []
    snapshot = msgspec.structs.replace(snapshot, move_budget=_NO_LIMIT)
    strategy = _strategy(snapshot.spec.distribution.strategy)
    migration = _migration(snapshot.spec.migration.strategy)
    for _ in range(_ROUNDS):
        snapshot = msgspec.structs.replace(snapshot, copies=_copies(snapshot))
        step = plan(snapshot, strategy, migration)
        plans.append(step)
        if step.empty:
            break
        snapshot = _done(snapshot, step)
    return snapshot, plans


def _done(snapshot: HubSnapshot, step: Plan) -> HubSnapshot:
    """The snapshot after every change of the plan has been carried out."""
    record = dict(snapshot.record)
    for member, entries in step.entries.items():
        for child_id, entry in entries.items():
            others = tuple(place for place in record.get(child_id, ()) if place.member != member)
            places = (*others, OnRecord(member, entry)) if entry is not None else others
            if places:
                record[child_id] = tuple(sorted(places, key=lambda place: (place.entry.role, place.member)))
            else:
                record.pop(child_id, None)
    members = tuple(
        msgspec.structs.replace(member, joining=step.joining.get(member.name, member.joining))
        for member in snapshot.members
    )
    return msgspec.structs.replace(
        snapshot, record=record, members=members, next_epoch=step.next_epoch, last_placed=step.last_placed
    )


def _counts(snapshot: HubSnapshot) -> dict[str, int]:
    counts = dict.fromkeys(sorted(member.name for member in snapshot.members), 0)
    for places in snapshot.record.values():
        for place in places:
            counts[place.member] = counts.get(place.member, 0) + 1
    return counts


def _strategy(name: str) -> Strategy:
    own = own_strategies().distribution
    return _known("distribution", name, lambda: strategy_of(name, own), (*BUILT_IN, *own))


def _migration(name: str) -> MigrationStrategy:
    own = own_strategies().migration
    return _known("migration", name, lambda: migration_of(name, own), (*MIGRATIONS, *own))


def _known(kind: str, name: str, find: Callable[[], T], there: Iterable[str]) -> T:
    try:
        return find()
    except KeyError:
        raise CliError(
            f"the hub's {kind} strategy {name!r} is not known here; install its package beside kubectl-hub "
            f"(there are {', '.join(there)})"
        ) from None


def _copies(snapshot: HubSnapshot) -> int | None:
    """The number of copies by a user's redundancy strategy; None with a built-in one."""
    name = snapshot.spec.redundancy.strategy
    if name in REDUNDANCIES:
        return None
    own = own_strategies().redundancy
    if name not in own:
        raise CliError(
            f"the hub's redundancy strategy {name!r} is not known here; install its package beside kubectl-hub"
        )
    wanted = [member for member in snapshot.members if member.wanted]
    return own[name].copies(
        [Member(name=member.name, weight=member.weight, ready=member.phase is Phase.LIVE) for member in wanted]
    )


def _order(members: Iterable[MemberView]) -> list[str]:
    return [member.name for member in members if member.wanted]


def _member(hub: Hub, name: str, phase: Phase = Phase.LIVE) -> MemberView:
    return MemberView(name=name, phase=phase, weight=hub.spec.members.weights.get(name, 1))


def _entry(child: DesiredChild, node: Node) -> Assignment:
    return msgspec.structs.replace(child.entry(node.epoch, wait=node.waiting), asleep=node.asleep)


def _desired(spec: ChildSpec, uid: str) -> DesiredChild:
    return desired_child(spec, spec.id, uid, encode_workload(spec)[0])
