"""Why a Pod is not Ready, by its status: the container that fails, the scheduler's message, or its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from processhub.api.kubernetes import ContainerStatus, Pod, Terminated
from processhub.api.meta import shortened

TEXT_MAX = 400  # characters of a cause
REPORT_REFUSED = "ReportRefused"  # the cause of a member that runs, and of which nothing is known
_ON_ITS_WAY = ("", "ContainerCreating", "PodInitializing")  # reasons of containers that nothing has gone wrong with
# The kubelet alternates between these two. One word for both keeps what depends on it from changing.
_ONE_WORD = {"ErrImagePull": "ImagePullBackOff"}


class Trouble(NamedTuple):
    """What keeps a Pod from being Ready.

    ``brief`` is one word of the cluster's, which stays the same while the cause does: ``ImagePullBackOff``. ``text`` is
    the cluster's sentence. Both are "" if nothing is known.
    """

    brief: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        """Whether a cause is known."""
        return bool(self.brief)


def cause(brief: str, text: str) -> Trouble:
    """A cause, of which the text is cut if it is too long."""
    return Trouble(brief, shortened(text, TEXT_MAX))


def statuses(pod: Pod) -> Iterator[ContainerStatus]:
    """The containers' statuses in the order in which the containers start."""
    yield from pod.status.init_container_statuses
    yield from pod.status.container_statuses


def stuck_container(pod: Pod) -> ContainerStatus | None:
    """The first container that waits because something went wrong."""
    return next(
        (each for each in statuses(pod) if each.state.waiting and each.state.waiting.reason not in _ON_ITS_WAY), None
    )


def exit_text(container: str, ended: Terminated) -> str:
    """The end of a container, such as ``container main: exit code 137 (OOMKilled)``."""
    why = f" ({ended.reason})" if ended.reason not in ("", "Error", "Completed") else ""
    return f"container {container}: exit code {ended.exit_code}{why}"


def waits_for(container: ContainerStatus) -> str:
    """The reason why a container waits, with the kubelet's message."""
    waiting = container.state.waiting
    if waiting is None:
        return ""
    return f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason


def unscheduled(pod: Pod) -> str | None:
    """The scheduler's message if the Pod has no node, else None."""
    conditions = (each for each in pod.status.conditions if each.type == "PodScheduled" and each.status == "False")
    return next((each.message for each in conditions), None)


def trouble_of(pod: Pod, recent: str = "") -> Trouble:
    """What the Pod's status says of why it is not Ready. Its Events may say more, if this says nothing.

    A container that was started at ``recent`` (RFC 3339) or later, after a crash, still counts as crashing.
    """
    status = pod.status
    if status.phase in ("Failed", "Succeeded"):
        return cause(status.reason or status.phase, f"its pod has ended: {status.message or status.reason}")
    if (stuck := stuck_container(pod)) is not None:
        reason = stuck.state.waiting.reason if stuck.state.waiting else ""
        last = stuck.last_state.terminated
        text = f"container {stuck.name}: {waits_for(stuck)}"
        if last is not None:
            text = f"{_ended(stuck.name, last)}; {waits_for(stuck)}"
        return cause(_ONE_WORD.get(reason, reason), text)
    if pod.metadata.deletion_timestamp is None and (message := unscheduled(pod)) is not None:
        return cause("Unschedulable", f"its pod has no node yet: {message}")
    for container in statuses(pod):
        if (ended := container.state.terminated) is not None and ended.exit_code:
            return cause("CrashLoopBackOff", _ended(container.name, ended))
        running, last = container.state.running, container.last_state.terminated
        again = running is not None and not container.ready and (running.started_at or "") >= recent
        if again and last is not None and last.exit_code:
            return cause("CrashLoopBackOff", f"{_ended(container.name, last)}; it runs again and is not ready yet")
    return Trouble()


def _ended(container: str, ended: Terminated) -> str:
    text = exit_text(container, ended)
    return f"{text}: {ended.message.strip()}" if ended.message.strip() else text


def brief_of(troubles: Mapping[str, Trouble]) -> str:
    """The first member of which a cause is known, with it: ``shop-0: ImagePullBackOff``; "" if there is none."""
    return next((f"{name}: {trouble.brief}" for name, trouble in troubles.items() if trouble), "")
