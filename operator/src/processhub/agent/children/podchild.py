"""Pod children: the operator creates and deletes their Pods, and the agent of their member follows and reports them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from processhub.agent.children.child import Child
from processhub.agent.children.childhttp import ChildHttp
from processhub.agent.children.runs import ExitStatus, RunHandle
from processhub.agent.env import Environment
from processhub.agent.peers.statesender import Content
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.agent.request import OutcomeUnknownError, Request, Response
from processhub.api.addresses import authority
from processhub.api.child import PodWorkload
from processhub.api.kubernetes import Pod, Terminated
from processhub.api.naming import (
    ANNOTATION_CHILD_UID,
    GATE_SOLE,
    LABEL_CHILD,
    LABEL_HUB,
    LABEL_HUB_UID,
    LABEL_MEMBER,
    child_pod_names,
    label_value,
    run_of,
)
from processhub.api.reasons import Reason, State
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import PODS
from processhub.core.model.podtrouble import exit_text, statuses, stuck_container, unscheduled, waits_for

_CANNOT_RUN = ("StartError", "ContainerCannotRun")  # reasons a kubelet reports for a command that does not exist


class PodStarter:
    """Follows the Pods of this member's pod children; the watch starts with the first of them.

    ``begin`` runs the watch until the agent ends.
    """

    def __init__(self, env: Environment, client: Client, begin: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._env, self._begin = env, begin
        labels = {LABEL_HUB: label_value(env.hub), LABEL_HUB_UID: env.hub_uid, LABEL_MEMBER: label_value(env.member)}
        selector = ",".join([*(f"{key}={value}" for key, value in labels.items()), LABEL_CHILD])
        self._informer: Informer[Pod] = Informer(
            client, PODS, self._changed, namespace=env.namespace, labels=selector, on_reconnect=self._listed
        )
        self._watching = False
        self._runs: dict[str, PodRun] = {}
        self.ended: set[str] = set()  # uids of the Pods with which runs have ended, while those exist
        self.closing = False
        self.http = ChildHttp()

    @property
    def synced(self) -> bool:
        """Whether the Pods have been listed. Before that, a missing Pod proves nothing."""
        return self._informer.synced.is_set()

    def launch(self, child: Child, desired: DesiredRun, state: Content | None = None) -> RunHandle:
        """Follow the child's Pod, which the operator creates when the child reports Starting.

        A Pod keeps its own state, so ``state`` is not used.
        """
        assert isinstance(desired.workload, PodWorkload)
        if not self._watching:
            self._watching = True
            self._begin(self._informer.run())
        child.settled = True  # A rollout of members need not wait for Pods, because they outlive the member's pod.
        run = self._runs[child.id] = PodRun(self, child, desired, desired.workload)
        # Deferred: the child must know its run before anything can be reported to it.
        asyncio.get_running_loop().call_soon(run.look)
        return run

    def forget(self, child_id: str) -> None:
        """Do nothing: this member keeps nothing for a pod child."""

    def shut_down(self) -> None:
        """Prepare for the agent's shutdown: a child that is stopped from now on ends at once, and its Pod stays."""
        self.closing = True

    def names_of(self, child_id: str) -> tuple[str, str]:
        """The names that a Pod of the child on this member may have."""
        return child_pod_names(self._env.hub, self._env.hub_uid, child_id, self._env.member)

    def pods(self, names: Iterable[str]) -> list[Pod]:
        """The Pods that have one of these names, and exist."""
        found = (self._informer.items.get((self._env.namespace, name)) for name in names)
        return [pod for pod in found if pod is not None]

    def over(self, run: PodRun, child_id: str) -> None:
        """Remove a run that has reported its end."""
        if self._runs.get(child_id) is run:
            del self._runs[child_id]

    def _changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        if new is None:
            self.ended.discard(pod.metadata.uid)
        # By the name, which nobody can edit: its annotations may be gone until the operator puts them back.
        for run in list(self._runs.values()):
            if pod.metadata.name in run.names:
                run.look()

    def _listed(self) -> None:
        """Compare all runs with the list: a Pod that is not on it was deleted, or was never created."""
        for run in list(self._runs.values()):
            run.look()


