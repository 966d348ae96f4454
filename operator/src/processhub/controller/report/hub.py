"""Hub.status, computed once a round from the observation and the plan."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import filterfalse, islice, repeat
from types import MappingProxyType

import msgspec

from processhub.api.hub import (
    AGENT_PORT,
    ChildCounts,
    Hub,
    HubStatus,
    MemberStatus,
    Quorum,
    RegistryEntry,
    RegistryNode,
    Summary,
)
from processhub.api.meta import Condition, condition_of, merge_conditions
from processhub.api.naming import ANNOTATION_FORCE_SCALE_DOWN, member_ordinal
from processhub.api.reasons import GroupReason, Reason, Role, State
from processhub.api.slice import stored_bytes
from processhub.controller.objects.owned import selector_of
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.report.child import NODES_MAX, MemberCopy, life_of, node_of, order
from processhub.controller.report.hubprogress import Work, of_hub
from processhub.controller.report.kstatus import ABNORMAL, accepted, of_refusal, reconciling, stalled
from processhub.controller.store.pods import agent_port
from processhub.controller.store.slices import KnownSlice, all_once
from processhub.core.acceptance import Refusal
from processhub.core.listing import counted, listed
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.model.podtrouble import Trouble
from processhub.core.model.quorum import Verdict
from processhub.registry.copies import is_current
from processhub.registry.grammar import Assignment, Report

REGISTRY_MAX, REGISTRY_BYTES = 500, 256 * 1024  # Of the registry: children, and bytes as stored.
_CAUSES_MAX = 4  # Causes in the message of Ready.
MEMBERS_MAX = 1000  # Members that a status lists, by the schema.


def refused_status(hub: Hub, refusal: Refusal, now: str) -> HubStatus:
    """The status of a Hub that is not accepted: its children keep running, and nothing is changed."""
    generation = hub.metadata.generation
    conditions = [accepted(refusal, generation)]
    abnormal = of_refusal(refusal, generation)
    if not hub.status.conditions:
        conditions.append(condition_of("Ready", False, refusal.reason, refusal.message, generation))
    kept = [condition for condition in hub.status.conditions if condition.type not in ("Accepted", *ABNORMAL)]
    return _replace_conditions(hub, (*conditions, *kept, abnormal), now)


def stalled_status(hub: Hub, trouble: tuple[str, str] | None, now: str) -> HubStatus:
    """The status of a Hub for which nothing can be done now. ``trouble``: reason and message."""
    generation = hub.metadata.generation
    kept = tuple(condition for condition in hub.status.conditions if condition.type not in ABNORMAL)
    if trouble is not None:
        return _replace_conditions(hub, (*kept, stalled(*trouble, generation)), now)
    waits = reconciling(Reason.UPDATING, "this operator has not taken the hub over yet", generation)
    return _replace_conditions(hub, (*kept, waits), now)


def hub_status(
    hub: Hub,
    work: Work,
    now: str,
    *,
    refusal: Refusal | None = None,
    trouble: tuple[str, str] | None = None,
    followed: int | None = None,
    troubles: Mapping[str, Trouble] = MappingProxyType({}),
    note: str = "",
) -> HubStatus:
    """Compute the status after a round; ``now`` (RFC 3339) is the time of conditions that changed.

    ``refusal``: why a part of the spec is not followed, but the last accepted one. ``trouble``: reason and message of
    the present failures. ``followed``: the generation of the spec that the round followed. All conditions except
    Accepted, Stalled and Reconciling have that generation. ``troubles``: members that are not ready or can't report,
    with the cause. ``note``: what is accepted and has no effect.
    """
    observation, plan = work.observation, work.plan
    members = observation.members
    registry, counts = registry_of(members, len(observation.snapshot.record))
    wanted = [member for member in members.values() if member.wanted]
    ready = [member for member in wanted if member.ready]
    desired, running = len(observation.snapshot.to_run), counts[State.RUNNING]
    quorum, generation = observation.quorum, followed or hub.metadata.generation
    is_ready = _ready(hub, wanted, ready, desired, running, quorum, trouble, generation, troubles)
    conditions = (
        accepted(refusal, hub.metadata.generation, note),
        is_ready,
        condition_of("Quorate", quorum.quorate, quorum.reason, quorum.why, generation),
        _balanced(hub, plan, generation),
        of_hub(hub, is_ready, trouble, work),
    )
    return HubStatus(
        conditions=merge_conditions(hub.status.conditions, conditions, now),
        observed_generation=hub.metadata.generation,
        term=hub.status.term,
        replicas=sum(member.pod is not None for member in members.values()),
        ready_replicas=len(ready),
        selector=selector_of(hub),
        summary=Summary(members=f"{len(ready)}/{len(wanted)}", children=f"{running}/{desired}"),
        members=_members(observation, troubles),
        children=_child_counts(desired, counts),
        quorum=Quorum(required=quorum.required, live=quorum.live, largest_seen=quorum.largest_seen),
        registry=registry,
        registry_size=counts.total(),
    )


def _child_counts(desired: int, counts: Counter[str]) -> ChildCounts:
    running, failed = counts[State.RUNNING], counts[State.FAILED]
    return ChildCounts(desired=desired, running=running, pending=max(0, desired - running - failed), failed=failed)


def registry_of(members: Mapping[str, Member], distinct: int = -1) -> tuple[tuple[RegistryEntry, ...], Counter[str]]:
    """The first entries of the registry by id, and the number of children in each state.

    ``distinct``: the number of children on record. Where no child has a second entry, the slices are counted apart. A
    slice that has not changed is not counted again.

    The number of entries is limited by the schema and by the size of the object: with a hundred copies of each of five
    hundred children it would be too large for etcd.
    """
    slices = [(member, known) for member in members.values() for known in member.slices]
    parts = [_part(member, known) for member, known in slices]
    if all_once((known for _, known in slices), distinct):
        states = sum((part.states for part in parts), Counter[str]())
    else:
        states = _states_of_copies(slices)
    places: dict[str, list[int]] = {}
    # A slice takes part in the merge with its first ids, and only as far as they are among the first of all.
    numbered = (zip(part.first, repeat(number)) for number, part in enumerate(parts))
    for child_id, number in heapq.merge(*numbered):
        if child_id not in places and len(places) == REGISTRY_MAX:
            break
        places.setdefault(child_id, []).append(number)
    registry: list[RegistryEntry] = []
    room = REGISTRY_BYTES - 2
    for child_id, numbers in places.items():
        if len(numbers) == 1:
            row = parts[numbers[0]].row(child_id, slices[numbers[0]])
        else:
            row = _row(child_id, [slices[number] for number in numbers])
        room -= row.size + 1
        if room < 0:
            break
        registry.append(row.shown)
    return tuple(registry), states


class _Row(msgspec.Struct, frozen=True):
    """A child in the registry, and its size in bytes as stored."""

    shown: RegistryEntry
    size: int


def _row(child_id: str, places: Sequence[tuple[Member, KnownSlice]]) -> _Row:
    copies = [
        MemberCopy(member.name, known.assignments[child_id], member.reports_in(known).get(child_id), member)
        for member, known in places
    ]
    copies.sort(key=order)
    shown = RegistryEntry(id=child_id, nodes=tuple(map(_registry_node, copies[:NODES_MAX])))
    return _Row(shown, stored_bytes(shown))


class _Part:
    """The part of one slice in the registry: the first of its ids, and the number of its entries in each state."""

    def __init__(self, entries: Mapping[str, Assignment], reports: Mapping[str, Report]) -> None:
        own = [child_id for child_id, entry in entries.items() if not entry.of_nobody]
        self.first = tuple(heapq.nsmallest(REGISTRY_MAX, own))
        self._count = len(own)
        self._states: dict[str, str] = {}  # Of those that do not run.
        self._rows: dict[str, _Row] = {}
        self.follow(entries, reports, own)

    def follow(self, entries: Mapping[str, Assignment], reports: Mapping[str, Report], ids: Iterable[str]) -> None:
        """Take the reports of these ids anew."""
        for child_id in ids:
            self._rows.pop(child_id, None)
            entry = entries.get(child_id)
            if entry is None or entry.of_nobody:
                continue
            state = _state(entry, reports.get(child_id))
            if state == State.RUNNING:
                self._states.pop(child_id, None)
            else:
                self._states[child_id] = state
        others = Counter(self._states.values())
        self.states = Counter({State.RUNNING.value: self._count - len(self._states)}) + others

    def row(self, child_id: str, place: tuple[Member, KnownSlice]) -> _Row:
        """The child's row, if it has no entry but the one in this slice. It is kept as long as the part is."""
        row = self._rows.get(child_id)
        if row is None:
            row = self._rows[child_id] = _row(child_id, [place])
        return row


