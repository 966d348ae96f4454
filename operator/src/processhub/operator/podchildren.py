"""Pod children: their Pods follow the slices (PROTOCOL.md 23).

Everything is derived from objects, so that an operator may end between any two writes. Two rules keep an id from having
two Pods: its Pod has one name, and nothing is placed while a Pod of it is there (the planner sees them). A Pod is made
where the member's agent asks for it by the report ``Starting``: restart policy, back-off and limits are the agent's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from processhub.api.child import PodWorkload
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.naming import LABEL_HUB_UID, LABEL_MEMBER, child_pod_name, label_value
from processhub.api.reasons import Reason, RestartPolicy, State
from processhub.api.slice import Report, decode_workload, is_pod_workload
from processhub.cluster.client import Client
from processhub.cluster.errors import (
    AlreadyExistsError,
    ConflictError,
    ConnectionFailedError,
    ForbiddenError,
    InvalidError,
    NamespaceTerminatingError,
    NotFoundError,
)
from processhub.cluster.kinds import PODS
from processhub.core.membership import Phase
from processhub.core.plan import Unplaced
from processhub.operator.hubstate import HubState, KnownChild
from processhub.operator.members import Member
from processhub.operator.memory import HubMemory
from processhub.operator.objects.childpod import PodPlace, child_pod, marks
from processhub.operator.store import Store

FINAL = ("Succeeded", "Failed")
_AT_ONCE = 16
_A_ROUND = 200  # Pods made in one round at most: slices must not wait for all of a storm
_REFUSED_SECONDS = 10.0  # until a Pod that the API server refused is tried again
log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A pod child's place, its workload's JSON and what its member reports of this very incarnation."""

    place: PodPlace
    workload: str
    report: Report | None
    live: bool  # the member is there and its node is known


def asked_for(members: Mapping[str, Member]) -> dict[str, Asked]:
    """The pod children that shall run, by id."""
    asked: dict[str, Asked] = {}
    for member in members.values():
        for known in member.slices:
            workloads = known.present.spec.workloads
            pods = {digest for digest, text in workloads.items() if is_pod_workload(text)}
            if not pods:
                continue
            told = known.present.status.holder == member.holder
            node = member.pod.spec.node_name if member.pod else ""
            for child_id, entry in known.assignments.items():
                if entry.wait or entry.workload not in pods:
                    continue
                before = asked.get(child_id)
                if before is not None and before.place.entry.epoch > entry.epoch:
                    continue
                report = known.reports.get(child_id) if told else None
                if report is not None and (report.uid, report.epoch) != (entry.uid, entry.epoch):
                    report = None
                place = PodPlace(child_id=child_id, member=member.name, node=node, entry=entry)
                live = member.phase is Phase.LIVE and bool(node)
                asked[child_id] = Asked(place, workloads[entry.workload], report, live)
    return asked


def to_be_made(asked: Asked, pod: Pod | None) -> bool:
    """Whether a Pod is wanted now and nothing of that name is there."""
    return pod is None and asked.live and asked.report is not None and asked.report.state == State.STARTING


def to_be_deleted(asked: Asked | None, pod: Pod) -> bool:
    """Whether the Pod is not, or no longer, what the slices ask for."""
    if pod.metadata.deletion_timestamp is not None:
        return False
    if asked is None:
        return True
    entry, annotations = asked.place.entry, pod.metadata.annotations
    if any(annotations.get(name) != value for name, value in marks(asked.place.child_id, entry).items()):
        return True
    if pod.metadata.labels.get(LABEL_MEMBER) != label_value(asked.place.member):
        return True
    if given_up(asked.report):
        return pod.status.phase not in FINAL
    if entry.restart_policy == RestartPolicy.PERMANENT:
        return pod.status.phase in FINAL
    return entry.restart_policy == RestartPolicy.TRANSIENT and pod.status.phase == "Failed"


def given_up(report: Report | None) -> bool:
    """Whether its member will not start it again as it is."""
    return report is not None and (report.state == State.STOPPED or report.reason == Reason.RESTARTS_EXCEEDED)


