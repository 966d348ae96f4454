"""The observation of a hub: the immutable snapshot on which the planner decides, and what is reported besides."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import Enum
from functools import partial

import msgspec

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.naming import (
    ANNOTATION_CHILD_ID,
    ANNOTATION_NODES,
    ANNOTATION_ROLE,
    LABEL_MEMBER,
    label_value,
    run_of,
)
from processhub.api.reasons import Reason, Role
from processhub.controller.objects.childpod import name_and_node
from processhub.controller.observe.facts import Facts
from processhub.controller.observe.members import Member
from processhub.controller.observe.ownership import (
    Record,
    Winners,
    as_on_record,
    asleep,
    seen_sets,
    wanted_of,
    winner_of,
    winners_of,
)
from processhub.controller.observe.setmoverequests import move_requests_of_sets
from processhub.controller.store.children import KnownChild
from processhub.controller.store.childsets import KnownSet, SeenSet
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.slices import KnownSlice
from processhub.core.acceptance import Refusal, unknown_member
from processhub.core.listing import MemberNames
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Unplaced
from processhub.core.model.quorum import Verdict
from processhub.core.model.snapshot import ChildPod, Claim, DesiredChild, HubSnapshot, MemberView, OnRecord
from processhub.registry.copies import is_current
from processhub.registry.grammar import Assignment, Report, format_end

_NODES_OF_MOVE = f"annotation {ANNOTATION_NODES} (kubectl hub move)"


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One round's view of a hub.

    - ``refusals``: Child's object name → why it is not accepted.
    - ``chosen``: id → the Child that has the id.
    - ``sets``: uid → ChildSet, or the hub's children on demand.
    - ``held``: id → why the child is not placed, although it is accepted.
    - ``workloads``: hash → JSON of the workloads that a hook changed.
    - ``quorum``: whether enough members are live.
    - ``fingerprint``: of the strategy and weights by which members take their share.
    """

    members: Mapping[str, Member]
    snapshot: HubSnapshot
    refusals: Mapping[str, Refusal]
    chosen: Mapping[str, KnownChild]
    sets: Mapping[str, SeenSet] = {}
    held: Mapping[str, Unplaced] = {}
    workloads: Mapping[str, str] = {}
    quorum: Verdict
    fingerprint: str = ""

    def owner(self, child_id: str, uid: str) -> Child | ChildSet | Hub | None:
        """The object with this uid, or None if it is not the one that asks for the child."""
        wanted = self.snapshot.children.get(child_id)
        if wanted is not None and wanted.uid != uid:
            return None
        known, seen = self.chosen.get(child_id), self.sets.get(uid)
        if known is not None and known.child.metadata.uid == uid:
            return known.child
        if seen is None or child_id not in seen.known.wanted:
            return None
        return seen.known.object if known is None or isinstance(seen.known.object, Hub) else None

    def demand(self, hub: Hub) -> SeenSet | None:
        """The hub's children on demand, None without spec.onDemand."""
        return self.sets.get(hub.metadata.uid)

    def has_seen(self, child: Child) -> bool:
        """Whether the latest edit of the Child was observed."""
        known = self.chosen.get(child.id)
        if known is not None and known.child.metadata.uid == child.metadata.uid:
            return known.child.metadata.generation == child.metadata.generation
        return child.metadata.name in self.refusals  # another child has its id


def observe(facts: Facts) -> Observation:
    """Observe a hub. This function is pure: it does not change the facts, and equal facts give equal observations.

    What follows from one slice alone is kept with it until the slice changes.
    """
    hub, state, members = facts.hub, facts.state, facts.members
    record = on_record(state, members if _reports_matter(hub, state) else {}, facts.term)
    wanted, refusals, chosen, sets = _wanted(facts, record)
    uncertain = state.slices.uncertain() | facts.unconfirmed | facts.views.unread | _unmarked(state, record)
    orders = {**_move_requests(state, chosen), **move_requests_of_sets(sets, facts.applied_moves)}
    snapshot = HubSnapshot(
        spec=hub.spec,
        members=tuple(_view(member, facts) for member in members.values()),
        children=wanted,
        record=record,
        next_epoch=facts.next_epoch,
        move_budget=facts.move_budget,
        last_placed=facts.last_placed,
        move_requests={child_id: member for child_id, member in orders.items() if child_id not in uncertain},
        copies=facts.copies,
        pods=_pods_of_children(state, members),
        claims=_claims(state, members),
        deferred=facts.deferred,
        formed=facts.formed,
        uncertain=uncertain,
        partitioned=facts.quorum.why if facts.quorum.partitioned else "",
    )
    return Observation(
        members=members,
        snapshot=snapshot,
        refusals=refusals,
        chosen=chosen,
        sets=sets,
        held=_unanswered(uncertain, record),
        quorum=facts.quorum,
        fingerprint=facts.fingerprint,
    )


