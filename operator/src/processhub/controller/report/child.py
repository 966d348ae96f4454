"""Child.status, computed from the record and from the members' reports."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Set
from functools import partial
from types import MappingProxyType

import msgspec

from processhub.api.child import Child, ChildStatus, NodeStatus
from processhub.api.meta import Condition, condition_of, merge_conditions
from processhub.api.reasons import Reason, Role, State
from processhub.cluster.timestamps import now_millis, unix_time
from processhub.controller.observe.members import Member
from processhub.controller.report.kstatus import ABNORMAL, accepted, is_refused, of_child
from processhub.controller.report.memory import Life, ReportMemory
from processhub.controller.report.waiting import waits_for
from processhub.controller.store.children import Children
from processhub.controller.store.hubstate import HubKey
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Unplaced
from processhub.core.model.podtrouble import Trouble
from processhub.core.model.snapshot import DesiredChild
from processhub.registry.copies import Copy, of_a_child
from processhub.registry.grammar import Report

NODES_MAX = 100  # Copies that a status lists, by the schema.
_EXIT_MAX = 1024  # Characters of lastExit, by the schema.
_STARTING = {State.PENDING: Reason.PENDING, State.STARTING: Reason.STARTING, State.STOPPING: Reason.STOPPING}


class MemberCopy(Copy, frozen=True):
    """A copy of a child, with its member as the operator judges it. ``report``: of a member that is not gone."""

    host: Member

    @property
    def shown(self) -> Report | None:
        """The report to show. A member that restarts has none, because its processes have ended."""
        return None if self.host.judgement.restarting else super().shown


def life_of(member: Member) -> Life:
    """What the statuses of a member's children say because of the member. When it changes, all of them may."""
    pod = member.pod.metadata.name if member.pod else ""
    return Life(phase=member.phase, restarting=member.judgement.restarting, holder=member.holder, pod=pod)


def copies_of(child_id: str, members: Mapping[str, Member]) -> list[MemberCopy]:
    """The copies of a child that are on record or still reported; those on record come first."""
    return copies_by_id({child_id}, members).get(child_id, [])


def copies_by_id(ids: Set[str], members: Mapping[str, Member]) -> dict[str, list[MemberCopy]]:
    """The copies of each of these children, as ``copies_of`` gives them, in one pass over the slices."""
    copies: dict[str, list[MemberCopy]] = {}
    for member in members.values():
        for known in member.slices:
            reports = member.reports_in(known)
            for child_id in (ids & known.assignments.keys()) | (ids & reports.keys()):
                entry, report = of_a_child(known.assignments.get(child_id)), of_a_child(reports.get(child_id))
                if entry is not None or report is not None:
                    copies.setdefault(child_id, []).append(MemberCopy(member.name, entry, report, member))
    for found in copies.values():
        found.sort(key=order)
    return copies


def order(copy: MemberCopy) -> tuple[bool, bool, bool]:
    """The sort key of a copy: those on record first, the active one before the others."""
    entry = copy.entry
    return entry is None, entry is not None and entry.wait, entry is not None and entry.role != Role.ACTIVE


def node_of(copy: MemberCopy) -> NodeStatus:
    """The entry of status.nodes for a copy."""
    pod = copy.host.pod.metadata.name if copy.host.pod else ""
    shown = copy.shown
    if shown is None:
        known = copy.entry or copy.report
        assert known is not None
        return NodeStatus(name=copy.member, pod=pod, role=known.role, state=copy.state, epoch=known.epoch)
    asleep = copy.entry is not None and copy.entry.asleep
    return NodeStatus(
        name=copy.member,
        pod=pod,
        role=shown.role,
        state=copy.state,
        pid=shown.pid,
        epoch=shown.epoch,
        restarts=shown.restarts,
        started_at=shown.started_at,
        last_exit="" if asleep else shown.last_exit[:_EXIT_MAX],
    )


CONDITIONS = ("Accepted", "Placed", "Ready", *ABNORMAL)  # The types of the operator's own conditions of a Child.


def child_status(
    child: Child,
    copies: list[MemberCopy],
    refusal: Refusal | None,
    unplaced: Unplaced | None,
    now: str,
    first_started_at: str = "",
    troubles: Mapping[str, Trouble] = MappingProxyType({}),
    wanted: DesiredChild | None = None,
) -> ChildStatus:
    """Compute the status of a Child; ``now`` (RFC 3339) is the time of conditions that changed.

    ``troubles``: members that are not ready or can't report, with the cause. ``wanted``: the child as its latest spec
    asks for it, or None if it asks for none.
    """
    own = [copy for copy in copies if (copy.entry or copy.report) is not None and _uid(copy) == child.metadata.uid]
    nodes = tuple(node_of(copy) for copy in own)
    generation = child.metadata.generation
    ready = _ready(own, nodes, refusal, unplaced, generation, troubles)
    conditions = (
        accepted(refusal, generation),
        _placed(own, refusal, unplaced, generation),
        ready,
        of_child(own, ready, refusal, unplaced, wanted),
    )
    first, suspended = nodes[0] if nodes else None, refusal is not None and refusal.reason is Reason.SUSPENDED
    status = ChildStatus(
        conditions=merge_conditions(child.status.conditions, conditions, now),
        observed_generation=generation,
        id=child.id,
        member=first.name if first else "",
        role=first.role if first else "",
        state=first.state if first else (State.STOPPED if suspended else State.PENDING),
        first_started_at=first_started_at or child.status.first_started_at,
        nodes=nodes[:NODES_MAX],
    )
    return with_others_conditions(status, child.status)


