"""The Pods of one hub: those of its members, and those of its pod children."""

from __future__ import annotations

from processhub.api.kubernetes import Pod

AGENT_CONTAINER = "agent"


class MemberPods(dict[str, Pod]):
    """The members' pods of one hub, by object name.

    ``ends``: by pod, its agent's ends as reported → when (monotonic seconds) that was seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, dict[str, float]] = {}

    def put(self, pod: Pod, seen: float) -> None:
        """Take a member's pod. ``seen``: since when (monotonic seconds) what it says that it did not say before."""
        name, before = pod.metadata.name, self.get(pod.metadata.name)
        known = self.ends.get(name, {}) if before and before.metadata.uid == pod.metadata.uid else {}
        self.ends[name] = {moment: known.get(moment, seen) for moment in agent_ends(pod)}
        self[name] = pod

    def drop(self, name: str) -> None:
        """A member's pod was deleted, or is of this hub no more."""
        self.pop(name, None)
        self.ends.pop(name, None)


class ChildPods(dict[str, Pod]):
    """The Pods of one hub's pod children, by object name, with the marks that they were made with.

    - ``changed``: by name, the marks of those that somebody changed.
    - ``unwatched``: the names of those that left the watch: gone, or without a label.
    - ``unidentified``: by name, Pods of some child that don't say of which: to be identified.
    - ``unconfirmed``: name → child's id of Pods that may be there, because their creation was not answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str, tuple[str, ...]] = {}
        self.unwatched: set[str] = set()
        self.unidentified: dict[str, Pod] = {}
        self.unconfirmed: dict[str, str] = {}


def agent_ends(pod: Pod) -> list[str]:
    """The times (RFC 3339, of the node's clock) at which an agent of the pod is reported to have ended.

    A container that runs after a restart began when the one before it had ended.
    """
    status = next((status for status in pod.status.container_statuses if status.name == AGENT_CONTAINER), None)
    if status is None:
        return []
    ended = [state.terminated for state in (status.state, status.last_state) if state.terminated]
    moments = [terminated.finished_at for terminated in ended if terminated.finished_at]
    if status.restart_count and status.state.running and status.state.running.started_at:
        moments.append(status.state.running.started_at)
    return moments