def _part(member: Member, known: KnownSlice) -> _Part:
    reports = member.counted_reports_in(known)

    def compute() -> _Part:
        return _Part(known.assignments, reports)

    def follow(part: _Part, ids: Set[str]) -> _Part:
        part.follow(known.assignments, reports, ids)
        return part

    return known.derived("registry", (life_of(member), known.other(reports)), compute, follow)


def _state(entry: Assignment, report: Report | None) -> str:
    """The state in which the entry has its child count."""
    if report is None or entry.wait or entry.role != Role.ACTIVE or not is_current(entry, report):
        return State.PENDING
    return report.state


def _states_of_copies(slices: Sequence[tuple[Member, KnownSlice]]) -> Counter[str]:
    """The number of children in each state, where a child may have several entries."""
    states: dict[str, str] = {}
    for member, known in slices:
        reports = member.counted_reports_in(known)
        for child_id, entry in known.assignments.items():
            if entry.of_nobody:
                continue
            # Of several copies the active ones count for the child. It runs if one of these does.
            if child_id not in states or (entry.role == Role.ACTIVE and states[child_id] != State.RUNNING):
                states[child_id] = _state(entry, reports.get(child_id))
    return Counter(states.values())


def _registry_node(copy: MemberCopy) -> RegistryNode:
    node = node_of(copy)
    return RegistryNode(name=node.name, pod=node.pod, role=node.role, state=node.state, pid=node.pid, epoch=node.epoch)


