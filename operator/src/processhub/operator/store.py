"""The informers of the operator, filed by hub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease, Node, Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_CHILD, LABEL_HUB, LABEL_HUB_UID, child_pod_name
from processhub.api.slice import RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILDREN, HUBS, LEASES, NODES, PODS, SLICES
from processhub.operator.hubstate import HubKey, HubState

# Longer than the leader takes between two renewals of its own Lease, short of what a member's Lease of 6 s can bear.
_SILENCE_SECONDS = 3.5


class Store:
    """Everything that was seen, by hub; ``wake(key)`` is called for each change that may matter to a hub."""

    def __init__(self, client: Client, namespaces: tuple[str, ...], wake: Callable[[HubKey], None]) -> None:
        self._client, self._namespaces, self._wake = client, namespaces, wake
        self.hubs: dict[HubKey, Hub] = {}
        self.broken_hubs: dict[HubKey, tuple[ObjectMeta, str]] = {}
        self.states: dict[HubKey, HubState] = {}
        self.informers: list[Informer[Any]] = []
        self._answered_at = 0.0  # when the API server last took a write of ours
        self._tasks: list[asyncio.Task[None]] = []
        self.slices: list[Informer[RegistrySlice]] = []
        self.children: list[Informer[Child]] = []
        self.leases: list[Informer[Lease]] = []
        for namespace in namespaces or (None,):
            self._add(Informer(client, HUBS, self._hub, namespace=namespace, on_broken=self._broken_hub))
            self.children.append(self._add(Informer(client, CHILDREN, self._child, namespace=namespace)))
            self.slices.append(self._add(Informer(client, SLICES, self._slice, namespace=namespace)))
            self._add(Informer(client, PODS, self._pod, namespace=namespace, labels=LABEL_HUB))
            leases = Informer(
                client, LEASES, self._lease, namespace=namespace, labels=LABEL_HUB, on_reconnect=self._lease_watch_back
            )
            self.leases.append(self._add(leases))
        self.nodes = self._add(Informer(client, NODES, self._node))

    def state(self, key: HubKey) -> HubState:
        """What is known of the hub; made where nothing was."""
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = HubState(key)
        return state

    def forget(self, key: HubKey) -> None:
        """Drop the state of a hub of which nothing is left."""
        self.states.pop(key, None)

    def child(self, key: tuple[str, str]) -> Child | None:
        """The Child of this namespace and object name."""
        return next((child for informer in self.children if (child := informer.items.get(key))), None)

    def start(self) -> None:
        """Begin to list and watch."""
        self._tasks = [asyncio.create_task(informer.run()) for informer in self.informers]

    async def synced(self) -> None:
        """Wait until all informers have listed once; the planner must not see half of the truth (rule 4)."""
        for informer in self.informers:
            await informer.synced.wait()

    async def read_leases(self) -> None:
        """Take in all member Leases by a consistent read, whatever their watch has told so far. Raises ApiError."""
        for namespace in self._namespaces or (None,):
            items, _ = await self._client.list(LEASES, namespace, labels=LABEL_HUB)
            for item in items:
                if isinstance(item, Lease):
                    self.put("leases", item)

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self) -> asyncio.Task[None] | None:
        """An informer that ended though it never should."""
        return next((task for task in self._tasks if task.done()), None)

    def answered(self, now: float) -> None:
        """The API server took a write; when it had not for a while, nor could the members renew (rule 11)."""
        if now - self._answered_at > _SILENCE_SECONDS:
            self._lease_watch_back()
        self._answered_at = now

    def leases_observed(self, now: float) -> bool:
        """Whether members could renew and it would be seen: else nothing follows from silence (rule 11)."""
        return now - self._answered_at <= _SILENCE_SECONDS and all(informer.connected for informer in self.leases)

    def informer_of(self, kind: str, namespace: str) -> Iterator[Informer[Any]]:
        """The informers of a kind's plural that cover the namespace."""
        return (informer for informer in self.informers if informer.covers(kind, namespace))

    def put(self, kind: str, item: Any) -> None:
        """Take an object that a write returned."""
        for informer in self.informer_of(kind, item.metadata.namespace):
            informer.put(item)

    def _add(self, informer: Informer[Any]) -> Informer[Any]:
        self.informers.append(informer)
        return informer

    def _hub(self, old: Hub | None, new: Hub | None) -> None:
        hub = new or old
        assert hub is not None
        key = hub.metadata.key
        self.broken_hubs.pop(key, None)
        if new is None:
            self.hubs.pop(key, None)
        else:
            self.hubs[key] = new
            if old is not None and old.metadata.generation == new.metadata.generation and _same_metadata(old, new):
                return  # our own status write
        self.state(key)
        self._wake(key)

    def _broken_hub(self, metadata: ObjectMeta, error: str) -> None:
        self.broken_hubs[metadata.key] = (metadata, error)
        self.state(metadata.key)
        self._wake(metadata.key)

    def _child(self, old: Child | None, new: Child | None) -> None:
        child = new or old
        assert child is not None
        key = (child.metadata.namespace, child.spec.hub)
        state = self.state(key)
        if new is None:
            state.drop_child(child)
        else:
            state.put_child(new)
            if old is not None and old.metadata.generation == new.metadata.generation:
                return  # our own status write
        self._wake(key)

    def _slice(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        item = new or old
        assert item is not None
        key = (item.metadata.namespace, item.spec.hub)
        if new is None:
            self.state(key).drop_slice(item)
        else:
            self.state(key).put_slice(new)
        self._wake(key)

    def _pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        key = (pod.metadata.namespace, pod.metadata.labels[LABEL_HUB])
        state = self.state(key)
        pods = state.pods
        if LABEL_CHILD in pod.metadata.labels:
            if not _is_child_pod(pod):
                return  # somebody's copy: not ours to delete
            pods = state.child_pods
        if new is None:
            pods.pop(pod.metadata.name, None)
        else:
            pods[pod.metadata.name] = new
            if pods is state.child_pods and old is not None and _same_stage(old, new):
                return  # how its containers fare is its member's to report
        self._wake(key)

    def _lease(self, old: Lease | None, new: Lease | None) -> None:
        lease = new or old
        assert lease is not None
        key = (lease.metadata.namespace, lease.metadata.labels[LABEL_HUB])
        state = self.state(key)
        if new is None:
            state.leases.pop(lease.metadata.name, None)
            self._wake(key)
            return
        state.put_lease(new, asyncio.get_running_loop().time())
        if old is None or old.spec.holder_identity != new.spec.holder_identity:
            self._wake(key)  # a renewal alone changes nothing that a reconcile decides

    def _node(self, old: Node | None, new: Node | None) -> None:
        if old is not None and new is not None and old.spec == new.spec and old.status == new.status:
            return  # labels or a heartbeat
        for key in self.hubs:
            self._wake(key)

    def _lease_watch_back(self) -> None:
        now = asyncio.get_running_loop().time()
        for key, state in self.states.items():
            state.restart_lease_clocks(now)
            self._wake(key)


def _is_child_pod(pod: Pod) -> bool:
    """Whether the Pod has the name that the operator gives to what its labels and annotations say it is."""
    metadata = pod.metadata
    child_id = metadata.annotations.get(ANNOTATION_CHILD_ID, "")
    return metadata.name == child_pod_name(metadata.labels[LABEL_HUB], metadata.labels.get(LABEL_HUB_UID, ""), child_id)


def _same_stage(old: Pod, new: Pod) -> bool:
    return (
        old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.status.phase == new.status.phase
        and old.spec.node_name == new.spec.node_name
    )


def _same_metadata(old: Hub, new: Hub) -> bool:
    return (
        old.metadata.annotations == new.metadata.annotations
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.metadata.uid == new.metadata.uid
    )
