"""The members of a hub: the pod, Lease and node of each, and the judgement whether it is live, held or gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from operator import is_
from typing import Any

import msgspec

from processhub.api.hub import Hub
from processhub.api.kubernetes import KubernetesNode, Pod
from processhub.api.naming import (
    ANNOTATION_JOINING,
    ANNOTATION_LOAD,
    ANNOTATION_REFUSED,
    ANNOTATION_SETTLED,
    member_ordinal,
)
from processhub.api.usage import Usage, parse_usage
from processhub.controller.concurrency import gather_all
from processhub.controller.observe.nodefit import has_pod
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.leases import KnownLease, member_of
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.membership import Judgement, MemberFacts, Phase, judge
from processhub.registry.copies import HAS_PROCESS, is_current
from processhub.registry.grammar import Report

LABEL_ZONE = "topology.kubernetes.io/zone"
_UNREAD_SECONDS = 0.05  # Until the Lease of a member is read that seemed live when the others' were.


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a hub, with its objects and its judgement."""

    name: str
    wanted: bool
    weight: int
    drained: bool = False  # By an annotation of the Hub.
    forced: bool = False  # Its bound children are stopped when it is drained.
    pod: Pod | None
    lease: KnownLease | None
    slices: tuple[KnownSlice, ...]
    judgement: Judgement
    unread: bool = False  # It is held because its Lease was not read since it seems gone.
    zone: str = ""

    @property
    def holder(self) -> str:
        """The holder of the member's Lease, or ""."""
        return (self.lease.lease.spec.holder_identity or "") if self.lease else ""

    @property
    def answers_as_new(self) -> bool:
        """Whether the Lease has another holder than the entries were granted to, which has not acknowledged that."""
        granted_to = _granted_to(self.slices, self.holder)
        return bool(granted_to) and granted_to != self.holder and not _answered(self.slices, self.holder)

    @property
    def node(self) -> str:
        """The Kubernetes node of the member's pod, or ""."""
        return self.pod.spec.node_name if self.pod else ""

    @property
    def phase(self) -> Phase:
        """The judged phase: LIVE, HELD or GONE."""
        return self.judgement.phase

    @property
    def seems_ended(self) -> bool:
        """Whether the planner takes all that an earlier leader had on this member for ended."""
        return self.phase is Phase.GONE or self.judgement.restarting

    @property
    def first(self) -> KnownSlice | None:
        """The member's slice 0, None if it has none."""
        return self.slices[0] if self.slices and self.slices[0].index == 0 else None

    @property
    def joining(self) -> bool:
        """Whether the member is on record as one that has not taken its share of children yet."""
        first = self.slices[0].present.metadata.annotations if self.slices else {}
        return ANNOTATION_JOINING in first

    @property
    def settled_by(self) -> str:
        """The fingerprint of the strategy and weights by which the member took its share, or "" before that."""
        return self.slices[0].present.metadata.annotations.get(ANNOTATION_SETTLED, "") if self.slices else ""

    @property
    def needs_slice(self) -> bool:
        """Whether the member must have slice 0, even without entries: its agent starts by it.

        A member that the hub has scaled away needs it as long as it may run. Where somebody has deleted its slices, it
        proves there what has ended (docs/protocol.md, rule 7).
        """
        return self.wanted or (bool(self.holder) and self.phase is not Phase.GONE)

    @property
    def usage(self) -> Usage | None:
        """The resources that the member's children use, as its agent reported them with the Lease, or None."""
        return parse_usage(self.lease.lease.metadata.annotations.get(ANNOTATION_LOAD, "")) if self.lease else None

    @property
    def refused(self) -> str:
        """Why the API server does not store what the member reports, as its agent says with the Lease, or ""."""
        if self.lease is None or self.phase is not Phase.LIVE:
            return ""
        return self.lease.lease.metadata.annotations.get(ANNOTATION_REFUSED, "")

    def reports_in(self, known: KnownSlice) -> Mapping[str, Report]:
        """The member's reports on the entries of one of its slices; none if it is gone, or a former Lease holder's.

        What the member has started by itself is reported in slice 0 until it has read the entry in another.
        """
        if self.phase is Phase.GONE:
            return {}
        reports = known.reports if known.present.status.holder == self.holder else {}
        first = self.slices[0] if self.slices else known
        if first is known or not first.by_view or first.present.status.holder != self.holder:
            return reports
        entries = known.assignments
        started = {
            child_id: report
            for child_id in (first.by_view & entries.keys()) - reports.keys()
            if is_current(entries[child_id], report := first.reports[child_id])
        }
        return {**reports, **started} if started else reports

    def counted_reports_in(self, known: KnownSlice) -> Mapping[str, Report]:
        """The reports that count for statuses. A member that restarts has none, because its processes have ended."""
        return {} if self.judgement.restarting else self.reports_in(known)

    @property
    def ready(self) -> bool:
        """Whether the member's pod is Ready and its Lease is held."""
        return self.phase is Phase.LIVE and self.pod is not None and _condition(self.pod, "Ready")


