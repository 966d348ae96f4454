"""Roll-outs of the members: users who edit their template, and what the controllers of workloads do then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from memoryapi import Json

from .naming import HUB, NODES

if TYPE_CHECKING:
    from .hands import Act, Hands
    from .world import World

REVISION = "controller-revision-hash"  # the label of a Pod


def rolls(seed: int) -> bool:
    """Whether members of this seed are replaced when their template changes, and users change it."""
    return seed % 13 == 10


def revision_of(workload: Json) -> str:
    """The name of the template that the workload has now."""
    return sha256(json.dumps(workload["spec"]["template"], sort_keys=True).encode()).hexdigest()[:10]


def outdated_replica(workload: Json, pods: Sequence[Json]) -> Json | None:
    """The Pod that the controller of StatefulSets deletes next, if any: the last one that is not as the template says.

    It waits for each Pod after that one.
    """
    wanted = range(workload["spec"]["replicas"])
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    for ordinal in reversed(wanted):
        pod = by_name.get(f"hub-{ordinal}")
        if pod is None or _ends(pod):
            return None
        if is_outdated(workload, pod):
            return pod
        if not is_ready(pod):
            return None
    return None


def outdated_daemon(workload: Json, pods: Sequence[Json]) -> Json | None:
    """The Pod that the controller of DaemonSets deletes next, if any: one at a time is away."""
    old = [pod for pod in pods if is_outdated(workload, pod) and not _ends(pod)]
    away = [pod for pod in pods if _ends(pod) or not is_ready(pod)]
    unready = [pod for pod in old if pod in away]
    if unready:
        return unready[0]
    return old[0] if old and not away and len(pods) == len(NODES) else None


def is_there(workload: Json, pod: Json) -> bool:
    """Whether the Pod is as the template says, and ready."""
    return is_ready(pod) and not _ends(pod) and not is_outdated(workload, pod)


def _ends(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_outdated(workload: Json, pod: Json) -> bool:
    """Whether the Pod was made by another template."""
    label: str = pod["metadata"]["labels"].get(REVISION, "")
    return label != revision_of(workload)


def is_ready(pod: Json) -> bool:
    """Whether its kubelet reports the Pod as ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class RollHands:
    """Users who edit the template of the members, or restart them as ``kubectl rollout restart`` does."""

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world, self._edits, self.present = hands, world, 0, rolls(seed)

    def acts(self) -> tuple[Act, ...]:
        """The acts, with their weights."""
        return ((2, self.edit), (1, self._restart), (1, self._undo)) if self.present else ()

    def edit(self) -> None:
        """Edit the template."""
        self._edits += 1
        self._set({"metadata": {"annotations": {"edit": str(self._edits)}}})

    def _undo(self) -> None:
        """Take the edits back, also while Pods are replaced."""
        self._set(None)

    def _set(self, template: Json | None) -> None:
        self._world.edit(HUB, {"spec": {"members": {"template": template}}})

    def _restart(self) -> None:
        self._edits += 1
        mark = {"kubectl.kubernetes.io/restartedAt": str(self._edits)}
        self._world.edit(self._world.workloads.key, {"spec": {"template": {"metadata": {"annotations": mark}}}})
