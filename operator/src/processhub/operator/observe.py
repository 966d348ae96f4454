"""From what is known of a hub to the immutable snapshot that the planner decides on."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_CHILD_ID
from processhub.api.reasons import Reason
from processhub.core.acceptance import Refusal, unknown_member
from processhub.core.membership import Phase
from processhub.core.snapshot import HubSnapshot, MemberView, OnRecord, Wanted
from processhub.operator.hubstate import HubState, KnownChild
from processhub.operator.members import Member
from processhub.operator.memory import HubMemory


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A round's view of a hub.

    ``refusals``: Child object name → why it is not accepted. ``chosen``: id → the Child that has the id.
    """

    members: Mapping[str, Member]
    snapshot: HubSnapshot
    refusals: Mapping[str, Refusal]
    chosen: Mapping[str, KnownChild]

    def has_seen(self, child: Child) -> bool:
        """Whether the child was observed as it is now, its latest edit included."""
        known = self.chosen.get(child.id)
        if known is not None and known.child.metadata.uid == child.metadata.uid:
            return known.child.metadata.generation == child.metadata.generation
        return child.metadata.name in self.refusals  # another child has its id


def observe(hub: Hub, state: HubState, members: Mapping[str, Member], memory: HubMemory, now: float) -> Observation:
    """The observation; settles what the members have proven since the last round."""
    record = on_record(state)
    wanted, refusals, chosen = _wanted(hub, state, record, members)
    memory.formed = memory.formed or bool(record) or _formed(hub, members, memory, now)
    snapshot = HubSnapshot(
        spec=hub.spec,
        members=tuple(_view(member, memory, state) for member in members.values()),
        children={} if hub.spec.suspend else wanted,
        record=record,
        next_epoch=memory.next_epoch,
        move_budget=memory.move_budget(hub.spec.distribution.rebalance.max_moves_per_second, now),
        pods=_pods_of_children(state),
        formed=memory.formed,
    )
    return Observation(members=members, snapshot=snapshot, refusals=refusals, chosen=chosen)


def on_record(state: HubState) -> dict[str, tuple[OnRecord, ...]]:
    """All entries of the hub's slices, by id."""
    record: dict[str, tuple[OnRecord, ...]] = {}
    for known in state.slices.values():
        member = known.present.spec.member
        for child_id, entry in known.assignments.items():
            place = OnRecord(member, entry)
            others = record.get(child_id)
            record[child_id] = (place,) if others is None else (*others, place)
    return record


def _pods_of_children(state: HubState) -> dict[str, str]:
    """Where something of a child may still run, whatever the slices say: in a Pod of its own."""
    return {
        pod.metadata.annotations.get(ANNOTATION_CHILD_ID, ""): f"{name} on {pod.spec.node_name or 'no node yet'}"
        for name, pod in state.child_pods.items()
    }


def _view(member: Member, memory: HubMemory, state: HubState) -> MemberView:
    if member.phase is Phase.GONE or _up_to_date(member):
        state.bereft.pop(member.name, None)
    lingering = set(state.bereft.get(member.name, ()))
    for known in member.slices:
        known.prove(member.holder)
        lingering |= known.lingering(member.holder)
    if _acknowledged(member, memory):
        memory.settled.add(member.name)
    return MemberView(
        name=member.name,
        weight=member.weight,
        phase=member.phase,
        draining=member.judgement.draining,
        # A member of a hub that has children already takes its share as a joiner; a first one does not.
        joining=member.joining if member.slices else memory.formed,
        wanted=member.wanted,
        settled=member.name in memory.settled or member.phase is Phase.GONE or member.judgement.restarting,
        lingering=frozenset(lingering),
    )


def _up_to_date(member: Member) -> bool:
    """Whether the member has acknowledged all of its slices as they are now."""
    return bool(member.slices) and all(known.acknowledged_by(member.holder) for known in member.slices)