class PodChildren:
    """Makes and deletes the Pods of one hub in one round. ``retry_in`` is set where something is to be tried again."""

    def __init__(self, client: Client, store: Store, hub: Hub, state: HubState, memory: HubMemory) -> None:
        self._client, self._store, self._hub = client, store, hub
        self._state, self._memory = state, memory
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self.retry_in: float | None = None

    async def settle_doubts(self) -> None:
        """Read the Pods whose creation was not answered: the planner must know whether they are. Raises ApiError."""
        for name in list(self._memory.doubtful_pods):
            await self._read(name)
            self._memory.doubtful_pods.discard(name)

    async def follow(self, members: Mapping[str, Member], chosen: Mapping[str, KnownChild], now: float) -> None:
        """Delete what the slices no longer ask for, make what they do. Raises ApiError."""
        asked = asked_for(members)
        refused = self._memory.refused_pods
        for child_id in refused.keys() - asked.keys():
            del refused[child_id]
        if not asked and not self._state.child_pods:
            return
        names = {self._name(child_id): child_id for child_id in asked}
        pods = dict(self._state.child_pods)
        surplus = [pod for name, pod in pods.items() if to_be_deleted(asked.get(names.get(name, "")), pod)]
        missing = [
            item
            for name, child_id in names.items()
            if to_be_made(item := asked[child_id], pods.get(name)) and not self._refused(item, now)
        ]
        if len(missing) > _A_ROUND:
            self.retry_in = 0.0
        await asyncio.gather(
            *(delete_pod(self._client, pod, self._gate) for pod in surplus),
            *(self._make(item, chosen.get(item.place.child_id), now) for item in missing[:_A_ROUND]),
        )

    def unplaced(self) -> dict[str, Unplaced]:
        """Why Pods that are wanted are not there, by the child's id."""
        return {
            child_id: Unplaced(reason, text) for child_id, (_, _, reason, text) in self._memory.refused_pods.items()
        }

    def _refused(self, item: Asked, now: float) -> bool:
        epoch, until, _, _ = self._memory.refused_pods.get(item.place.child_id, (0, 0.0, Reason.INVALID, ""))
        if epoch != item.place.entry.epoch or now >= until:
            return False
        self._again_in(until - now)
        return True

    async def _make(self, item: Asked, known: KnownChild | None, now: float) -> None:
        place = item.place
        if known is None or known.child.metadata.uid != place.entry.uid:
            return  # its Child is gone, and its entry soon
        workload = decode_workload(item.workload)
        assert isinstance(workload, PodWorkload)
        name = self._name(place.child_id)
        try:
            manifest = child_pod(self._hub, known.child, place, workload)
        except (AttributeError, TypeError) as error:  # the schema lets any object be a template
            self._refuse(place, now, Reason.INVALID, f"spec.pod.template is not a PodTemplateSpec: {error}")
            return
        async with self._gate:
            try:
                pod = await self._client.create(PODS, self._hub.metadata.namespace, manifest)
            except AlreadyExistsError:
                await self._read(name)
                if name not in self._state.child_pods:
                    text = f"pod {name} is there already and not the hub's; started when it is gone"
                    self._refuse(place, now, Reason.NAME_CONFLICT, text)
                return
            except ConnectionFailedError:
                self._memory.doubtful_pods.add(name)
                raise
            except NamespaceTerminatingError:
                raise
            except (ForbiddenError, InvalidError) as error:
                self._refuse(place, now, Reason.INVALID, f"its pod is refused: {error.message}"[:1000])
                return
        self._memory.refused_pods.pop(place.child_id, None)
        self._store.put("pods", pod)
        log.info("pod %s made on %s", name, place.node, extra={"hub": self._hub.metadata.name, "child": place.child_id})

    def _refuse(self, place: PodPlace, now: float, reason: Reason, text: str) -> None:
        self._memory.refused_pods[place.child_id] = (place.entry.epoch, now + _REFUSED_SECONDS, reason, text)
        self._again_in(_REFUSED_SECONDS)

    async def _read(self, name: str) -> None:
        try:
            pod = await self._client.get(PODS, self._hub.metadata.namespace, name)
        except NotFoundError:
            self._again_in(0.2)
            return
        if pod.metadata.labels.get(LABEL_HUB_UID) == self._hub.metadata.uid:
            self._store.put("pods", pod)

    def _name(self, child_id: str) -> str:
        return child_pod_name(self._hub.metadata.name, self._hub.metadata.uid, child_id)

    def _again_in(self, seconds: float) -> None:
        self.retry_in = seconds if self.retry_in is None else min(self.retry_in, seconds)


async def delete_pod(client: Client, pod: Pod, gate: asyncio.Semaphore) -> None:
    """Delete a Pod, this very one, with its own grace: it is gone when its node says that its processes are."""
    metadata = pod.metadata
    if metadata.deletion_timestamp is not None:
        return
    async with gate:
        try:
            await client.delete(PODS, metadata.namespace, metadata.name, uid=metadata.uid)
        except (NotFoundError, ConflictError) as error:
            log.debug("pod %s is gone already: %s", metadata.name, error.message)


async def delete_all(client: Client, pods: Mapping[str, Pod]) -> None:
    """Delete these Pods: their hub is gone, whereas their Children may stay."""
    gate = asyncio.Semaphore(_AT_ONCE)
    await asyncio.gather(*(delete_pod(client, pod, gate) for pod in list(pods.values())))
