"""Waits until the operator runs or it is clear that its pods can't start; the error has the kubelet's message.

A Deployment only shows that it is not ready. The reason is in its pods: in the states of their containers, in the
scheduler's condition, in the last lines of their logs.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localcluster.layout import ClusterError

Json = dict[str, Any]
Kubectl = Callable[..., str]  # kubectl's output for its arguments; raises ClusterError if it fails

NAMESPACE = "processhub-system"
_NAME = "processhub-operator"
_KINDS = "deployments,replicasets,pods"
_OURS = "app.kubernetes.io/component=operator"
_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"
_LOG_LINES = 8
_LOOK_SECONDS = 0.3
_CAN_PASS_SECONDS = 6.0  # for a ConfigMap that is created a moment later, or a node that is about to be Ready
_FAILED_RUNS = 2  # the first run may be too early for the objects that the operator needs
_ON_ITS_WAY = ("", "ContainerCreating", "PodInitializing", "CrashLoopBackOff")  # CrashLoopBackOff: see the last run


@dataclass(frozen=True)
class Problem:
    """The reason why a pod does not run or is not created.

    ``final``: waiting can't help. ``container``: its log may have more.
    """

    name: str
    text: str
    final: bool = False
    container: str = ""


def problem_of(pod: Json, restarts_before: Mapping[tuple[str, str], int]) -> Problem | None:
    """The reason why a pod does not run; None if no reason is known.

    Args:
        pod: the object.
        restarts_before: how often each container had been restarted when the wait began, by uid of the pod and name.
            Earlier restarts do not count, because their cause may have been removed since.
    """
    name, status = f"pod/{pod['metadata']['name']}", pod.get("status") or {}
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        before = restarts_before.get((pod["metadata"]["uid"], entry["name"]))
        if found := _problem_of_container(name, entry, before):
            return found
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Problem(name, f"{condition.get('reason', '')}: {condition.get('message', '')}")
    return None


def _problem_of_container(pod: str, entry: Json, before: int | None) -> Problem | None:
    name, state = entry["name"], entry.get("state") or {}
    ended = state.get("terminated") or (entry.get("lastState") or {}).get("terminated") or {}
    waiting = state.get("waiting") or {}
    is_over = "terminated" in state or waiting.get("reason") == "CrashLoopBackOff"
    restarts = int(entry.get("restartCount") or 0)
    failed = restarts + is_over if before is None else restarts - before  # runs since the wait began
    if "running" not in state and ended.get("exitCode") and failed > 0:
        said = f": {ended['message']}" if ended.get("message") else ""
        text = f"container {name}: {ended.get('reason', 'Error')}, exit code {ended['exitCode']}{said}"
        never_ran = not ended.get("startedAt")
        return Problem(pod, text, final=never_ran or failed >= _FAILED_RUNS, container="" if never_ran else name)
    if waiting.get("reason", "") not in _ON_ITS_WAY or (waiting.get("message") and not ended):
        return Problem(pod, f"container {name}: {waiting.get('reason', 'Waiting')}: {waiting.get('message', '')}")
    return None


def _problem_of_replica_set(replica_set: Json) -> Problem | None:
    """The reason why no pods are created. The Deployment keeps reporting those of earlier templates."""
    for condition in (replica_set.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return Problem(f"deployment/{_NAME}", f"{condition.get('reason', '')}: {condition.get('message', '')}")
    return None


@dataclass(frozen=True)
class _Objects:
    """The operator's Deployment (empty if there is none), and the ReplicaSets and pods of its present template."""

    deployment: Json
    replica_sets: list[Json]
    pods: list[Json]

    @property
    def is_observed(self) -> bool:
        """Whether the status of the Deployment describes its present spec."""
        generation = self.deployment.get("metadata", {}).get("generation", 1)
        return bool(self.deployment.get("status", {}).get("observedGeneration", 0) >= generation)


def _objects(items: list[Json]) -> _Objects:
    deployment = next((item for item in items if item["kind"] == "Deployment"), {})
    revision = deployment.get("metadata", {}).get("annotations", {}).get(_REVISION)
    replica_sets = [
        item
        for item in items
        if item["kind"] == "ReplicaSet" and item["metadata"].get("annotations", {}).get(_REVISION) == revision
    ]
    present = {item["metadata"]["labels"].get(_HASH) for item in replica_sets}
    pods = [item for item in items if item["kind"] == "Pod" and item["metadata"]["labels"].get(_HASH) in present]
    pods = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return _Objects(deployment, replica_sets, pods)


class Rollout:
    """One installation of the operator, from its beginning until a replica leads."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._restarts_before = {
            (pod["metadata"]["uid"], entry["name"]): int(entry.get("restartCount") or 0)
            for pod in self._look().pods
            for entry in (pod.get("status") or {}).get("containerStatuses") or ()
        }

    def wait(self, seconds: float) -> None:
        """Wait until all replicas are ready and one leads.

        Raises ClusterError as soon as a pod can't start, with the reason, or after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        since: dict[tuple[str, str], float] = {}
        while missing := self._missing(objects := self._look()):
            now = time.monotonic()
            problems = {(each.name, each.text): each for each in self._problems(objects)}
            since = {key: since.get(key, now) for key in problems}
            for key, each in problems.items():
                if each.final or now - since[key] >= _CAN_PASS_SECONDS:
                    raise ClusterError(f"{each.name} can't start: {each.text}{self._last_lines(each)}")
            if now > deadline:
                raise ClusterError(f"{missing} after {seconds:g} s; see: kubectl -n {NAMESPACE} describe pods")
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> _Objects:
        return _objects(json.loads(self._kubectl("-n", NAMESPACE, "get", _KINDS, "-l", _OURS, "-o", "json"))["items"])

    def _problems(self, objects: _Objects) -> list[Problem]:
        if not objects.is_observed:
            return []  # the pods are of an earlier spec
        found = [_problem_of_replica_set(each) for each in objects.replica_sets]
        found += [problem_of(pod, self._restarts_before) for pod in objects.pods]
        return [each for each in found if each]

    def _missing(self, objects: _Objects) -> str:
        """The missing parts of the operator: replicas, a leader; empty if it is complete."""
        wanted, status = objects.deployment.get("spec", {}).get("replicas", 1), objects.deployment.get("status", {})
        counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")]
        if not objects.is_observed or counts != [wanted] * 3:
            return f"{counts[2]} of the operator's {wanted} pods are ready"
        # A Deployment is ready with standbys alone.
        holder = ("get", "lease", _NAME, "--ignore-not-found", "-o", "jsonpath={.spec.holderIdentity}")
        return "" if not wanted or self._kubectl("-n", NAMESPACE, *holder) else "no operator leads"

    def _last_lines(self, problem: Problem) -> str:
        if not problem.container:
            return ""
        for options in (("--previous",), ()):
            with contextlib.suppress(ClusterError):  # the log only adds to what is known
                logs = ("logs", problem.name, "-c", problem.container, f"--tail={_LOG_LINES}", *options)
                if said := self._kubectl("-n", NAMESPACE, *logs).strip():
                    return f"; it said last:\n{said}"
        return ""