def _acknowledged(member: Member, memory: HubMemory) -> bool:
    """Whether the member confirmed all of its slices as they were when this leader took over."""
    return all(
        known.present.status.observed_generation >= memory.takeover.get(known.present.metadata.uid, 0)
        and (known.present.status.holder == member.holder or known.present.metadata.uid not in memory.takeover)
        for known in member.slices
    )


def _formed(hub: Hub, members: Mapping[str, Member], memory: HubMemory, now: float) -> bool:
    """Whether placing may begin: all members are there, or startSeconds have passed since the first was."""
    live = [member for member in members.values() if member.phase is Phase.LIVE]
    if not live:
        return False
    if memory.first_live_at is None:
        memory.first_live_at = now
    missing = [member for member in members.values() if member.wanted and member.phase is not Phase.LIVE]
    return not missing or now - memory.first_live_at >= hub.spec.timeouts.start_seconds


def formation_wait(hub: Hub, memory: HubMemory, now: float) -> float | None:
    """Seconds until an incomplete hub begins to place anyway, None where that is not waited for."""
    if memory.formed or memory.first_live_at is None:
        return None
    return max(0.05, hub.spec.timeouts.start_seconds - (now - memory.first_live_at))


def _wanted(
    hub: Hub, state: HubState, record: Mapping[str, tuple[OnRecord, ...]], members: Mapping[str, Member]
) -> tuple[dict[str, Wanted], dict[str, Refusal], dict[str, KnownChild]]:
    wanted: dict[str, Wanted] = {}
    refusals: dict[str, Refusal] = {}
    chosen: dict[str, KnownChild] = {}
    children, guided = state.children, hub.spec.distribution.strategy == "Guided"
    for child_id, names in state.by_id.items():
        if len(names) == 1:
            (name,) = names
            known = children[name]
        else:
            candidates = [children[name] for name in names]
            known = _winner(candidates, record.get(child_id, ()))
            name = known.child.metadata.name
            for other in candidates:
                if other is known:
                    continue
                refusals[other.child.metadata.name] = Refusal(
                    Reason.ALREADY_STARTED,
                    f"the id {child_id!r} belongs to child/{known.child.metadata.name}; started when that is deleted",
                )
        chosen[child_id] = known
        refusal = state.refusal(name, hub.spec)
        if refusal is None and guided:
            refusal = unknown_member(known.child.spec, members)
        if refusal is not None:
            refusals[name] = refusal
            if last_good := _as_on_record(known, record.get(child_id, ()), guided):
                wanted[child_id] = last_good
        elif known.child.spec.suspend:
            refusals[name] = Refusal(Reason.SUSPENDED, "spec.suspend is true")
        elif hub.spec.suspend:
            refusals[name] = Refusal(Reason.SUSPENDED, "spec.suspend of the hub is true")
        elif known.child.metadata.deletion_timestamp is None:
            wanted[child_id] = known.wanted
    return wanted, refusals, chosen


def _winner(candidates: list[KnownChild], places: tuple[OnRecord, ...]) -> KnownChild:
    """For one id: the child on record, else the oldest, then the lowest uid."""
    uids = {place.entry.uid for place in places}
    return min(
        candidates,
        key=lambda known: (
            known.child.metadata.uid not in uids,
            known.child.metadata.creation_timestamp or "",
            known.child.metadata.uid,
        ),
    )


def _as_on_record(known: KnownChild, places: tuple[OnRecord, ...], guided: bool) -> Wanted | None:
    """The child as it was last accepted: an edit that is refused leaves it running."""
    own = [place for place in places if place.entry.uid == known.child.metadata.uid]
    if not own:
        return None
    place = max(own, key=lambda place: place.entry.epoch)
    return msgspec.structs.replace(
        known.wanted,
        workload=place.entry.workload,
        restart_policy=place.entry.restart_policy,
        nodes=(place.member,) if guided else (),
        tags=place.entry.tags,
        metadata=place.entry.metadata,
    )