def _members(observation: Observation, troubles: Mapping[str, Trouble]) -> tuple[MemberStatus, ...]:
    shown = islice(filterfalse(_has_left, observation.members.values()), MEMBERS_MAX)
    return tuple(
        _member(member, sum(len(known.assignments) for known in member.slices), troubles.get(member.name))
        for member in shown
    )


def _has_left(member: Member) -> bool:
    """Whether nothing is left of a member that was scaled away but slices, which may have to stay."""
    emptied = not any(known.assignments for known in member.slices)
    return not member.wanted and member.phase is Phase.GONE and member.pod is None and emptied


def _member(member: Member, children: int, trouble: Trouble | None) -> MemberStatus:
    pod, usage = member.pod, member.usage
    return MemberStatus(
        name=member.name,
        pod=pod.metadata.name if pod else "",
        pod_ip=pod.status.pod_ip if pod else "",
        port=agent_port(pod) if pod else AGENT_PORT,
        node=pod.spec.node_name if pod else "",
        ready=member.ready,
        message=trouble.text if trouble and (member.refused or not member.ready) else "",
        drained=member.drained,
        weight=member.weight,
        children=children,
        cpu=f"{usage.cpu}m" if usage else "",
        memory=f"{usage.memory}Mi" if usage else "",
    )