class Reports(Enum):
    """The reports in a slice that count for its entries."""

    NONE = "none"  # the planner needs none
    FORMER = "former"  # those of a former holder of the member's Lease
    PRESENT = "present"  # those of its present holder


def _reports_matter(hub: Hub, state: HubState) -> bool:
    """Whether the planner needs the members' reports: if the hub keeps copies, or hands state over."""
    # A handover that is under way continues after the hub's strategy was changed.
    handing = hub.spec.migration.hands_over or any(known.leaving for known in state.slices.values())
    return hub.spec.keeps_copies or handing


def _unmarked(state: HubState, record: Mapping[str, tuple[OnRecord, ...]]) -> set[str]:
    """The children on record with a Pod that no watch shows: only by their entries would the next leader find it."""
    pods = (state.child_pods.get(name) for name in state.child_pods.unwatched)
    ids = {pod.metadata.annotations.get(ANNOTATION_CHILD_ID, "") for pod in pods if pod is not None}
    return ids & record.keys()


def _unanswered(uncertain: frozenset[str], record: Mapping[str, tuple[OnRecord, ...]]) -> dict[str, Unplaced]:
    """The reason, by id, of the children that may be on record although no slice that was read lists them."""
    why = Unplaced(Reason.WAITING, "the API server has not answered the write that placed it; it is written again")
    return {child_id: why for child_id in uncertain if child_id not in record}


def on_record(state: HubState, reporting: Mapping[str, Member], term: int) -> dict[str, tuple[OnRecord, ...]]:
    """All entries of the hub's slices, by id, with the reports of the members in ``reporting``.

    What a deposed leader has created late counts for nothing: it is emptied in the round of this ``term``.
    """
    record: dict[str, tuple[OnRecord, ...]] = {}
    for known in state.slices.values():
        if known.is_stale(term):
            continue
        member = reporting.get(known.present.spec.member)
        reports = Reports.NONE
        if member is not None:
            reports = Reports.PRESENT if known.present.status.holder == member.holder else Reports.FORMER
        follow = partial(_followed, known) if reports is Reports.NONE else None
        places = known.derived("on record", reports, partial(_places, known, reports), follow)
        if record.keys().isdisjoint(places):
            record.update(places)
        else:
            for child_id, place in places.items():
                record[child_id] = (*record.get(child_id, ()), *place)
    return record


def _places(known: KnownSlice, of: Reports) -> dict[str, tuple[OnRecord]]:
    """The entries of one slice by id, with what the member's reports say of them.

    Those of a former holder of its Lease only say what has been: that a child was up, or has ended for good.
    """
    name, reports, ended = known.present.spec.member, known.reports, known.ended
    places = {}
    for child_id, entry in known.assignments.items():
        report = None if of is Reports.NONE else reports.get(child_id)
        end = _end_of(entry, reports[child_id]) if child_id in ended else ""
        if report is None or not is_current(entry, report):
            place = OnRecord(name, entry, end=end)
        elif of is Reports.FORMER:
            place = OnRecord(name, entry, came_up=bool(report.started_at), end=end)
        else:
            came_up = bool(report.started_at)
            place = OnRecord(name, entry, report.state, report.gave, report.kept, report.got, came_up, end)
        places[child_id] = (place,)
    return places


def _followed(known: KnownSlice, places: dict[str, tuple[OnRecord]], reported: Set[str]) -> dict[str, tuple[OnRecord]]:
    """The places of a slice whose reports count only as far as they say that a child has ended for good."""
    changed = {}
    for child_id in reported & places.keys():
        (place,) = places[child_id]
        end = _end_of(place.entry, known.reports[child_id]) if child_id in known.ended else ""
        if end != place.end:
            changed[child_id] = (msgspec.structs.replace(place, end=end),)
    return {**places, **changed} if changed else places


def _end_of(entry: Assignment, report: Report) -> str:
    """The end that the report is of, as another entry may name it, "" if that is not the entry's own."""
    return format_end(report) if is_current(entry, report) else ""


def _move_requests(state: HubState, chosen: Mapping[str, KnownChild]) -> dict[str, str]:
    """The move requests on Children: id → member."""
    children = ((state.children[name].child, member) for name, member in state.children.move_requests.items())
    return {
        child.id: member
        for child, member in children
        if (known := chosen.get(child.id)) is not None and known.child is child
    }


def _claims(state: HubState, members: Mapping[str, Member]) -> dict[str, Claim]:
    """The children that live members started because their owner was not reached. The first member by name counts."""
    found: dict[str, Claim] = {}
    for known in state.slices.values():
        if not known.claims:
            continue
        member = members.get(known.present.spec.member)
        if member is None or member.phase is not Phase.LIVE or known.present.status.holder != member.holder:
            continue
        for child_id in known.claims:
            report = known.reports[child_id]
            if child_id not in found or member.name < found[child_id].member:
                found[child_id] = Claim(member.name, report.uid, report.epoch)
    return found


