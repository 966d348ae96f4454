"""The marks of pod children's Pods: labels and annotations. They are kept as first seen, and put back if changed.

A Pod runs on whatever its marks are. If the present marks counted, a Pod that lost one would belong to no child any
more, and another could be started beside it. So a Pod is followed by name and uid, with the marks that it was created
with. A Pod that leaves the watch is read before it counts as gone, because it also leaves the watch when it loses a
label by which the watch selects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from processhub.api.kubernetes import Pod
from processhub.api.naming import (
    ANNOTATION_CHILD_ID,
    ANNOTATION_CHILD_UID,
    ANNOTATION_ROLE,
    ANNOTATION_RUN,
    ANNOTATION_WORKLOAD,
    LABEL_CHILD,
    LABEL_COMPONENT,
    LABEL_HUB,
    LABEL_HUB_UID,
    LABEL_MEMBER,
    child_pod_name,
    child_pod_names,
    id_hash,
    label_value,
)
from processhub.api.reasons import Role
from processhub.controller.objects.childpod import place_in_env
from processhub.controller.store.hubstate import HubState

_LABELS = (LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER, LABEL_CHILD)
_ANNOTATIONS = (ANNOTATION_CHILD_ID, ANNOTATION_CHILD_UID, ANNOTATION_RUN, ANNOTATION_WORKLOAD)
_OWNERS = ("Child", "ChildSet")
_WORKLOADS = ("StatefulSet", "DaemonSet")


def claims_to_be_child_pod(pod: Pod) -> bool:
    """Whether the Pod is marked as a child's, by its labels or by its owner."""
    labels, owners = pod.metadata.labels, pod.metadata.owner_references
    marked = LABEL_CHILD in labels or labels.get(LABEL_COMPONENT) == "child"
    return marked or any(owner.kind in _OWNERS for owner in owners)


def is_member_pod(pod: Pod, hub: str) -> bool:
    """Whether the Pod can be a member's: the hub's workload created it, even if that was deleted without its Pods.

    The hub's label alone proves nothing, as other objects may have it too.
    """
    labels = pod.metadata.labels
    if labels.get(LABEL_HUB) != hub or LABEL_HUB_UID not in labels or claims_to_be_child_pod(pod):
        return False
    controller = next((owner for owner in pod.metadata.owner_references if owner.controller), None)
    return controller is None or (controller.kind in _WORKLOADS and controller.name == hub)


def is_child_pod(pod: Pod) -> bool:
    """Whether the Pod has the name that the operator gives to a Pod with its labels and annotations."""
    labels, child_id = pod.metadata.labels, pod.metadata.annotations.get(ANNOTATION_CHILD_ID, "")
    hub, uid, member = (labels.get(label, "") for label in (LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER))
    return LABEL_CHILD in labels and pod.metadata.name in child_pod_names(hub, uid, child_id, member)


def changed_marks(known: Pod, now: Pod) -> tuple[str, ...]:
    """The labels and annotations that another writer changed or removed.

    The role may become Active, which the operator writes and never takes back. The epoch is not a mark.
    """
    labels, annotations = known.metadata.labels, known.metadata.annotations
    changed = [name for name in _LABELS if name in labels and now.metadata.labels.get(name) != labels[name]]
    after = now.metadata.annotations
    changed += [name for name in _ANNOTATIONS if name in annotations and after.get(name) != annotations[name]]
    role = annotations.get(ANNOTATION_ROLE)
    if role is not None and after.get(ANNOTATION_ROLE) not in (role, Role.ACTIVE):
        changed.append(ANNOTATION_ROLE)
    return tuple(changed)


def with_marks(known: Pod, now: Pod) -> Pod:
    """The Pod as it is now, with the marks that it was created with."""
    names = changed_marks(known, now)
    if not names:
        return now
    metadata = msgspec.structs.replace(
        now.metadata,
        labels=now.metadata.labels | _these(names, known.metadata.labels),
        annotations=now.metadata.annotations | _these(names, known.metadata.annotations),
    )
    return msgspec.structs.replace(now, metadata=metadata)


def _these(names: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    return {name: given[name] for name in names if name in given}


def marks_to_put_back(pod: Pod) -> dict[str, dict[str, str]]:
    """The Pod's labels and annotations for the metadata of a merge patch."""
    labels = _these(_LABELS, pod.metadata.labels)
    return {"labels": labels, "annotations": _these((*_ANNOTATIONS, ANNOTATION_ROLE), pod.metadata.annotations)}


def hub_uids(hub_uid: str, state: HubState) -> set[str]:
    """The uids of the hub ("" if it is gone) and of earlier ones of its name that have left slices."""
    own = {known.present.spec.hub_uid for known in state.slices.values()}
    return (own | {hub_uid} | {item.spec.hub_uid for item in state.slices.older.values()}) - {""}


def identified(pod: Pod, hub: str, uids: Collection[str]) -> Pod | None:
    """The Pod with the marks that its name proves, or None if it belongs neither to the hub nor to an earlier one.

    This is for a Pod that was changed while no leader knew it. The environment of its containers can't be changed, and
    has the child's id and member. No other Pod has the name that follows from them: a copied Pod has another one. Only
    names are compared, so that those who may create Pods can't choose how much work one is. ``uids``: of ``hub_uids``.
    """
    place = place_in_env(pod)
    if place is None:
        return None
    child_id, member = place
    # The uid of its label counts too, because the name proves it.
    for uid in {*uids, pod.metadata.labels.get(LABEL_HUB_UID, "")} - {""}:
        if pod.metadata.name in (child_pod_name(hub, uid, child_id), child_pod_name(hub, uid, child_id, member)):
            labels = {LABEL_HUB: hub, LABEL_HUB_UID: uid, LABEL_MEMBER: label_value(member)}
            metadata = msgspec.structs.replace(
                pod.metadata,
                labels=pod.metadata.labels | labels | {LABEL_CHILD: id_hash(child_id)},
                annotations=pod.metadata.annotations | {ANNOTATION_CHILD_ID: child_id},
            )
            return msgspec.structs.replace(pod, metadata=metadata)
    return None


def same_stage(old: Pod, new: Pod) -> bool:
    """Whether a child's Pod is at the same stage of its life. The states of its containers are not compared."""
    return (
        old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.status.phase == new.status.phase
        and old.spec == new.spec
    )