def _ready(
    hub: Hub,
    wanted: list[Member],
    ready: list[Member],
    desired: int,
    running: int,
    quorum: Verdict,
    trouble: tuple[str, str] | None,
    generation: int,
    troubles: Mapping[str, Trouble],
) -> Condition:
    if quorum.partitioned:
        return condition_of("Ready", False, Reason.PARTITIONED, quorum.why, generation)
    if hub.spec.suspend:
        return condition_of("Ready", False, Reason.SUSPENDED, "spec.suspend is true", generation)
    unlisted = ""
    if len(wanted) > MEMBERS_MAX:
        unlisted = f"; status.members has {MEMBERS_MAX} of its members, of which there are {len(wanted)}"
    if not wanted or len(ready) < len(wanted):
        absent = {member.name: troubles.get(member.name, Trouble()) for member in wanted if not member.ready}
        members = counted(len(wanted), "member", "members")
        message = f"{len(ready)} of {members} ready; not ready: {_causes(absent)}{unlisted}"
        if not wanted:
            scaled_away = hub.spec.members.mode == "Replicas" and hub.spec.members.replicas == 0
            message = f"the hub has no members{': spec.members.replicas is 0' if scaled_away else ' yet'}"
            if scaled_away and not desired and trouble is None:
                return condition_of("Ready", True, GroupReason.MEMBERS_READY, message, generation)
        if trouble is not None:
            message += f"; {trouble[1]}"
        return condition_of("Ready", False, GroupReason.MEMBERS_NOT_READY, message, generation)
    # A child that fails is its own condition; the hub is ready when its members are.
    message = f"{running} of {counted(desired, 'child', 'children')} running{unlisted}"
    return condition_of("Ready", True, GroupReason.MEMBERS_READY, message, generation)


def _causes(absent: Mapping[str, Trouble]) -> str:
    """The members that are not ready, those with the same cause together.

    For example ``shop-0, shop-2: container agent: ImagePullBackOff: …; shop-1``.
    """
    groups: dict[str, list[str]] = {}
    for name, trouble in absent.items():
        groups.setdefault(trouble.text, []).append(name)
    parts = [f"{listed(names, 5)}{text and ': '}{text}" for text, names in groups.items()]
    more = sum(len(names) for names in list(groups.values())[_CAUSES_MAX:])
    return "; ".join(parts[:_CAUSES_MAX]) + (f"; and {more} more" if more else "")


def _balanced(hub: Hub, plan: Plan, generation: int) -> Condition:
    if plan.stranded:
        return condition_of("Balanced", False, GroupReason.STRANDED, _why_stranded(hub, plan), generation)
    if plan.moving or plan.pending_moves:
        message = f"{counted(plan.moving, 'child', 'children')} moving, {plan.pending_moves} to be moved"
        if plan.pending_why:
            message += f": {plan.pending_why}"
        return condition_of("Balanced", False, GroupReason.REBALANCING, message, generation)
    return condition_of("Balanced", True, GroupReason.BALANCED, "", generation)


def _why_stranded(hub: Hub, plan: Plan) -> str:
    """Why a member can't be emptied, and what helps."""
    member, ids = next(iter(sorted(plan.stranded.items())))
    ordinal = member_ordinal(hub.metadata.name, member)
    if member in hub.drained:
        remedy = f"stop them with kubectl hub drain {member} --force"
    elif ordinal is not None and ordinal >= hub.spec.members.replicas:
        remedy = f"annotate the hub with {ANNOTATION_FORCE_SCALE_DOWN}=true"
    else:
        remedy = "have its node take pods again (kubectl uncordon)"
    named = ", ".join(ids[:5])
    if plan.no_member_left:
        return (
            f"{member} can't be emptied: no member is left to take its {counted(len(ids), 'child', 'children')} "
            f"({named}); stop them with spec.suspend: true, or {remedy}"
        )
    bound = counted(len(ids), "child is", "children are")
    return f"{member} can't be emptied: {bound} bound to it ({named}); delete or rebind them, or {remedy}"


def _replace_conditions(hub: Hub, conditions: tuple[Condition, ...], now: str) -> HubStatus:
    return msgspec.structs.replace(
        hub.status,
        conditions=merge_conditions(hub.status.conditions, conditions, now),
        observed_generation=hub.metadata.generation,
    )