def observe_members(
    hub: Hub,
    state: HubState,
    nodes: Mapping[tuple[str, str], KubernetesNode],
    restarting_since: dict[str, float],
    now: float,
    *,
    leases_observed: bool,
    template: Mapping[str, Any] | None = None,
) -> dict[str, Member]:
    """Judge all members, by name and in order: those that are wanted, and those of which some object is or may be left.

    ``restarting_since`` is kept between calls: member → when (monotonic seconds) its restart was first seen.
    ``template`` is the members' pod template, if it is known. In the mode PerNode it says which nodes have a member.
    """
    per_node, pod_of = hub.spec.members.mode == "PerNode", state.pods.by_member(hub)
    drained = hub.drained
    slices = state.slices.by_member()
    names = set(slices) | set(pod_of) | {member_of(known.lease) for known in state.leases.values()} - {""}
    names |= {creation.member for creation in state.slices.creating.values()}
    members = {}
    for name in sorted(names | _replica_names(hub), key=lambda name: _order(hub, name)):
        pod = pod_of.get(name)
        node = nodes.get(("", name if per_node else pod.spec.node_name if pod else ""))
        wanted = _on_node(node, pod, template) if per_node else _in_replicas(hub, name)
        lease = state.leases.of_member(name)
        own = tuple(slices.get(name, ()))
        ends = state.pods.ends.get(pod.metadata.name, {}) if pod else {}
        away, restarting = not wanted or name in drained, now - restarting_since.get(name, now)
        judgement = judge(_facts(hub, pod, node, lease, own, ends, away, restarting, now, leases_observed))
        _note_restart(restarting_since, name, judgement, now)
        members[name] = Member(
            name=name,
            wanted=wanted,
            weight=hub.spec.members.weights.get(name, 1),
            drained=name in drained,
            forced=drained.get(name, False),
            pod=pod,
            lease=lease,
            slices=own,
            judgement=judgement,
            zone=node.metadata.labels.get(LABEL_ZONE, "") if node else "",
        )
    return members


def _note_restart(restarting_since: dict[str, float], name: str, judgement: Judgement, now: float) -> None:
    if judgement.restarting:
        restarting_since.setdefault(name, now)
    elif judgement.phase is Phase.LIVE:
        restarting_since.pop(name, None)


async def proven_members(
    look: Callable[[], dict[str, Member]],
    confirm_gone: Callable[[Member], Awaitable[bool | None]],
    matters: Callable[[Member], bool],
    *,
    copies: bool,
) -> dict[str, Member]:
    """Judge the members by ``look``. A member counts as gone only after a live read of its Lease, as a watch may lag.

    The Lease is also read for a member whose entries are removed already, because a new holder may have read its slices
    before that. With ``copies``, which may take over its roles, it is read for a member that restarts too. It is also
    read for each member that ``matters`` though no slice names a child: it may run one, or the quorum depends on it.
    ``confirm_gone`` returns whether the Lease is unchanged, or None if it can't be read. In that case the member is
    held (docs/protocol.md, rules 10 and 11). So is one that seems gone only now, or has lost a slice meanwhile.
    """

    def seems_gone(member: Member) -> bool:
        return _seems_gone(member, copies) or (member.seems_ended and matters(member))

    members = look()
    silent = {name: member for name, member in members.items() if seems_gone(member)}
    as_judged = await gather_all(*(confirm_gone(member) for member in silent.values()))
    answers = dict(zip(silent, as_judged, strict=True))
    if silent:
        members = look()
    held = {}
    for name, member in members.items():
        if seems_gone(member):
            if name not in silent or (answers[name] and not _same_slices(member, silent[name])):
                held[name] = _held(member, _UNREAD_SECONDS)
            # The Lease may have changed and not be filed, so that it is not in the judgement either.
            elif answers[name] is None or (answers[name] is False and member.lease is silent[name].lease):
                held[name] = _held(member)
    return members | held


def _same_slices(member: Member, read: Member) -> bool:
    """Whether the member has the slices that it had when its Lease was ``read``.

    A new holder that has come since may have read one that is deleted by now.
    """
    return len(member.slices) == len(read.slices) and all(map(is_, member.slices, read.slices))


def _seems_gone(member: Member, copies: bool) -> bool:
    """Whether the children of this member may move to others, or with ``copies`` their active role."""
    judged_so = member.phase is Phase.GONE or (copies and member.judgement.restarting)
    return judged_so and any(
        known.assignments or known.ending or known.uncertain or known.present.spec.activation for known in member.slices
    )


