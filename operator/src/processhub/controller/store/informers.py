"""The informers of the operator. They file all objects by hub."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import ChainMap
from collections.abc import Callable, Container, Iterator, KeysView
from functools import partial
from typing import Any

import msgspec

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.kubernetes import KubernetesNode, Lease, Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_LOAD, LABEL_HUB
from processhub.api.slice import RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import ApiError
from processhub.cluster.informer import Informer
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, HUBS, LEASES, NODES, PODS, SLICES
from processhub.cluster.tasks import cancel_all
from processhub.controller.errors import check_not_lost
from processhub.controller.store.children import marks_changed, same_order
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.controller.store.ownedwatch import OwnedWatch
from processhub.controller.store.podmarks import (
    changed_marks,
    claims_to_be_child_pod,
    is_child_pod,
    is_member_pod,
    same_stage,
    with_marks,
)
from processhub.controller.store.slicechanges import children_only_restart, only_comes_on_record, only_hands_over
from processhub.controller.store.unread import UnreadObjects, hub_with

# Longer than the leader takes between two renewals of its own Lease, short of what a member's Lease of 6 s can bear.
_SILENCE_SECONDS = 3.5
_AGAIN_SECONDS = 0.5  # After a list that failed.
log = logging.getLogger(__name__)


class Store:
    """The objects of all hubs. ``wake(key)`` is called for each change that a round of the hub may need.

    ``wake_patiently(key)``, where nothing waits for it. ``rewound()``, when etcd was set back to an earlier time.
    """

    def __init__(
        self,
        client: Client,
        namespaces: tuple[str, ...],
        wake: Callable[[HubKey], None],
        rewound: Callable[[], None] = lambda: None,
        *,
        wake_patiently: Callable[[HubKey], None] | None = None,
        tls: bool = False,
    ) -> None:
        self._queue_round, self._queue_patiently = wake, wake_patiently or wake
        self.hubs: dict[HubKey, Hub] = {}
        self.broken_hubs: dict[HubKey, tuple[ObjectMeta, str]] = {}
        self.unread = UnreadObjects()
        self.states: dict[HubKey, HubState] = {}
        self.informers: list[Informer[Any]] = []
        self._hubs_of_pods: dict[tuple[str, str], HubKey] = {}  # Of pod children, by namespace and name of the Pod.
        self._answered_at = 0.0  # When the latest write was sent that the API server took.
        self._tasks: list[asyncio.Task[None]] = []
        self.slices: list[Informer[RegistrySlice]] = []
        self.children: list[Informer[Child]] = []
        self.leases: list[Informer[Lease]] = []
        for namespace in namespaces or (None,):
            made = partial(Informer[Any], client, namespace=namespace, on_rewound=rewound)
            lease_watch_back = partial(self._lease_watch_back, namespace)
            self._add(made(HUBS, self._hub, on_broken=self._broken_hub))
            self.children.append(self._add(made(CHILDREN, self._child, on_broken=self._broken_child)))
            self._add(made(CHILD_SETS, self._child_set, on_broken=self._broken_set))
            self.slices.append(self._add(made(SLICES, self._slice, keeps_dropped=False)))
            self._add(made(PODS, self._pod, labels=LABEL_HUB))
            self.leases.append(self._add(made(LEASES, self._lease, labels=LABEL_HUB, on_reconnect=lease_watch_back)))
        self.nodes = self._add(Informer(client, NODES, self._node, on_rewound=rewound))
        # Planning does not wait for these: an operator may be newer than its ClusterRole.
        self.owned = OwnedWatch(client, namespaces, self._wake_known, tls=tls)

    def state(self, key: HubKey) -> HubState:
        """The state of a hub. It is created if there is none."""
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = HubState(key)
        return state

    def forget(self, key: HubKey) -> None:
        """Drop the state of a hub without any objects."""
        self.states.pop(key, None)

    def child(self, key: tuple[str, str]) -> Child | None:
        """The Child with this namespace and object name, or None."""
        if (unread := self.unread.children.get(key)) is not None:
            return unread
        return self._read_child(key)

    def _read_child(self, key: tuple[str, str]) -> Child | None:
        return next((child for informer in self.children if (child := informer.items.get(key))), None)

    def start(self) -> None:
        """Start to list and watch."""
        informers = (*self.informers, *self.owned.informers)
        self._tasks = [asyncio.create_task(informer.run()) for informer in informers]

    async def synced(self, unserved: Container[str | None] = ()) -> None:
        """Wait until all informers have listed once, but those of the ``unserved`` namespaces.

        The planner must not see only some of the objects of a hub (docs/protocol.md, rule 4).
        """
        for informer in self.informers:
            if informer.source.namespace not in unserved:
                await informer.synced.wait()

    async def read_leases(self, *namespaces: str | None) -> None:
        """Read the member Leases consistently, whatever their watch has shown. Retries. Raises DeposedError."""
        for informer in [it for namespace in namespaces for it in self.informer_of(LEASES.plural, namespace)]:
            while True:
                try:
                    items, _ = await informer.read()
                    break
                except ApiError as error:
                    check_not_lost(informer.source.namespace, error)
                    log.warning("member Leases not read, again: %s", error.message)
                    await asyncio.sleep(_AGAIN_SECONDS)
            for item in items:
                if isinstance(item, Lease):
                    self.put("leases", item)

    async def close(self) -> None:
        """Stop watching."""
        await cancel_all(self._tasks)

    def failed(self) -> asyncio.Task[None] | None:
        """The task of an informer that has ended, which none should, or None."""
        return next((task for task in self._tasks if task.done()), None)

    def answered(self, sent: float) -> None:
        """Note that the API server took a write, ``sent`` at this time of the loop. Call it for each write in order.

        After a time without such writes the members could not renew either, so the clocks of their Leases are
        restarted (docs/protocol.md, rule 11). If the call is late, because this loop or the answer took long, the
        members' writes of that time are not seen yet, and the clocks are restarted too. A loop that is busy for a
        shorter time changes nothing, because the times are those at which the writes were sent.
        """
        late = asyncio.get_running_loop().time() - sent
        if max(sent - self._answered_at, late) > _SILENCE_SECONDS:
            self._lease_watch_back()
        self._answered_at = sent

    def leases_observed(self, namespace: str, now: float) -> bool:
        """Whether renewals are possible and seen. Else silence says nothing (docs/protocol.md, rule 11)."""
        watches = self.informer_of(LEASES.plural, namespace)
        return now - self._answered_at <= _SILENCE_SECONDS and all(informer.connected for informer in watches)

    def informer_of(self, kind: str, namespace: str | None) -> Iterator[Informer[Any]]:
        """The informers of a kind, by its plural, that cover the namespace."""
        return (informer for informer in self.informers if informer.covers(kind, namespace))

    def put(self, kind: str, item: Any) -> None:
        """Take an object that a write returned."""
        for informer in self.informer_of(kind, item.metadata.namespace):
            informer.put(item)

    def put_unread(self, item: Hub | Child | ChildSet) -> None:
        """Take the metadata and status of an object that can't be read, after its status was written."""
        key, metadata = item.metadata.key, item.metadata
        if isinstance(item, Hub):
            if key in self.broken_hubs and self.hubs[key].metadata.uid == metadata.uid:
                self.hubs[key] = item
            return
        state = self.state((metadata.namespace, item.spec.hub))
        if isinstance(item, Child) and key in self.unread.children:
            self.unread.children[key] = item
            state.children[metadata.name] = msgspec.structs.replace(state.children[metadata.name], child=item)
        elif isinstance(item, ChildSet) and key in self.unread.sets:
            self.unread.sets[key] = item
            state.sets[metadata.name] = msgspec.structs.replace(state.sets[metadata.name], object=item)

    def _add(self, informer: Informer[Any]) -> Informer[Any]:
        self.informers.append(informer)
        return informer

    def _hub(self, old: Hub | None, new: Hub | None) -> None:
        hub = new or old
        assert hub is not None
        key = hub.metadata.key
        was_broken = self.broken_hubs.pop(key, None) is not None
        if new is None:
            self.hubs.pop(key, None)
        else:
            self.hubs[key] = new
            self.state(key).belongs_to(new.metadata.uid)
            same = old is not None and old.metadata.generation == new.metadata.generation and _same_metadata(old, new)
            if same and not was_broken:
                return  # The operator's own write of status.
        state = self.state(key)
        for name in list(state.leases.unwatched):
            state.unwatch_lease(name, self._uid(key))
        self._wake(key)

    def _wake(self, key: HubKey) -> None:
        """Queue a round that plans."""
        self.plan_anew(key)
        self._queue_round(key)

    def wake_all(self) -> None:
        """Queue a round of each hub, which plans."""
        for key in list(self.states):
            self._wake(key)

    def plan_anew(self, key: HubKey) -> None:
        """Have the next round of a hub plan."""
        if (state := self.states.get(key)) is not None:
            state.plan_due = True

    def _wake_known(self, key: HubKey) -> None:
        if key in self.hubs:
            self._wake(key)

    def _uid(self, key: HubKey) -> str:
        """The hub's uid, or "" if there is none or it is being deleted."""
        hub = self.hubs.get(key)
        return "" if hub is None or hub.metadata.deletion_timestamp is not None else hub.metadata.uid

    def hub_keys(self) -> KeysView[HubKey]:
        """A live view of the existing hubs, those that can't be read included."""
        return ChainMap[HubKey, Any](self.hubs, self.broken_hubs).keys()

    def unread_hub(self, key: HubKey) -> str:
        """Why an existing Hub was never read, or ""."""
        return self.broken_hubs[key][1] if key in self.broken_hubs and key not in self.hubs else ""

    def _broken_hub(self, metadata: ObjectMeta, item: Undecodable | None) -> None:
        if item is None:
            self.broken_hubs.pop(metadata.key, None)
        else:
            self.broken_hubs[metadata.key] = (metadata, item.error)
        if (known := self.hubs.get(metadata.key)) is not None:
            # Its spec stays as it was read. Its metadata, which has pauses, drains and its deletion, is taken.
            without = msgspec.structs.replace(known, metadata=metadata)
            self.hubs[metadata.key] = without if item is None else hub_with(known, item)
        self.state(metadata.key)
        self._wake(metadata.key)

    def _child(self, old: Child | None, new: Child | None) -> None:
        child = new or old
        assert child is not None
        key = (child.metadata.namespace, child.spec.hub)
        state = self.state(key)
        unread = self._forget_unread_child(child.metadata.key)
        if new is None:
            state.drop_child(child)
        else:
            state.put_child(new)
            same = old is not None and old.metadata.generation == new.metadata.generation and same_order(old, new)
            if same and not unread and not marks_changed(old, new):
                return  # The operator's own write of status.
        self._wake(key)

    def _forget_unread_child(self, key: tuple[str, str]) -> bool:
        """Forget what was known of an unread Child; returns whether there was one."""
        before = self.unread.children.pop(key, None)
        if before is not None:
            self.state((key[0], before.spec.hub)).drop_child(before)
        return before is not None

    def _broken_child(self, metadata: ObjectMeta, item: Undecodable | None) -> None:
        known = self.unread.children.get(metadata.key) or self._read_child(metadata.key)
        self._forget_unread_child(metadata.key)
        child = self.unread.child(item, known) if item is not None else None
        if item is not None and child is not None:
            state = self.state((metadata.namespace, child.spec.hub))
            state.put_child(child)
            state.children.mark_unread(metadata.name, item.error)
        if (there := child or known) is not None:
            self._wake((metadata.namespace, there.spec.hub))

    def _child_set(self, old: ChildSet | None, new: ChildSet | None) -> None:
        item = new or old
        assert item is not None
        key = (item.metadata.namespace, item.spec.hub)
        unread = self.unread.sets.pop(item.metadata.key, None) is not None
        if new is None:
            self.state(key).sets.drop(item)
        else:
            self.state(key).sets.put(new)
            same = old is not None and old.metadata.generation == new.metadata.generation and same_order(old, new)
            if same and not unread:
                return  # The operator's own write of status.
        self._wake(key)

    def _broken_set(self, metadata: ObjectMeta, item: Undecodable | None) -> None:
        before = self.unread.sets.pop(metadata.key, None)
        read = next((it.items.get(metadata.key) for it in self.informer_of("childsets", metadata.namespace)), None)
        known = before or read
        found = self.unread.set(item, known) if item is not None else None
        if (there := found or known) is None:
            return
        key = (metadata.namespace, there.spec.hub)
        if item is not None and found is not None:
            self.state(key).sets.put(found)
            self.state(key).sets.mark_unread(metadata.name, item.error, never_read=read is None)
        else:
            self.state(key).sets.drop(there)
        self._wake(key)

    def _slice(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        item = new or old
        assert item is not None
        key = (item.metadata.namespace, item.spec.hub)
        state = self.state(key)
        if new is None:
            state.drop_slice(item)
        else:
            changed = state.put_slice(new)
            if old is not None and children_only_restart(old, new):
                self._queue_round(key)
                return
            if any(only(old, new, state.slices, changed) for only in (only_comes_on_record, only_hands_over)):
                self.plan_anew(key)
                self._queue_patiently(key)
                return
        self._wake(key)

    def child_pod(self, key: HubKey, pod: Pod, known: Pod | None = None) -> None:
        """File the Pod of a child, with the marks of ``known`` if it was seen before."""
        state, name = self.state(key), pod.metadata.name
        changed = changed_marks(known, pod) if known is not None else ()
        state.child_pods[name] = pod if known is None else with_marks(known, pod)
        if changed:
            state.child_pods.changed[name] = changed
        else:
            state.child_pods.changed.pop(name, None)
        state.child_pods.unidentified.pop(name, None)
        self._hubs_of_pods[pod.metadata.key] = key

    def child_pod_gone(self, key: HubKey, name: str) -> None:
        """Forget a child's Pod: no object with this name and uid exists any more."""
        state = self.state(key)
        state.child_pods.pop(name, None)
        state.child_pods.changed.pop(name, None)
        state.child_pods.unwatched.discard(name)
        self._hubs_of_pods.pop((key[0], name), None)

    def _pod(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None
        name, at = pod.metadata.name, self._hubs_of_pods.get(pod.metadata.key)
        if at is not None:
            known = self.state(at).child_pods[name]
            if known.metadata.uid == pod.metadata.uid:
                self._known_child_pod(at, known, new)
                return
            self.child_pod_gone(at, name)  # This one has its name.
            self._wake(at)
        for seen in (old, new):
            if seen is None or LABEL_HUB not in seen.metadata.labels:
                continue
            key = (seen.metadata.namespace, seen.metadata.labels[LABEL_HUB])
            child, member = claims_to_be_child_pod(seen), is_member_pod(seen, key[1])
            if not child and not member:
                continue  # It has the hub's label, but the operator did not create it.
            state = self.state(key)
            if seen is old:
                if new is None or not is_member_pod(new, key[1]):
                    state.pods.drop(name)
                state.child_pods.unidentified.pop(name, None)
            elif member:
                # A new object does not say since when its state is so.
                known_before = old is not None and old.metadata.uid == seen.metadata.uid
                state.pods.put(seen, asyncio.get_running_loop().time() if known_before else -math.inf)
            elif is_child_pod(seen):
                self.child_pod(key, seen)
            else:
                state.child_pods.unidentified[name] = seen
            self._wake(key)

    def _known_child_pod(self, key: HubKey, known: Pod, new: Pod | None) -> None:
        state = self.state(key)
        if new is None:
            state.child_pods.unwatched.add(known.metadata.name)
            self._wake(key)
            return
        state.child_pods.unwatched.discard(known.metadata.name)
        self.child_pod(key, new, known)
        changed = known.metadata.name in state.child_pods.changed
        if changed or not same_stage(known, new):
            self._wake(key)  # The state of its containers is reported by its member.

    def _lease(self, old: Lease | None, new: Lease | None) -> None:
        lease = new or old
        assert lease is not None
        key = (lease.metadata.namespace, lease.metadata.labels[LABEL_HUB])
        if old is not None and old.metadata.labels[LABEL_HUB] != key[1]:
            self._lease(old, None)  # The hub that its label named before has lost it.
        state = self.state(key)
        if new is None:
            state.unwatch_lease(lease.metadata.name, self._uid(key))
            self._wake(key)
            return
        state.put_lease(new, asyncio.get_running_loop().time())
        if old is None or old.spec.holder_identity != new.spec.holder_identity or not _same_marks(old, new):
            self._wake(key)  # A renewal alone needs no round.

    def _node(self, old: KubernetesNode | None, new: KubernetesNode | None) -> None:
        same = old is not None and new is not None and old.metadata.labels == new.metadata.labels
        if same and old is not None and new is not None and (old.spec, old.status) == (new.spec, new.status):
            return  # Only a heartbeat.
        for key in self.hubs:
            self._wake(key)

    def _lease_watch_back(self, namespace: str | None = None) -> None:
        now = asyncio.get_running_loop().time()
        for key, state in self.states.items():
            if namespace in (None, key[0]):
                state.leases.restart_clocks(now)
                self._wake(key)


def _same_marks(old: Lease, new: Lease) -> bool:
    """Whether nothing but the load changed in a Lease's metadata."""
    before, after = old.metadata.annotations, new.metadata.annotations
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return (
        changed <= {ANNOTATION_LOAD}
        and old.metadata.labels == new.metadata.labels
        and old.metadata.owner_references == new.metadata.owner_references
    )


def _same_metadata(old: Hub, new: Hub) -> bool:
    return (
        old.metadata.annotations == new.metadata.annotations
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        and old.metadata.uid == new.metadata.uid
    )