def _pods_of_children(state: HubState, members: Mapping[str, Member]) -> dict[str, tuple[ChildPod, ...]]:
    """The Pods of pod children, by id: the child may still run there, whatever the slices say."""
    if not state.child_pods:
        return {}
    names = {label_value(name): name for name in members}
    found: dict[str, tuple[ChildPod, ...]] = {}
    for pod in state.child_pods.values():
        annotations, label = pod.metadata.annotations, pod.metadata.labels.get(LABEL_MEMBER, "")
        seen = ChildPod(
            names.get(label, label),
            name_and_node(pod),
            run_of(annotations),
            annotations.get(ANNOTATION_ROLE, Role.ACTIVE),
        )
        child_id = annotations.get(ANNOTATION_CHILD_ID, "")
        found[child_id] = (*found.get(child_id, ()), seen)
    return found


def _view(member: Member, facts: Facts) -> MemberView:
    possibly_running = set(facts.state.slices.unaccounted.get(member.name, ()))
    for known in member.slices:
        possibly_running |= known.possibly_running(member.holder)
    resettles = member.settled_by not in ("", facts.fingerprint)
    return MemberView(
        name=member.name,
        weight=member.weight,
        phase=member.phase,
        draining=member.judgement.draining,
        forced=member.forced,
        # In a hub that has children already, a new member takes its share as a joiner; the first members do not.
        joining=(member.joining or resettles or member.name == facts.rebalance_target)
        if member.slices
        else facts.formed,
        resettles=resettles,
        usage=member.usage,
        wanted=member.wanted,
        settled=member.name in facts.settled or member.seems_ended,
        ended=member.judgement.restarting,
        possibly_running=frozenset(possibly_running),
        node=member.node,
        zone=member.zone,
    )


def _wanted(
    facts: Facts, record: Record
) -> tuple[dict[str, DesiredChild], dict[str, Refusal], dict[str, KnownChild], dict[str, SeenSet]]:
    """The wanted children by id, refusals by Child's object name, the Child of each id, and the ChildSets by uid."""
    hub, winners = facts.hub, winners_of(facts.state, facts.contested, record)
    wanted, refusals, chosen = _wanted_children(facts, record, winners)
    sets = seen_sets(facts, winners, record)
    if facts.demand is not None:
        wanted = {**wanted_of(sets[hub.metadata.uid], hub, record), **wanted}
    for uid, seen in sets.items():
        if uid != hub.metadata.uid:
            wanted.update(wanted_of(seen, hub, record))
    if hub.spec.suspend:
        wanted = {child_id: asleep(child) for child_id, child in wanted.items()}
    return wanted, refusals, chosen, sets


def _wanted_children(
    facts: Facts, record: Record, winners: Winners
) -> tuple[dict[str, DesiredChild], dict[str, Refusal], dict[str, KnownChild]]:
    wanted: dict[str, DesiredChild] = {}
    refusals: dict[str, Refusal] = {}
    chosen: dict[str, KnownChild] = {}
    hub, children = facts.hub, facts.state.children
    guided, names_of_members = hub.spec.distribution.strategy == "Guided", MemberNames(facts.members)
    for child_id, names in facts.state.children.by_id.items():
        if len(names) == 1 and child_id not in winners:
            (name,) = names
            known = children[name]
        else:
            candidates = [children[name] for name in names]
            has_it = winners[child_id][0] if child_id in winners else winner_of(candidates, record.get(child_id, ()))
            for other in candidates:
                if other is has_it:
                    continue
                refusals[other.child.metadata.name] = Refusal(
                    Reason.ALREADY_STARTED,
                    f"the id {child_id!r} belongs to {has_it.title}; started when that is deleted",
                )
            if isinstance(has_it, KnownSet):
                continue
            known, name = has_it, has_it.child.metadata.name
        chosen[child_id] = known
        refusal = facts.refusals[name]
        if refusal is None and guided:
            refusal = unknown_member(known.spec, names_of_members, _NODES_OF_MOVE if known.moved else "spec.nodes")
        if refusal is not None:
            refusals[name] = refusal
            places = record.get(child_id, ())
            if last_good := as_on_record(known.wanted, places, guided, suspend=known.child.spec.suspend):
                wanted[child_id] = last_good
            continue
        if known.child.spec.suspend:
            refusals[name] = Refusal(Reason.SUSPENDED, "spec.suspend is true")
        elif hub.spec.suspend:
            refusals[name] = Refusal(Reason.SUSPENDED, "spec.suspend of the hub is true")
        if known.child.metadata.deletion_timestamp is None:
            wanted[child_id] = asleep(known.wanted) if known.child.spec.suspend else known.wanted
    return wanted, refusals, chosen