def _held(member: Member, recheck_seconds: float | None = None) -> Member:
    """The member as one of which nothing is proven. ``recheck_seconds``: until its Lease is to be read."""
    judgement = msgspec.structs.replace(
        member.judgement, phase=Phase.HELD, restarting=False, why="its Lease can't be read"
    )
    if recheck_seconds is not None:
        judgement = msgspec.structs.replace(
            judgement, recheck_seconds=recheck_seconds, why="its Lease was not read since it seems gone"
        )
    return msgspec.structs.replace(member, judgement=judgement, unread=True)


def _facts(
    hub: Hub,
    pod: Pod | None,
    node: KubernetesNode | None,
    lease: KnownLease | None,
    slices: tuple[KnownSlice, ...],
    ends: Mapping[str, float],
    away: bool,
    restarting_seconds: float,
    now: float,
    leases_observed: bool,
) -> MemberFacts:
    """The facts about a member that is ``away`` by order, or not. ``ends``: MemberPods.ends of its pod."""
    spec = lease.lease.spec if lease else None
    holder = (spec.holder_identity or "") if spec else ""
    migration, per_node = hub.spec.migration, hub.spec.members.mode == "PerNode"
    unschedulable = node is not None and node.spec.unschedulable
    return MemberFacts(
        holder=holder,
        granted_to=_granted_to(slices, holder),
        answered=_answered(slices, holder),
        runs=any(report.state in HAS_PROCESS for known in slices for report in known.reports.values()),
        unrenewed_seconds=now - lease.renewed_at if lease and leases_observed else 0.0,
        # While leaseSeconds changes, the longer of what the member works with and what the Hub says counts.
        lease_seconds=max(hub.spec.timeouts.lease_seconds, (spec.lease_duration_seconds or 0) if spec else 0),
        pod_uid=pod.metadata.uid if pod else "",
        pod_deleting=pod is not None and pod.metadata.deletion_timestamp is not None,
        pod_disrupted=pod is not None and _condition(pod, "DisruptionTarget"),
        holder_terminated=lease is not None and pod is not None and holder_terminated(lease, pod, ends),
        node_ready=_node_ready(node, pod, per_node),
        node_unschedulable=unschedulable,
        holds=migration.holds,
        hold_seconds=migration.hold_seconds,
        restarting_seconds=restarting_seconds,
        hands_over=migration.hands_over,
        ordered_away=away or (per_node and unschedulable),
    )


def _granted_to(slices: tuple[KnownSlice, ...], holder: str) -> str:
    """The holder that the slices are granted to; "" or the present one where one of them is."""
    granted = [known.present.spec.holder for known in slices]
    return next((each for each in granted if each in ("", holder)), granted[0] if granted else "")


def _answered(slices: tuple[KnownSlice, ...], holder: str) -> bool:
    return all(known.acknowledged_by(holder) for known in slices)


def holder_terminated(known: KnownLease, pod: Pod, ends: Mapping[str, float]) -> bool:
    """Whether the kubelet reported the end of the container that holds the Lease. ``ends``: MemberPods.ends of the pod.

    If the Lease was seen to change after the end was reported, the holder is not the container that ended: either the
    end came before the Lease was taken, or the Lease was renewed since. So no holder is judged terminated because a
    node's clock is set back. The times of that clock only rule out ends from before the Lease was taken that are
    reported late. The kubelet rounds them down to whole seconds. A container that ended in the same second in which it
    took the Lease is not recognised here; its Lease expires instead.
    """
    spec = known.lease.spec
    if not spec.acquire_time or (spec.holder_identity or "").partition("/")[0] != pod.metadata.uid:
        return False
    acquired = _time(spec.acquire_time)
    return any(seen > known.changed_at and _time(moment) >= acquired for moment, seen in ends.items())


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _condition(pod: Pod, kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in pod.status.conditions)


def _node_ready(node: KubernetesNode | None, pod: Pod | None, per_node: bool) -> bool:
    if node is None:
        return not per_node and (pod is None or not pod.spec.node_name)
    return any(condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions)


def _replica_names(hub: Hub) -> set[str]:
    """The members that spec.members.replicas asks for. There are none in the mode PerNode."""
    if hub.spec.members.mode == "PerNode":
        return set()
    return {f"{hub.metadata.name}-{ordinal}" for ordinal in range(hub.spec.members.replicas)}


def _on_node(node: KubernetesNode | None, pod: Pod | None, template: Mapping[str, Any] | None) -> bool:
    """Whether the DaemonSet has a member on the node."""
    if node is None or template is None:
        return node is not None
    return has_pod(template, node, there=pod is not None and pod.metadata.deletion_timestamp is None)


def _in_replicas(hub: Hub, name: str) -> bool:
    ordinal = member_ordinal(hub.metadata.name, name)
    return ordinal is not None and ordinal < hub.spec.members.replicas


def _order(hub: Hub, name: str) -> tuple[int, str]:
    ordinal = member_ordinal(hub.metadata.name, name) if hub.spec.members.mode == "Replicas" else None
    return (-1 if ordinal is None else ordinal), name
