"""The members of a hub as the API server shows them: pod, Lease and node, with the judgement of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import msgspec

from processhub.api.drained import parse_drained
from processhub.api.hub import Hub
from processhub.api.kubernetes import KubernetesNode, Lease, Pod
from processhub.api.naming import (
    ANNOTATION_DRAINED,
    ANNOTATION_JOINING,
    ANNOTATION_LOAD,
    ANNOTATION_SETTLED,
    LABEL_HUB_UID,
    LABEL_MEMBER,
    member_ordinal,
)
from processhub.api.usage import Usage, parse_usage
from processhub.controller.concurrency import gather_all
from processhub.controller.store.hubstate import HubState
from processhub.controller.store.leases import KnownLease
from processhub.controller.store.slices import KnownSlice
from processhub.core.model.membership import Judgement, MemberFacts, Phase, judge
from processhub.registry.grammar import Report

LABEL_ZONE = "topology.kubernetes.io/zone"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member with the judgement of it."""

    name: str
    wanted: bool
    weight: int
    drained: bool = False  # by an order on the Hub
    forced: bool = False  # bound children are stopped where it is drained
    pod: Pod | None
    lease: KnownLease | None
    slices: tuple[KnownSlice, ...]
    judgement: Judgement
    zone: str = ""

    @property
    def holder(self) -> str:
        """Who holds the Lease, "" where nobody does."""
        return (self.lease.lease.spec.holder_identity or "") if self.lease else ""

    @property
    def node(self) -> str:
        """The Kubernetes node that its pod is on, "" where it has none."""
        return self.pod.spec.node_name if self.pod else ""

    @property
    def phase(self) -> Phase:
        """LIVE, HELD or GONE."""
        return self.judgement.phase

    @property
    def joining(self) -> bool:
        """Whether it is on record as one that has not taken its share yet."""
        first = self.slices[0].present.metadata.annotations if self.slices else {}
        return ANNOTATION_JOINING in first

    @property
    def settled_by(self) -> str:
        """The fingerprint of the strategy and weights by which it has its share, "" where it has none yet."""
        return self.slices[0].present.metadata.annotations.get(ANNOTATION_SETTLED, "") if self.slices else ""

    @property
    def usage(self) -> Usage | None:
        """What its children use, as its agent reported with the Lease; None where it has not."""
        return parse_usage(self.lease.lease.metadata.annotations.get(ANNOTATION_LOAD, "")) if self.lease else None

    def reports_in(self, known: KnownSlice) -> Mapping[str, Report]:
        """What the member reports in its slice: nothing once it is gone, nor what another Lease holder wrote."""
        speaks = self.phase is not Phase.GONE and known.present.status.holder == self.holder
        return known.reports if speaks else {}

    @property
    def ready(self) -> bool:
        """Whether its pod is Ready and its Lease held."""
        return self.phase is Phase.LIVE and self.pod is not None and _condition(self.pod, "Ready")


def observe_members(
    hub: Hub,
    state: HubState,
    nodes: Mapping[tuple[str, str], KubernetesNode],
    restarting_since: dict[str, float],
    now: float,
    *,
    leases_observed: bool,
) -> dict[str, Member]:
    """All members by name, in order: those that are wanted and those of which something is left.

    ``restarting_since`` is kept between calls: by member, when (monotonic seconds) its restart was first seen.
    """
    per_node, pod_of = hub.spec.members.mode == "PerNode", _pod_of(hub, state)
    drained = parse_drained(hub.metadata.annotations.get(ANNOTATION_DRAINED, ""))
    slices = state.slices.by_member()
    names = set(slices) | set(pod_of) | {member_of(known.lease) for known in state.leases.values()} - {""}
    members = {}
    for name in sorted(names | _replica_names(hub), key=lambda name: _order(hub, name)):
        pod = pod_of.get(name)
        node = nodes.get(("", name if per_node else pod.spec.node_name if pod else ""))
        wanted = node is not None if per_node else _in_replicas(hub, name)
        lease = state.leases.of_member(name)
        own = tuple(slices.get(name, ()))
        facts = _facts(hub, pod, node, lease, own, wanted, per_node, now, leases_observed)
        ends = state.pods.ends.get(pod.metadata.name, {}) if pod else {}
        facts = msgspec.structs.replace(
            facts,
            holder_terminated=lease is not None and pod is not None and holder_terminated(lease, pod, ends),
            restarting_seconds=now - restarting_since.get(name, now),
            ordered_away=facts.ordered_away or name in drained,
        )
        judgement = judge(facts)
        if judgement.restarting:
            restarting_since.setdefault(name, now)
        elif judgement.phase is Phase.LIVE:
            restarting_since.pop(name, None)
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


