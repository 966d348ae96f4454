"""What befalls the Pods of pod children, and users who make children Pods."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from memoryapi import Json
from memoryrequests import Key

from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_CHILD, LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER

from .childpods import ChildPod
from .naming import HUB, LEADER, pod_workload
from .world import World, add_condition

if TYPE_CHECKING:
    from .hands import Hands

_MARKS = (LABEL_CHILD, LABEL_HUB, LABEL_HUB_UID, LABEL_MEMBER)


class PodHands:
    """Users and chance, as far as pod children are concerned. ``share``: how many of the workloads are Pods.

    Every other pair of seeds has Pods.
    """

    def __init__(self, hands: Hands, world: World, seed: int) -> None:
        self._hands, self._world = hands, world
        self.share = Random(f"{seed}/share of pods").choice((0.3, 0.7)) if seed // 2 % 2 else 0.0

    def workload(self, command: str) -> Json:
        """Return a workload with this command: a process, or a Pod."""
        if self.share and self._hands.rng.random() < self.share:
            return pod_workload(command)
        return {"exec": {"command": [command]}}

    def edit(self, command: str) -> Json:
        """Return a merge patch to such a workload: the kind changes, too."""
        return {"exec": None, "pod": None, **self.workload(command)} if self.share else self.workload(command)

    def acts(self) -> tuple[tuple[int, Callable[[], None]], ...]:
        """The acts, with their weights."""
        return (
            (3, self._delete),
            (1, self._delete_by_force),
            (2, self._evict),
            (2, self._press),
            (2, self._lose_images),
            (2, self._fill_quota),
            (2, self.take_mark),
        ) if self.share else ()  # fmt: skip

    def acts_beside_restores(self) -> tuple[tuple[int, Callable[[], None]], ...]:
        """The same, but for marks: while nobody leads, a Pod that lacks one may lose it for good."""
        return tuple(act for act in self.acts() if act[1] != self.take_mark)

    def _pod(self) -> ChildPod | None:
        pods = list(self._world.child_pods.present)
        return self._hands.rng.choice(pods) if pods else None

    def _delete(self) -> None:
        if (pod := self._pod()) is not None:
            self._world.trace.fault("admin", f"deletes pod {pod.where}")
            self._world.server.end(pod.key)

    def _delete_by_force(self) -> None:
        """Delete the object while the process may run. Who does that answers for what runs."""
        if (pod := self._pod()) is not None:
            self._world.trace.fault("admin", f"deletes pod {pod.where} by force")
            pod.given_up = True
            self._world.server.end(pod.key, 0)

    def _evict(self) -> None:
        if (pod := self._pod()) is not None:
            self._world.trace.fault("admin", f"evicts pod {pod.where}")
            target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            self._world.server.update(pod.key, lambda item: add_condition(item, target))
            self._world.server.end(pod.key)

    def _press(self) -> None:
        """Let a kubelet end a Pod, as its node is short of memory."""
        if (pod := self._pod()) is not None and pod.node not in self._world.child_pods.lost:
            self._world.trace.fault(pod.node or "node", f"is short of memory, and ends pod {pod.where}")
            pod.evict()

    def _lose_images(self) -> None:
        self._world.trace.fault("registry", "has no images from now on")
        self._for_a_while("no_images")

    def _fill_quota(self) -> None:
        self._world.trace.fault("quota", "has no room for pods of children from now on")
        self._for_a_while("full")

    def _for_a_while(self, fault: str) -> None:
        setattr(self._world.child_pods, fault, True)
        self._hands.after(2.0, 40.0, lambda: setattr(self._world.child_pods, fault, False))

    @property
    def unmarked(self) -> bool:
        """Whether a Pod lacks a label by which operators find it, or is of a Hub that is gone."""
        objects = self._world.server.objects
        hub = objects[HUB]["metadata"]["uid"] if HUB in objects else None
        labels = [objects[pod.key]["metadata"].get("labels", {}) for pod in self._world.child_pods.present]
        return any(each.get(LABEL_HUB) != HUB.name or each.get(LABEL_HUB_UID) != hub for each in labels)

    def take_mark(self) -> None:
        """Take a label off a Pod, or the annotation that says of which child it is.

        It is put back within moments, but not while no operator leads. If the Hub were replaced or its slices deleted
        meanwhile, the next leader would not find the Pod (docs/protocol.md, rule 23), so neither happens then, and no
        mark is taken after it.
        """
        if (pod := self._pod()) is None or self.unmarked or LEADER not in self._world.server.objects:
            return
        mark = self._hands.rng.choice((*_MARKS, ANNOTATION_CHILD_ID))
        place = "annotations" if mark == ANNOTATION_CHILD_ID else "labels"
        self._world.trace.fault("admin", f"takes {mark} off pod {pod.where}")
        key = Key("pods", "ns", pod.key.name)
        self._world.edit(key, {"metadata": {place: {mark: None}}}, "admin")