class PodRun(RunHandle):
    """The run of one incarnation of a pod child, as this agent follows it.

    A Pod keeps its state itself, and the operator sets its annotations when its role changes.
    """

    def __init__(self, starter: PodStarter, child: Child, desired: DesiredRun, workload: PodWorkload) -> None:
        self._starter, self._child, self._port = starter, child, workload.port
        self.names = starter.names_of(child.id)  # of its Pods, of any incarnation
        self._uid, self._run = desired.assignment.uid, str(desired.assignment.started_with)
        self._was_up, child.history.was_up = child.history.was_up, False
        self._seen = ""  # uid of the Pod that was seen
        self._up = self._stopping = self._over = False
        self._posts: set[asyncio.Future[Response]] = set()

    # Orders of the child.

    def stop(self, grace: float) -> None:
        """Wait until the operator has deleted the Pod. When the agent shuts down, the run ends at once instead."""
        self._stopping = True
        # Deferred: the child has not finished the call that ordered the stop.
        asyncio.get_running_loop().call_soon(self.look)

    def desired_again(self) -> None:
        """Follow the Pod again: the operator, which knows of no stop, does not delete it."""
        asyncio.get_running_loop().call_soon(self.look)

    def give_up(self) -> None:
        """Stop the run. The start of a Pod has no time limit of its own."""
        self.stop(0)

    async def request(self, request: Request) -> Response:
        """POST the request to the Pod's port."""
        pod = self._pod()
        if pod is None or not pod.status.pod_ip:
            raise OutcomeUnknownError("its pod is gone")
        base, place = authority(pod.status.pod_ip, self._port), f"port {self._port} of its pod {pod.metadata.name}"
        post = asyncio.ensure_future(self._starter.http.post(f"http://{base}", request, place))
        self._posts.add(post)
        try:
            await asyncio.wait((post,))
            if post.cancelled():
                raise OutcomeUnknownError("its pod is gone")
            return post.result()
        finally:
            post.cancel()
            self._posts.discard(post)

    @property
    def http_server(self) -> tuple[str, str]:
        """No socket, and the base of the URLs of the server on the Pod's port."""
        pod = self._pod()
        return "", f"http://{authority(pod.status.pod_ip, self._port)}" if pod and pod.status.pod_ip else ""

    # Changes that the watch reports.

    def look(self) -> None:
        """Compare the existing Pod with the desired one, and report the result."""
        if self._over:
            return
        if self._stopping and self._starter.closing:
            self._end(ExitStatus(Reason.EXITED, "its pod runs on without the member's agent"))
            return
        desired, former = self._child.desired, self._child.started_for
        if self._stopping and desired is not None and former is not None and desired.same_run(former):
            # Its slice was out of sight, as one whose label somebody takes off. Another run follows the same Pod.
            self._end(ExitStatus(Reason.EXITED, "its pod runs on"))
            return
        if not self._starter.synced:
            return
        pod = self._pod()
        if pod is None:
            self._absent()
        elif self._stopping or pod.metadata.uid in self._starter.ended:
            pass  # the operator's deletion has not taken effect yet
        elif self._seen not in ("", pod.metadata.uid):
            self._absent()  # another Pod has taken its place
        else:
            self._seen = pod.metadata.uid
            self._present(pod)

    def _pod(self) -> Pod | None:
        """The Pod of this incarnation, or None if there is none."""
        return next((pod for pod in self._starter.pods(self.names) if self._is_mine(pod)), None)

    def _is_mine(self, pod: Pod) -> bool:
        annotations = pod.metadata.annotations
        return (annotations.get(ANNOTATION_CHILD_UID), run_of(annotations)) == (self._uid, self._run)

    def _absent(self) -> None:
        if self._stopping or self._seen or self._was_up:
            self._end(ExitStatus(Reason.EXITED, "its pod was deleted"))

    def _present(self, pod: Pod) -> None:
        status = pod.status
        if status.phase in ("Succeeded", "Failed"):
            self._starter.ended.add(pod.metadata.uid)
            self._end(_end(pod))
        elif any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions):
            if not self._up:
                self._up = True
                self._child.running(0)
        else:
            self._up = False
            self._child.blocked(*hindrance(pod))

    def _end(self, exit_status: ExitStatus) -> None:
        self._over = True
        for post in self._posts:
            post.cancel()
        self._starter.over(self, self._child.id)
        self._child.ended(exit_status)


def hindrance(pod: Pod) -> tuple[State, Reason, str]:
    """The state, reason and message of a child whose Pod has not ended and is not Ready.

    They are of the first container that fails, else of what the Pod waits for.
    """
    name = pod.metadata.name
    if (stuck := stuck_container(pod)) is not None:
        text, last = f"pod {name}, container {stuck.name}: {waits_for(stuck)}", stuck.last_state.terminated
        if last is not None:  # while it backs off, the reason of its last exit is kept
            return State.FAILED, _cause(last), f"{exit_text(stuck.name, last)}; {text}"
        return State.FAILED, Reason.BACK_OFF, text
    if pod.metadata.deletion_timestamp is not None:
        return State.STARTING, Reason.RESTARTING, f"pod {name} is being deleted; a new one follows"
    if not _is_gated(pod) and (message := unscheduled(pod)) is not None:
        return State.STARTING, Reason.PENDING, f"pod {name} has no node yet: {message}"
    return State.STARTING, Reason.STARTING, f"pod {name} is not Ready yet{_restarted(pod)}"


def _is_gated(pod: Pod) -> bool:
    """Whether the Pod waits only for its scheduling gate, which the operator is about to remove."""
    return [gate.name for gate in pod.spec.scheduling_gates] == [GATE_SOLE]


def _restarted(pod: Pod) -> str:
    for container in pod.status.container_statuses:
        if (last := container.last_state.terminated) is not None:
            return f"; before: {exit_text(container.name, last)}"
    return ""


def _end(pod: Pod) -> ExitStatus:
    """The end of a Pod whose phase is final, taken from the first container that failed."""
    if pod.status.phase == "Succeeded":
        return ExitStatus(Reason.EXITED, "completed", success=True)
    for container in statuses(pod):
        ended = container.state.terminated
        if ended is not None and ended.exit_code:
            return ExitStatus(_cause(ended), exit_text(container.name, ended), message=ended.message)
    text = pod.status.reason or "its pod failed"  # Evicted, DeadlineExceeded, …
    return ExitStatus(Reason.EXITED, text, message=pod.status.message)


def _cause(ended: Terminated) -> Reason:
    return Reason.COMMAND_NOT_FOUND if ended.reason in _CANNOT_RUN else Reason.EXITED