async def proven_members(
    look: Callable[[], dict[str, Member]], confirm_gone: Callable[[Member], Awaitable[bool | None]], *, copies: bool
) -> dict[str, Member]:
    """What ``look`` gives, but that a member is gone counts only with a live read of its Lease: a watch may lag.

    Also for one whose entries are removed already: a new holder may have read its slices before that. And with
    ``copies``, which may take its roles, for one that restarts. ``confirm_gone``: whether the Lease is as it was, None
    where it can't be read; then the member is held (docs/protocol.md, rules 10 and 11).
    """
    members = look()
    silent = [member for member in members.values() if _seems_gone(member, copies)]
    as_judged = await gather_all(*(confirm_gone(member) for member in silent))
    answers = {member.name: answer for member, answer in zip(silent, as_judged, strict=True)}
    before = {member.name: member.lease for member in silent}
    if not all(as_judged):
        members = look()
    unread = [
        member
        for name, member in members.items()
        if _seems_gone(member, copies)
        # It is another, and the look does not go by it: as good as not read.
        and (answers.get(name) is None or (answers[name] is False and member.lease is before[name]))
    ]
    return members | {member.name: _held(member) for member in unread}


def _seems_gone(member: Member, copies: bool) -> bool:
    """Whether children of this member may be given to others, or with ``copies`` their active role."""
    judged_so = member.phase is Phase.GONE or (copies and member.judgement.restarting)
    return judged_so and any(known.assignments or known.unproven or known.uncertain for known in member.slices)


def _held(member: Member) -> Member:
    judgement = msgspec.structs.replace(
        member.judgement, phase=Phase.HELD, restarting=False, why="its Lease can't be read"
    )
    return msgspec.structs.replace(member, judgement=judgement)


def member_of(lease: Lease) -> str:
    """The member whose Lease it is; a label's value may be shortened, the annotation is whole."""
    return lease.metadata.annotations.get(LABEL_MEMBER) or lease.metadata.labels.get(LABEL_MEMBER, "")


def _facts(
    hub: Hub,
    pod: Pod | None,
    node: KubernetesNode | None,
    lease: KnownLease | None,
    slices: tuple[KnownSlice, ...],
    wanted: bool,
    per_node: bool,
    now: float,
    leases_observed: bool,
) -> MemberFacts:
    spec = lease.lease.spec if lease else None
    migration = hub.spec.migration
    return MemberFacts(
        holder=(spec.holder_identity or "") if spec else "",
        granted_to=slices[0].present.spec.holder if slices else "",
        unrenewed_seconds=now - lease.renewed_at if lease and leases_observed else 0.0,
        # While leaseSeconds changes, the longer of what the member works with and what the Hub says counts.
        lease_seconds=max(hub.spec.timeouts.lease_seconds, (spec.lease_duration_seconds or 0) if spec else 0),
        pod_uid=pod.metadata.uid if pod else "",
        pod_deleting=pod is not None and pod.metadata.deletion_timestamp is not None,
        pod_disrupted=pod is not None and _condition(pod, "DisruptionTarget"),
        node_ready=_node_ready(node, pod, per_node),
        node_unschedulable=node is not None and node.spec.unschedulable,
        holds=migration.holds,
        hold_seconds=migration.hold_seconds,
        hands_over=migration.hands_over,
        ordered_away=not wanted or (per_node and node is not None and node.spec.unschedulable),
    )


def holder_terminated(known: KnownLease, pod: Pod, ends: Mapping[str, float]) -> bool:
    """Whether the kubelet reported the end of the container that holds the Lease. ``ends``: HubState.ends of the pod.

    A holder whose Lease was seen to change after that end was reported is not the one that ended: it was there before
    the Lease was taken, or the Lease was renewed since. So a node's clock that is set back makes nobody terminated. The
    times, of that clock, only rule out ends from before the Lease was taken, which are reported late. The kubelet's are
    whole seconds, rounded down: a container that ended in the second in which it took the Lease is not recognised here,
    and its Lease runs out instead.
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


def _pod_of(hub: Hub, state: HubState) -> dict[str, Pod]:
    """The pod of each member that has one."""
    per_node = hub.spec.members.mode == "PerNode"
    pods = {
        pod.metadata.name: pod
        for pod in state.pods.values()
        if pod.metadata.labels.get(LABEL_HUB_UID) == hub.metadata.uid
        and (per_node or member_ordinal(hub.metadata.name, pod.metadata.name) is not None)  # else a copy of one
    }
    return _pods_by_node(pods) if per_node else pods


def _replica_names(hub: Hub) -> set[str]:
    """The members that spec.members.replicas asks for; none where there is one on each node."""
    if hub.spec.members.mode == "PerNode":
        return set()
    return {f"{hub.metadata.name}-{ordinal}" for ordinal in range(hub.spec.members.replicas)}


def _pods_by_node(pods: Mapping[str, Pod]) -> dict[str, Pod]:
    """The pod of each node; while one is replaced, the one that stays; never a copy that somebody made of it."""
    by_node: dict[str, Pod] = {}

    def last(pod: Pod) -> tuple[bool, bool]:
        return bool(pod.metadata.owner_references), pod.metadata.deletion_timestamp is None

    for pod in sorted(pods.values(), key=last):
        if pod.spec.node_name:
            by_node[pod.spec.node_name] = pod
    return by_node


def _in_replicas(hub: Hub, name: str) -> bool:
    ordinal = member_ordinal(hub.metadata.name, name)
    return ordinal is not None and ordinal < hub.spec.members.replicas


def _order(hub: Hub, name: str) -> tuple[int, str]:
    ordinal = member_ordinal(hub.metadata.name, name) if hub.spec.members.mode == "Replicas" else None
    return (-1 if ordinal is None else ordinal), name
