"""Decisions about the Pods of pod children: which ones the slices ask for, and what to do with those that exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from processhub.api.kubernetes import Pod
from processhub.api.naming import (
    ANNOTATION_EPOCH,
    ANNOTATION_ROLE,
    ANNOTATION_RUN,
    GATE_SOLE,
    LABEL_MEMBER,
    label_value,
    run_of,
)
from processhub.api.reasons import RestartPolicy, Role, State
from processhub.controller.objects.childpod import PodPlace, marks
from processhub.controller.observe.members import Member
from processhub.core.model.membership import Phase
from processhub.registry.copies import has_ended
from processhub.registry.grammar import Report
from processhub.registry.workloads import is_pod_workload

FINAL = ("Succeeded", "Failed")
Key = tuple[str, str]  # A child's id, and its member as the value of a label.


class Asked(NamedTuple):
    """A pod child that is to run: its place, its workload's JSON, and its member's report of this incarnation."""

    place: PodPlace
    workload: str
    report: Report | None
    live: bool  # Whether its member is live and the node is known.

    @property
    def key(self) -> Key:
        """The key under which it is listed."""
        return self.place.child_id, label_value(self.place.member)


def asked_for(members: Mapping[str, Member], *, copies: bool) -> dict[Key, Asked]:
    """The pod children that are to run. Without ``copies`` there is one of each id."""
    asked: dict[Key, Asked] = {}
    newest: dict[str, Asked] = {}  # by id
    for member in members.values():
        for known in member.slices:
            workloads = known.present.spec.workloads
            pods = {digest for digest, text in workloads.items() if is_pod_workload(text)}
            if not pods:
                continue
            current = known.present.status.holder == member.holder
            node = member.pod.spec.node_name if member.pod else ""
            for child_id, entry in known.assignments.items():
                if entry.wait or entry.workload not in pods:
                    continue
                before = asked.get((child_id, label_value(member.name))) if copies else newest.get(child_id)
                if before is not None:
                    if before.place.entry.epoch > entry.epoch:
                        continue
                    del asked[before.key]
                report = known.reports.get(child_id) if current else None
                if report is not None and (report.uid, report.epoch) != (entry.uid, entry.epoch):
                    report = None
                place = PodPlace(child_id=child_id, member=member.name, node=node, entry=entry)
                live = member.phase is Phase.LIVE and bool(node)
                item = newest[child_id] = Asked(place, workloads[entry.workload], report, live)
                asked[item.key] = item
    return asked


def to_be_made(asked: Asked, pod: Pod | None) -> bool:
    """Whether a Pod is to be created now. No other Pod may be in its place."""
    return pod is None and asked.live and asked.report is not None and asked.report.state == State.STARTING


def to_be_deleted(asked: Asked | None, pod: Pod) -> bool:
    """Whether the Pod is to be deleted, because the slices do not ask for it, or not as it is."""
    if pod.metadata.deletion_timestamp is not None:
        return False
    if asked is None:
        return True
    entry = asked.place.entry
    if not is_run_of(pod, asked.place):
        return True
    if entry.role == Role.PASSIVE and pod.metadata.annotations.get(ANNOTATION_ROLE) == Role.ACTIVE:
        return True  # Not the operator made it active. It may act on that, whatever its marks say later.
    if pod.metadata.labels.get(LABEL_MEMBER) != label_value(asked.place.member):
        return True
    if asked.report is not None and has_ended(asked.report):
        return pod.status.phase not in FINAL
    if entry.restart_policy == RestartPolicy.PERMANENT:
        return pod.status.phase in FINAL
    return entry.restart_policy == RestartPolicy.TRANSIENT and pod.status.phase == "Failed"


def new_marks(asked: Asked | None, pod: Pod) -> dict[str, str]:
    """The annotations that the Pod still needs, because its copy became active; {} if it has them."""
    if asked is None or not _is_wanted(asked, pod):
        return {}
    wanted = marks(asked.place.child_id, asked.place.entry)
    return {} if wanted.items() <= pod.metadata.annotations.items() else wanted


def to_be_ungated(asked: Asked | None, pod: Pod) -> bool:
    """Whether the Pod is gated, and the slices ask for it."""
    return asked is not None and _is_wanted(asked, pod) and _is_gated(pod)


def may_run(asked: Asked, pod: Pod) -> bool:
    """Whether the slices ask for the Pod, and it is not gated."""
    return _is_wanted(asked, pod) and not _is_gated(pod)


def _is_wanted(asked: Asked, pod: Pod) -> bool:
    return pod.metadata.deletion_timestamp is None and is_run_of(pod, asked.place)


def _is_gated(pod: Pod) -> bool:
    return any(gate.name == GATE_SOLE for gate in pod.spec.scheduling_gates)


def is_run_of(pod: Pod, place: PodPlace) -> bool:
    """Whether the Pod is the incarnation that the entry means. Its annotations of epoch and role may differ."""
    annotations, wanted = pod.metadata.annotations, marks(place.child_id, place.entry)
    may_differ = {ANNOTATION_EPOCH, ANNOTATION_ROLE, ANNOTATION_RUN}
    same = all(annotations.get(name) == wanted[name] for name in wanted.keys() - may_differ)
    return same and run_of(annotations) == wanted[ANNOTATION_RUN]
