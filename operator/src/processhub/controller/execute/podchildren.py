"""Pod children: their Pods follow the slices (docs/protocol.md, rule 23).

Everything is derived from objects, so the operator may end between any two writes. A Pod is created when the member's
agent asks for it by the report ``Starting``. Restart policy, back-off and limits are the agent's work.

In a hub with one copy of each child, two rules keep an id from having two Pods: its Pod has one name, and the planner,
which sees the Pods, places nothing while a Pod of the id exists. In a hub with copies, each copy has a Pod of its own.
With standby copies, each Pod begins as passive, and becomes active by its annotations once it exists. While a Pod with
the active role exists, no other gets it.

A creation without an answer may take effect at any time: under a later leader too, and when the hub keeps fewer copies
or the child is no pod child any more. So a Pod is created with a scheduling gate, with which it gets no node. The gate
is removed once the Pod exists, is the incarnation that the slices ask for, and has no rival. A Pod that comes too late
is deleted with its gate, so that nothing of it has run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from processhub.api.child import Child, PodWorkload
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.naming import (
    ANNOTATION_CHILD_ID,
    ANNOTATION_CHILD_UID,
    GATE_SOLE,
    LABEL_HUB,
    LABEL_HUB_UID,
    LABEL_MEMBER,
    child_pod_name,
)
from processhub.api.reasons import EventReason, Reason
from processhub.cluster.errors import (
    AlreadyExistsError,
    ConflictError,
    ConnectionFailedError,
    ForbiddenError,
    InvalidError,
    NamespaceTerminatingError,
    NotFoundError,
    UnavailableError,
)
from processhub.cluster.kinds import PODS
from processhub.controller.concurrency import gather_all
from processhub.controller.execute.askedpods import (
    Asked,
    Key,
    asked_for,
    is_run_of,
    may_run,
    new_marks,
    to_be_deleted,
    to_be_made,
    to_be_ungated,
)
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.execute.podends import LOOK_AGAIN_SECONDS, delete_pod, read_unwatched_pods
from processhub.controller.objects.childpod import child_pod, name_and_node
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.controller.store.podmarks import hub_uids, identified, marks_to_put_back
from processhub.core.model.plan import Unplaced
from processhub.core.planning.endproofs import pod_there
from processhub.registry.workloads import decode_workload, is_pod_workload

_AT_ONCE = 16
_A_ROUND = 200  # Pods created in one round at most. Slices must not wait for thousands.
_REFUSED_SECONDS = 10.0  # Until a Pod is tried again that the API server refused.
_CONFIRM_SECONDS = 2.0  # Between two tries to read a Pod that may exist, at most.
_CHANGED_SECONDS = 0.2  # Until a Pod is tried again that has changed since it was seen.
_STRICT = "strict decoding error: "  # In the API server's message about fields that it does not know.
log = logging.getLogger(__name__)
Owner = Callable[[str, str], Child | ChildSet | Hub | None]  # By id and uid.


class PodChildren:
    """Creates, updates and deletes the Pods of one hub in one round."""

    def __init__(self, round: Round, memory: ExecuteMemory) -> None:
        self._round, self._memory = round, memory
        self._client, self._store, self._hub, self._state = round.client, round.store, round.hub, round.state
        self._copies = round.hub.spec.keeps_copies
        self._hub_labels = (round.hub.metadata.name, round.hub.metadata.uid)
        # By id, where another Pod is in the way, and where the Pod can't be marked as the child's.
        self._blocked: dict[str, Unplaced] = {}
        self._unmarked: dict[str, Unplaced] = {}
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self.changed: list[tuple[Pod, str]] = []  # Pods whose marks somebody changed, each with a sentence.

    async def confirm_pods(self) -> None:
        """Read the Pods that may or may not exist, before the planner sees them.

        These are Pods whose creation was not answered, and Pods that have left the watch. A new leader also reads those
        that the slices ask for and no watch has shown. If a Pod can't be read, the planner leaves its child alone
        (``ChildPods.unconfirmed``), and a Pod that existed counts as existing.
        """
        if not self._memory.looked_for_pods:
            self._state.child_pods.unconfirmed |= self._not_seen()
            self._memory.looked_for_pods = True
        await gather_all(
            *(
                self._round.steps.take(
                    f"pod {name} can't be read", partial(self._confirm, name), longest=_CONFIRM_SECONDS
                )
                for name in list(self._state.child_pods.unconfirmed)
            )
        )
        if self._state.child_pods.unidentified:
            uids = hub_uids(self._hub.metadata.uid, self._state)
            while self._state.child_pods.unidentified:
                _, pod = self._state.child_pods.unidentified.popitem()
                self._identify(pod, uids)
        await self._round.steps.take(
            "pods that the watch no longer reports can't be read",
            lambda: read_unwatched_pods(self._client, self._store, self._state, self._limit),
            longest=_CONFIRM_SECONDS,
        )
        if self._state.child_pods.unwatched:
            self._round.again_in(LOOK_AGAIN_SECONDS)

    def _not_seen(self) -> dict[str, str]:
        """Pods that the slices ask for and no watch has shown (name → child's id). They may exist without a label."""
        found: dict[str, str] = {}
        for known in self._state.slices.values():
            spec = known.present.spec
            pods = {digest for digest, text in spec.workloads.items() if is_pod_workload(text)}
            asked = [child_id for child_id, entry in known.assignments.items() if entry.workload in pods]
            member = spec.member if self._copies else ""
            found.update((child_pod_name(*self._hub_labels, child_id, member), child_id) for child_id in asked)
        return {name: child_id for name, child_id in found.items() if name not in self._state.child_pods}

    async def _confirm(self, name: str) -> None:
        async with self._limit:
            await self._read(name)
        self._state.child_pods.unconfirmed.pop(name, None)

    def _identify(self, pod: Pod, uids: Collection[str]) -> bool:
        """File a Pod without marks if its name proves of which child it is; returns whether it does."""
        known = identified(pod, self._hub.metadata.name, uids)
        if known is not None:
            self._store.child_pod(self._hub.metadata.key, pod, known)
        return known is not None

    async def follow(self, members: Mapping[str, Member], owner: Owner, *, partitioned: bool = False) -> None:
        """Delete the Pods that the slices do not ask for, create those that they do. Each Pod is a step of its own.

        A ``partitioned`` hub runs nothing: its entries stay, and its Pods are deleted until it has its quorum again.
        """
        now = self._round.now()
        asked = {} if partitioned else asked_for(members, copies=self._copies)
        refused = self._memory.refused_pods
        for key in refused.keys() - asked.keys():
            del refused[key]
        if not asked and not self._state.child_pods:
            return
        pods = [(asked.get(_key_of(pod)), pod) for pod in self._state.child_pods.values()]
        mended = [self._state.child_pods[name] for name in self._state.child_pods.changed]
        there = {self._rival(*_key_of(pod)): pod for _, pod in pods}
        surplus, news = self._surplus_and_news(pods)
        missing = [
            item
            for item in asked.values()
            if to_be_made(item, there.get(self._rival(*item.key)))
            and not self._refused(item, now)
            and not self._round.steps.waits(_cant_make(item))
        ]
        for item in asked.values():
            rival = there.get(self._rival(*item.key))
            if rival is not None and not is_run_of(rival, item.place):
                self._blocked[item.place.child_id] = pod_there(item.place.child_id, name_and_node(rival))
        if len(missing) > _A_ROUND:
            self._round.again_in(0.0)
        # All of them are awaited: none may continue beside the next round.
        await gather_all(
            *(
                self._take(pod, "deleted", owner, partial(delete_pod, self._client, pod, self._limit))
                for pod in surplus
            ),
            *(self._take(pod, "given its marks back", owner, partial(self._mend, pod)) for pod in mended),
            *(
                self._take(pod, "given its role and epoch", owner, partial(self._update, item, pod, now, ungate=ungate))
                for item, pod, ungate in news
            ),
            *(
                self._make_one(item, owner(item.place.child_id, item.place.entry.uid), now)
                for item in missing[:_A_ROUND]
            ),
        )

    def _surplus_and_news(
        self, pods: Sequence[tuple[Asked | None, Pod]]
    ) -> tuple[list[Pod], list[tuple[Asked, Pod, bool]]]:
        """The Pods to delete, and those to update, each with what asks for it and whether its gate is to be removed."""
        rivals = Counter(self._rival(*_key_of(pod)) for _, pod in pods)
        free = {self._rival(*item.key) for item, pod in pods if item is not None and may_run(item, pod)}
        surplus: list[Pod] = []
        news: list[tuple[Asked, Pod, bool]] = []
        for item, pod in pods:
            if to_be_deleted(item, pod):
                surplus.append(pod)
                continue
            if item is None:
                continue  # It is being deleted.
            place = self._rival(*item.key)
            gated, sole = to_be_ungated(item, pod), rivals[place] == 1
            if gated and not sole and (place in free or pod.metadata.name != self._name_of(item)):
                surplus.append(pod)  # It came late, and nothing of it has run.
            elif (gated and sole) or new_marks(item, pod):
                news.append((item, pod, gated and sole))
        return surplus, news

    async def _take(self, pod: Pod, what: str, owner: Owner, work: Callable[[], Awaitable[None]]) -> None:
        annotations = pod.metadata.annotations
        about = owner(annotations.get(ANNOTATION_CHILD_ID, ""), annotations.get(ANNOTATION_CHILD_UID, ""))
        await self._round.steps.take(f"pod {pod.metadata.name} can't be {what}", work, about=about)

    async def _make_one(self, item: Asked, owner: Child | ChildSet | Hub | None, now: float) -> None:
        await self._round.steps.take(_cant_make(item), lambda: self._make(item, owner, now), about=owner)

    def unplaced(self) -> dict[str, Unplaced]:
        """Why wanted Pods do not exist, by the child's id."""
        found = dict(self._blocked)
        for (child_id, _), (epoch, _, reason, text) in self._memory.refused_pods.items():
            if self._asks_for(child_id, epoch):
                found[child_id] = Unplaced(reason, text)
        return found | self._unmarked

    def _asks_for(self, child_id: str, epoch: int) -> bool:
        """Whether the slices, with what this round wrote, ask for a Pod of this incarnation.

        What was said about the Pod of an earlier template says nothing about that of an edited one.
        """
        entries = (known.assignments.get(child_id) for known in self._state.slices.values())
        return any(entry is not None and entry.epoch == epoch and not entry.asleep for entry in entries)

    def _refused(self, item: Asked, now: float) -> bool:
        epoch, until, _, _ = self._memory.refused_pods.get(item.key, (0, 0.0, Reason.INVALID, ""))
        if epoch != item.place.entry.epoch or now >= until:
            return False
        self._round.again_in(until - now)
        return True

    async def _make(self, item: Asked, owner: Child | ChildSet | Hub | None, now: float) -> None:
        place = item.place
        if owner is None:
            return  # The object that asked for it is gone, and its entry will be soon.
        workload = decode_workload(item.workload)
        assert isinstance(workload, PodWorkload)
        try:
            manifest = child_pod(self._hub, owner, place, workload, tls=self._memory.tls_required)
        except (AttributeError, TypeError) as error:  # The schema allows any object as a template.
            self._refuse(item, now, Reason.INVALID, f"spec.pod.template is not a PodTemplateSpec: {error}")
            return
        name = manifest["metadata"]["name"]
        async with self._limit:
            try:
                pod = await self._create(manifest, owner)
            except AlreadyExistsError:
                await self._read(name)
                if name not in self._state.child_pods:
                    text = f"pod {name} is there already and not the hub's; started when it is gone"
                    self._refuse(item, now, Reason.NAME_CONFLICT, text)
                return
            except (ConnectionFailedError, UnavailableError):
                self._state.child_pods.unconfirmed[name] = place.child_id
                raise
            except NamespaceTerminatingError:
                raise
            except (ForbiddenError, InvalidError) as error:
                self._refuse(item, now, Reason.INVALID, f"its pod is refused: {error.message}"[:1000])
                return
        self._memory.refused_pods.pop(item.key, None)
        self._store.put("pods", pod)
        log.info("pod %s made on %s", name, place.node, extra={"hub": self._hub.metadata.name, "child": place.child_id})
        await self._update(item, pod, now, ungate=True)

    async def _create(self, manifest: dict[str, Any], owner: Child | ChildSet | Hub) -> Pod:
        """Create the Pod. Fields that the API server does not know are named in an Event, and have no effect.

        They are no reason to refuse the Pod: the API server of another version may know them.
        """
        namespace = self._hub.metadata.namespace
        try:
            return await self._client.create(PODS, namespace, manifest, strict=True)
        except InvalidError as error:
            _, found, fields = error.message.partition(_STRICT)
            if not found:
                raise
        pod = await self._client.create(PODS, namespace, manifest)
        text = f"the pod template has fields that the API server does not know, and that have no effect: {fields}"
        self._round.events.about_child(self._hub, owner, EventReason.FIELDS_IGNORED, text, warning=True)
        return pod

    async def _update(self, item: Asked, pod: Pod, now: float, *, ungate: bool) -> None:
        """Write role and epoch into the Pod's annotations. With ``ungate`` its gate is removed, so that it may start.

        The Pod must not have changed since it was seen. A leader that was suspended before the write could change a Pod
        that another leader has made passive meanwhile, or is about to delete.
        """
        if self._refused(item, now):
            return
        metadata = pod.metadata
        patch: dict[str, Any] = {"metadata": _as_seen(pod)}
        if changed := new_marks(item, pod):
            patch["metadata"]["annotations"] = changed
        if ungate:
            others = [{"name": gate.name} for gate in pod.spec.scheduling_gates if gate.name != GATE_SOLE]
            patch["spec"] = {"schedulingGates": others or None}
        async with self._limit:
            try:
                self._store.put("pods", await self._client.patch(PODS, metadata.namespace, metadata.name, patch))
            except (NotFoundError, ConflictError) as error:
                log.debug("pod %s is gone or was changed: %s", metadata.name, error.message)
                self._round.again_in(_CHANGED_SECONDS)
            except (ForbiddenError, InvalidError) as error:
                what = "started" if ungate else "given its role and epoch"
                text = f"its pod {metadata.name} could not be {what}: {error.message}"[:1000]
                self._refuse(item, now, Reason.INVALID, text)
            else:
                self._memory.refused_pods.pop(item.key, None)

    async def _mend(self, pod: Pod) -> None:
        """Put the Pod's marks back. Its member and the next leader know it by nothing else."""
        metadata = pod.metadata
        names = ", ".join(self._state.child_pods.changed[metadata.name])
        async with self._limit:
            try:
                patch = {"metadata": {**_as_seen(pod), **marks_to_put_back(pod)}}
                patched = await self._client.patch(PODS, metadata.namespace, metadata.name, patch)
            except (NotFoundError, ConflictError) as error:
                log.debug("pod %s is gone or was changed: %s", metadata.name, error.message)
                self._round.again_in(_CHANGED_SECONDS)
                return
            except (ForbiddenError, InvalidError) as error:
                text = f"{names} of pod {metadata.name} can't be put back: {error.message}"
                self.changed.append((pod, text))
                until = f"{text}; the child stays as it is until they are, or the pod is gone"
                self._unmarked[metadata.annotations.get(ANNOTATION_CHILD_ID, "")] = Unplaced(
                    Reason.INVALID, until[:1000]
                )
                self._round.again_in(_REFUSED_SECONDS)
                return
        self._store.put("pods", patched)
        self.changed.append((pod, f"somebody changed {names} of pod {metadata.name}, by which it is known: put back"))

    def _refuse(self, item: Asked, now: float, reason: Reason, text: str) -> None:
        self._memory.refused_pods[item.key] = (item.place.entry.epoch, now + _REFUSED_SECONDS, reason, text)
        self._round.again_in(_REFUSED_SECONDS)

    async def _read(self, name: str) -> None:
        try:
            pod = await self._client.get(PODS, self._hub.metadata.namespace, name)
        except NotFoundError:
            self._round.again_in(0.2)
            return
        if (pod.metadata.labels.get(LABEL_HUB), pod.metadata.labels.get(LABEL_HUB_UID)) == self._hub_labels:
            self._store.put("pods", pod)
        elif self._identify(pod, hub_uids(self._hub.metadata.uid, self._state)):
            self._state.child_pods.unwatched.add(name)  # The watch does not show it.
            self._round.again_in(0.0)

    def _name_of(self, item: Asked) -> str:
        member = item.place.member if self._copies else ""
        return child_pod_name(self._hub.metadata.name, self._hub.metadata.uid, item.place.child_id, member)

    def _rival(self, child_id: str, member: str) -> Key:
        """The key that two Pods must not share: the child's id, and in a hub with copies the member."""
        return (child_id, member) if self._copies else (child_id, "")


def _cant_make(item: Asked) -> str:
    return f"the pod of child {item.place.child_id!r} on {item.place.member} can't be made"


def _key_of(pod: Pod) -> Key:
    return pod.metadata.annotations.get(ANNOTATION_CHILD_ID, ""), pod.metadata.labels.get(LABEL_MEMBER, "")


def _as_seen(pod: Pod) -> dict[str, Any]:
    """The metadata of a patch with which the API server refuses it if the Pod has changed."""
    return {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version}
