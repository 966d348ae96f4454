"""The owner of each id: which object has an id that several ask for, and which ids a ChildSet gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from processhub.api.hub import Hub
from processhub.api.reasons import Reason, Role
from processhub.controller.observe.facts import Facts
from processhub.controller.store.children import KnownChild
from processhub.controller.store.childsets import KnownSet, SeenSet, in_template, of_template
from processhub.controller.store.hubstate import HubState
from processhub.core.acceptance import Refusal, unknown_member, unknown_origin
from processhub.core.listing import MemberNames
from processhub.core.model.placement import child_key
from processhub.core.model.snapshot import DesiredChild, OnRecord, desired_child

Record = Mapping[str, tuple[OnRecord, ...]]
# Id → its owner, and the ChildSets that ask for it. Only for ids that a ChildSet and another object ask for.
Winners = Mapping[str, tuple[KnownChild | KnownSet, Sequence[KnownSet]]]


def winners_of(state: HubState, contested: Mapping[str, Sequence[KnownSet]], record: Record) -> Winners:
    """The owner of each ``contested`` id, and the ChildSets that ask for it."""
    winners: dict[str, tuple[KnownChild | KnownSet, Sequence[KnownSet]]] = {}
    for child_id, rivals in contested.items():
        children = (state.children[name] for name in state.children.by_id.get(child_id, ()))
        winners[child_id] = winner_of([*children, *rivals], record.get(child_id, ())), rivals
    return winners


def seen_sets(facts: Facts, winners: Winners, record: Record) -> dict[str, SeenSet]:
    """The ChildSets of this round by uid, the oldest first, and before them the hub's children on demand.

    Every other object has an id before them, so they are wanted where nothing else is. While the API server rejects the
    Pods of an edited spec.onDemand, those on record run on, and requests still start others.
    """
    taken: dict[str, dict[str, str]] = {}
    for child_id, (winner, rivals) in winners.items():
        for rival in rivals:
            if rival is not winner:
                taken.setdefault(rival.metadata.uid, {})[child_id] = winner.title
    hub, names = facts.hub, MemberNames(facts.members)
    guided, found = hub.spec.distribution.strategy == "Guided", {}
    known_sets = sorted(facts.state.sets.values(), key=lambda known: known.metadata.creation_timestamp or "")
    for known in [facts.demand, *known_sets] if facts.demand is not None else known_sets:
        refusal = None if known is facts.demand else facts.set_refusals[known.metadata.name]
        if refusal is None and guided and (unknown := unknown_member(known.template, names)):
            refusal = of_template(unknown)
        if refusal is None and known.template.suspend:
            refusal = Refusal(Reason.SUSPENDED, "spec.template.suspend is true")
        elif refusal is None and hub.spec.suspend:
            refusal = Refusal(Reason.SUSPENDED, "spec.suspend of the hub is true")
        if known is not facts.demand and known.metadata.name in facts.state.sets.never_read:
            known = _on_record(known, record)
        rollout = facts.rollouts.get(known.metadata.uid)
        rejected = facts.state.sets.rejected.get(known.metadata.uid) if known is facts.demand else None
        held = rollout.held if rollout is not None else {}
        found[known.metadata.uid] = SeenSet(
            known,
            refusal,
            taken.get(known.metadata.uid, {}),
            held=held if rejected is None else _former(known, record),
            failing=rollout.failed if rollout is not None and rollout.stopped else (),
            rejected=rejected,
            note=in_template(unknown_origin(known.template, hub.spec, names)),
        )
    return found


def _on_record(known: KnownSet, record: Record) -> KnownSet:
    """A ChildSet that was never read, with the children that it has on record."""
    uid = known.metadata.uid
    ids = (child_id for child_id, places in record.items() if any(place.entry.uid == uid for place in places))
    model = desired_child(known.template, "", uid, known.digest)
    wanted = {
        child_id: msgspec.structs.replace(model, id=child_id, key=child_key(child_id), paced=True) for child_id in ids
    }
    return msgspec.structs.replace(known, wanted=wanted)


def _former(known: KnownSet, record: Record) -> dict[str, str]:
    """The former workload of each child that has one on record."""
    places = ((child_id, record.get(child_id, ())) for child_id in known.wanted)
    return {
        child_id: place.entry.workload
        for child_id, own in places
        for place in own
        if place.entry.uid == known.metadata.uid and place.entry.workload != known.digest
    }


def wanted_of(seen: SeenSet, hub: Hub, record: Record) -> Mapping[str, DesiredChild]:
    """The ChildSet's wanted children, suspended ones included."""
    known = seen.known
    if known.metadata.deletion_timestamp is not None:
        return {}
    if seen.refusal is not None:
        if seen.refusal.reason is Reason.SUSPENDED:
            return {child_id: asleep(child) for child_id, child in known.wanted.items() if child_id not in seen.taken}
        guided = hub.spec.distribution.strategy == "Guided"
        kept = {
            child_id: as_on_record(child, record.get(child_id, ()), guided, suspend=known.template.suspend)
            for child_id, child in known.wanted.items()
        }
        return {child_id: child for child_id, child in kept.items() if child is not None}
    if not seen.taken and not seen.held:
        return known.wanted
    return {
        child_id: msgspec.structs.replace(child, workload=seen.held[child_id]) if child_id in seen.held else child
        for child_id, child in known.wanted.items()
        if child_id not in seen.taken
    }


def winner_of(candidates: Sequence[KnownChild | KnownSet], places: tuple[OnRecord, ...]) -> KnownChild | KnownSet:
    """The owner of one id: the object that is on record, else the oldest, then the one with the lowest uid."""
    uids = {place.entry.uid for place in places}
    return min(
        candidates,
        key=lambda known: (known.metadata.uid not in uids, known.metadata.creation_timestamp or "", known.metadata.uid),
    )


def asleep(child: DesiredChild) -> DesiredChild:
    """Make the child suspended."""
    return msgspec.structs.replace(child, suspended=True)


def as_on_record(
    wanted: DesiredChild, places: tuple[OnRecord, ...], guided: bool, *, suspend: bool
) -> DesiredChild | None:
    """The child as it was last accepted, or None if it is not on record. It keeps that spec after a refused edit.

    The record does not say whether the child or its hub was suspended. ``suspend``: whether a child that is suspended
    on record remains so while its hub is not.
    """
    own = [place for place in places if place.entry.uid == wanted.uid]
    if not own:
        return None
    own.sort(key=lambda place: (place.entry.role != Role.ACTIVE, -place.entry.epoch))
    nodes = _nodes_on_record(own) if guided else ()
    suspended = suspend and is_asleep(own)
    return msgspec.structs.replace(wanted.recorded(own[0].entry), refused=True, suspended=suspended, nodes=nodes)


def is_asleep(own: Sequence[OnRecord]) -> bool:
    """Whether the child is suspended by its newest entry. A copy that can't be resumed yet has an older one."""
    return bool(own) and max(own, key=lambda place: place.entry.epoch).entry.asleep


def _nodes_on_record(own: Sequence[OnRecord]) -> tuple[str, ...]:
    """The members of a guided child's copies. The target of a move counts only if there is no other."""
    entries = [place for place in own if place.entry.asleep or not place.entry.wait]
    return tuple(place.member for place in entries or own[:1])
