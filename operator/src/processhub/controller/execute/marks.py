"""The marks of slices, member Leases and members' pods: labels, annotations and owner references.

Members and clients select slices by a label. The admission policy checks a member's renewals by the marks of its Lease.
Garbage collection follows the owner references. So users' edits of them are put back. Pods of members get their label.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease, Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import LABEL_HUB_UID, LABEL_MEMBER, label_value
from processhub.api.slice import RegistrySlice
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import LEASES, PODS, SLICES, Kind
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.objects.registry import lease_annotations, member_labels, member_owners
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.controller.store.hubstate import HubState

_AGAIN_SECONDS = 0.5  # Between two repairs at least, whoever changes the marks.
log = logging.getLogger(__name__)


async def put_marks_back(round: Round, memory: ExecuteMemory) -> None:
    """Put the missing marks back."""
    wrong, now = _wrong(round.hub, round.state), round.now()
    if not wrong:
        return
    if now < memory.marks_due:
        round.again_in(memory.marks_due - now)
        return
    memory.marks_due = now + _AGAIN_SECONDS
    tried = [
        await round.steps.take(
            f"{kind.plural}/{name} can't get its labels, annotations or owner back",
            partial(_put_back, round, kind, name, patch),
        )
        for kind, name, patch in wrong
    ]
    if any(tried):
        round.again_in(_AGAIN_SECONDS)


async def _put_back(round: Round, kind: Kind[RegistrySlice] | Kind[Lease], name: str, patch: dict[str, Any]) -> None:
    namespace = round.hub.metadata.namespace
    try:
        round.store.put(kind.plural, await round.client.patch(kind, namespace, name, {"metadata": patch}))
    except (NotFoundError, ConflictError) as error:
        log.debug("%s %s is gone or another: %s", kind.plural, name, error.message)
        return
    log.info("%s %s/%s: its labels, annotations or owner were put back", kind.plural, namespace, name)


def _wrong(hub: Hub, state: HubState) -> list[tuple[Kind[RegistrySlice] | Kind[Lease], str, dict[str, Any]]]:
    """The slices and Leases of the hub that lack marks, each with the metadata to patch."""
    found: list[tuple[Kind[RegistrySlice] | Kind[Lease], str, dict[str, Any]]] = []
    for member, slices in state.slices.by_member().items():
        for known in slices:
            metadata = known.present.metadata
            if known.present.spec.hub_uid == hub.metadata.uid and (patch := _missing(hub, member, metadata, {})):
                found.append((SLICES, metadata.name, patch))
        lease = state.leases.of_member(member)
        if lease is None or lease.lease.metadata.name in state.leases.unwatched:
            continue  # The round creates it, or finds it without its label.
        metadata, uid = lease.lease.metadata, hub.metadata.uid
        ours = metadata.owned_by(uid) or metadata.labels.get(LABEL_HUB_UID) == uid
        if ours and (patch := _missing(hub, member, metadata, lease_annotations(hub, member))):
            found.append((LEASES, metadata.name, patch))
    return found


def _missing(hub: Hub, member: str, metadata: ObjectMeta, annotations: dict[str, str]) -> dict[str, Any]:
    """The metadata of a merge patch that adds the missing marks, or {}."""
    patch: dict[str, Any] = {}
    labels = member_labels(hub, member)
    if not labels.items() <= metadata.labels.items():
        patch["labels"] = labels
    if not annotations.items() <= metadata.annotations.items():
        patch["annotations"] = annotations
    if not metadata.owned_by(hub.metadata.uid):
        patch["ownerReferences"] = [*metadata.owner_references, *member_owners(hub)]
    return patch and {"uid": metadata.uid, **patch}


async def label_pods(round: Round, members: Iterable[Member]) -> None:
    """Label the pods that have no label of their member yet: their StatefulSet gives all of them the same labels."""
    for member in members:
        pod = member.pod
        if pod is None or pod.metadata.deletion_timestamp is not None:
            continue
        wanted = label_value(member.name)
        if pod.metadata.labels.get(LABEL_MEMBER) != wanted:
            what = f"pod {pod.metadata.name} can't get its label {LABEL_MEMBER}"
            label = partial(_label, round, pod, wanted)
            await round.steps.take(what, partial(round.steps.answer, what, label))


async def _label(round: Round, pod: Pod, wanted: str) -> None:
    # With the uid, because nothing is known of a pod that replaced this one meanwhile.
    patch = {"metadata": {"uid": pod.metadata.uid, "labels": {LABEL_MEMBER: wanted}}}
    try:
        round.store.put("pods", await round.client.patch(PODS, pod.metadata.namespace, pod.metadata.name, patch))
    except (NotFoundError, ConflictError) as error:
        log.debug("pod %s: %s", pod.metadata.name, error.message)