def with_others_conditions(status: ChildStatus, present: ChildStatus) -> ChildStatus:
    """The status with the conditions that other writers have added to the ``present`` one."""
    own = [condition for condition in status.conditions if condition.type in CONDITIONS]
    others = [condition for condition in present.conditions if condition.type not in CONDITIONS]
    return msgspec.structs.replace(status, conditions=(*own, *others))


def _uid(copy: MemberCopy) -> str:
    known = copy.entry or copy.report
    return known.uid if known else ""


def _placed(own: list[MemberCopy], refusal: Refusal | None, unplaced: Unplaced | None, generation: int) -> Condition:
    condition = partial(condition_of, "Placed", generation=generation)
    on_record = [copy for copy in own if copy.entry is not None and not copy.entry.wait]
    if unplaced is not None:
        return condition(False, unplaced.reason, unplaced.message)
    if on_record:
        message = f"on {on_record[0].member}"
        if len(own) > NODES_MAX:
            message += f"; status.nodes has {NODES_MAX} of its {len(own)} copies"
        return condition(True, Reason.PLACED, message)
    if refusal is not None:
        return condition(False, refusal.reason, refusal.message)
    return condition(False, Reason.WAITING, "waiting to be placed")


def _ready(
    own: list[MemberCopy],
    nodes: tuple[NodeStatus, ...],
    refusal: Refusal | None,
    unplaced: Unplaced | None,
    generation: int,
    troubles: Mapping[str, Trouble],
) -> Condition:
    condition = partial(condition_of, "Ready", generation=generation)
    runs = bool(nodes) and nodes[0].state == State.RUNNING
    if unplaced is not None and not runs and (unplaced.reason is Reason.PARTITIONED or is_refused(unplaced)):
        return condition(False, unplaced.reason, unplaced.message)
    if not nodes:
        if refusal is not None:
            return condition(False, refusal.reason, refusal.message)
        return condition(False, Reason.PENDING, "not placed yet")
    node, report, entry = nodes[0], own[0].shown, own[0].entry
    if entry is not None and entry.asleep:
        stopping = next((node.name for node in nodes if node.state == State.STOPPING), "")
        if stopping:
            return condition(False, Reason.STOPPING, f"stopping on {stopping}")
        if refusal is not None:
            return condition(False, refusal.reason, refusal.message)
        if unplaced is not None:
            return condition(False, unplaced.reason, unplaced.message)
    if node.state == State.RUNNING:
        if own[0].entry is not None:
            return condition(True, Reason.STARTED, f"running on {node.name}")
        return condition(False, Reason.STOPPING, f"stopping on {node.name}")
    if node.state == State.PENDING and own[0].host.judgement.restarting:
        return condition(False, Reason.PENDING, f"member {node.name} restarts; started again when it is back")
    if report is None or (node.state == State.PENDING and not report.reason):
        if unplaced is not None:
            return condition(False, unplaced.reason, unplaced.message)
        return condition(False, Reason.PENDING, waits_for(node.name, troubles.get(node.name)))
    reason = report.reason or _STARTING.get(State(node.state), Reason.COMPLETED)
    message = report.message or node.last_exit
    if node.state == State.STARTING and reason == Reason.STARTING:
        # A member reports each start without a text: ten thousand of them would be as many kilobytes of a slice.
        message = message or f"starting on {node.name}; not up yet (limited by the hub's timeouts.startSeconds)"
    return condition(False, reason, message)


def of_hub(refusal: Refusal) -> Refusal:
    """The refusal that the children of a refused hub report."""
    return Refusal(refusal.reason, f"the hub is not accepted: {refusal.message}")


def hub_not_found(key: HubKey, others: Collection[str] = ()) -> Refusal:
    """The refusal that children without a hub report. ``others``: the hubs of the namespace.

    Only one with nearly the same name is named, because the others come and go.
    """
    near = difflib.get_close_matches(key[1], others, 1, 0.75)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return Refusal(Reason.HUB_NOT_FOUND, f"spec.hub: there is no hub {key[1]!r} in namespace {key[0]!r}{meant}")


def first_started(child: Child, copies: Iterable[Copy], memory: ReportMemory) -> str:
    """The time at which the child was first seen to run, or "".

    It is kept in Child.status, so that it outlives the operator. Until the status is written it is kept in memory. A
    leader that takes over in between counts from when it saw the child run.
    """
    uid = child.metadata.uid
    known_uid, seen_at = memory.first_started.get(child.id, ("", ""))
    if unix_time(child.status.first_started_at) is not None:  # what is no time is written again
        if known_uid == uid:
            del memory.first_started[child.id]
        return child.status.first_started_at
    if known_uid != uid:
        if not any(copy.report and copy.report.uid == uid and copy.report.state == State.RUNNING for copy in copies):
            return ""
        seen_at = now_millis()  # a ttl of a few seconds must not lose one to rounding
        memory.first_started[child.id] = uid, seen_at
    return seen_at


def forget_deleted(changed: Iterable[str], children: Children, memory: ReportMemory) -> None:
    """Forget the ``changed`` ids of which no Child is left: the status of theirs may have been written last."""
    for child_id in memory.first_started.keys() & changed:
        if child_id not in children.by_id:
            del memory.first_started[child_id]
