"""The Pods of one hub: those of members, and those of pod children."""

from __future__ import annotations

from collections.abc import Iterable

from processhub.api.hub import AGENT_PORT, Hub
from processhub.api.kubernetes import AGENT_CONTAINER, Pod
from processhub.api.naming import LABEL_HUB_UID, member_ordinal


class MemberPods(dict[str, Pod]):
    """The members' pods of one hub, by object name.

    ``ends``: pod's name → the reported ends of its agent → when (monotonic seconds) each was seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, dict[str, float]] = {}

    def put(self, pod: Pod, seen: float) -> None:
        """Take a member's pod. ``seen``: the time (monotonic seconds) for the ends that it did not have before."""
        name, before = pod.metadata.name, self.get(pod.metadata.name)
        known = self.ends.get(name, {}) if before and before.metadata.uid == pod.metadata.uid else {}
        self.ends[name] = {moment: known.get(moment, seen) for moment in agent_ends(pod)}
        self[name] = pod

    def drop(self, name: str) -> None:
        """Forget a member's pod that was deleted, or is no longer of this hub."""
        self.pop(name, None)
        self.ends.pop(name, None)

    def by_member(self, hub: Hub) -> dict[str, Pod]:
        """The pod of each member of this Hub that has one. A copied pod never counts."""
        own = [pod for pod in self.values() if pod.metadata.labels.get(LABEL_HUB_UID) == hub.metadata.uid]
        if hub.spec.members.mode == "PerNode":
            return _by_node(own)
        names = ((pod.metadata.name, pod) for pod in own)
        return {name: pod for name, pod in names if member_ordinal(hub.metadata.name, name) is not None}


class ChildPods(dict[str, Pod]):
    """The Pods of one hub's pod children, by object name, with the marks that they were made with.

    - ``changed``: by name, the marks of those that somebody changed.
    - ``unwatched``: the names of those that left the watch. They are gone, or have lost a label.
    - ``unidentified``: by name, Pods of children without the marks that say of which.
    - ``unconfirmed``: name → child's id of Pods that may exist, because their creation was not answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str, tuple[str, ...]] = {}
        self.unwatched: set[str] = set()
        self.unidentified: dict[str, Pod] = {}
        self.unconfirmed: dict[str, str] = {}


def _by_node(pods: Iterable[Pod]) -> dict[str, Pod]:
    """The member's pod of each node. While a pod is replaced, this is the new one."""
    by_node: dict[str, Pod] = {}

    def last(pod: Pod) -> tuple[bool, bool]:
        return bool(pod.metadata.owner_references), pod.metadata.deletion_timestamp is None

    for pod in sorted(pods, key=last):
        if pod.spec.node_name:
            by_node[pod.spec.node_name] = pod
    return by_node


def agent_ends(pod: Pod) -> list[str]:
    """The reported ends of the pod's agent: times (RFC 3339) of the node's clock.

    A container that was restarted began after the end of the one before it.
    """
    status = next((status for status in pod.status.container_statuses if status.name == AGENT_CONTAINER), None)
    if status is None:
        return []
    ended = [state.terminated for state in (status.state, status.last_state) if state.terminated]
    moments = [terminated.finished_at for terminated in ended if terminated.finished_at]
    if status.restart_count and status.state.running and status.state.running.started_at:
        moments.append(status.state.running.started_at)
    return moments


def agent_port(pod: Pod) -> int:
    """The port of the pod's agent. While members.port is rolled out, it differs between members."""
    ports = (port.container_port for container in pod.spec.containers for port in container.ports)
    return next(ports, AGENT_PORT)
