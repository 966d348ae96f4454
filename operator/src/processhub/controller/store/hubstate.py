"""The objects of one hub: its Children, ChildSets, slices, Leases and Pods, each parsed once when it changes.

Nothing is decided here. Informers and the operator's own writes change the state. A round learns its facts from it.
"""

from __future__ import annotations

from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.kubernetes import Lease, Pod
from processhub.api.naming import LABEL_COMPONENT, LABEL_HUB_UID
from processhub.api.slice import RegistrySlice
from processhub.controller.store.children import Children
from processhub.controller.store.childsets import ChildSets
from processhub.controller.store.leases import UNKNOWN_HOLDER, Leases
from processhub.controller.store.pods import ChildPods, MemberPods
from processhub.controller.store.slices import Slices

HubKey = tuple[str, str]  # (Namespace, name).


class HubState:
    """All objects of one hub, by namespace and name of the hub. The Hub itself may not exist, or not any more.

    ``hub_uid``: of the present or latest Hub, "" until one is seen. ``dirty``: the ids of the children whose
    Child.status is to be checked. ``plan_due``: more has changed since the last plan than that children restart.
    """

    def __init__(self, key: HubKey) -> None:
        self.key = key
        self.hub_uid = ""
        self.children = Children()
        self.sets = ChildSets()
        self.slices = Slices()
        self.leases = Leases(key[1])
        self.pods = MemberPods()
        self.child_pods = ChildPods()
        self.dirty: set[str] = set()
        self.plan_due = True

    @property
    def empty(self) -> bool:
        """Whether nothing is left of this hub, nor of an earlier one of its name."""
        own = self.children or self.sets or self.slices or self.pods or self.child_pods or self.leases
        return not (own or self.slices.older or self.leases.older)

    def belongs_to(self, hub_uid: str) -> None:
        """Take the uid of the Hub, and set the slices and Leases of an earlier one aside."""
        if hub_uid == self.hub_uid:
            return
        self.hub_uid = hub_uid
        self.slices.belong_to(hub_uid)
        self.leases.belong_to(hub_uid)

    @property
    def begun(self) -> bool:
        """Whether a member has run something for the present Hub, or was to."""
        slices = (known.present for known in self.slices.values())
        return any(item.spec.entries or item.status.holder for item in slices)

    def leftover_pods(self) -> list[Pod]:
        """The members' pods that are left of an earlier Hub of this name."""
        return [
            pod
            for pod in self.pods.values()
            if pod.metadata.labels.get(LABEL_HUB_UID) != self.hub_uid
            # The label of a hub alone proves nothing, as other objects may have it too.
            and (pod.metadata.owner_references or pod.metadata.labels.get(LABEL_COMPONENT) == "agent")
        ]

    def leftovers(self) -> list[str]:
        """What is left of an earlier Hub of this name, each as a clause that says what is awaited."""
        return [
            *(f"pod {pod.metadata.name} of an earlier hub of this name is still there" for pod in self.leftover_pods()),
            *(
                f"lease {name} of an earlier hub of this name is still held, by {known.lease.spec.holder_identity}"
                for name, known in self.leases.older.items()
                if known.lease.spec.holder_identity
            ),
            *(f"registryslice {name} of an earlier hub of this name is still there" for name in self.slices.older),
            *(f"lease {name} of an earlier hub of this name is still there" for name in self.leases.older),
        ]

    def forget_unanswered(self) -> None:
        """Forget what was not answered, or is not accounted for, of an earlier Hub."""
        self.slices.unaccounted.clear()
        self.slices.lost.clear()
        self.slices.creating.clear()
        self.child_pods.unconfirmed.clear()

    def put_child(self, child: Child) -> None:
        """Take a new or changed Child."""
        self.children.put(child)
        self.dirty.add(child.id)

    def drop_child(self, child: Child) -> None:
        """Forget a deleted Child."""
        if self.children.drop(child):
            self.dirty.add(child.id)

    def put_slice(self, item: RegistrySlice) -> set[str]:
        """Take a new or changed slice; returns the ids of the hub whose entry or report changed."""
        if self.hub_uid and item.spec.hub_uid != self.hub_uid:
            self.slices.older[item.metadata.name] = item
            return set()
        changed = self.slices.put(item)
        self.dirty |= changed
        return changed

    def drop_slice(self, item: RegistrySlice) -> None:
        """Forget a deleted slice."""
        self.dirty |= self.slices.drop(item)

    def put_lease(self, lease: Lease, now: float) -> None:
        """Take a member Lease, seen ``now`` (monotonic seconds)."""
        self.leases.put(lease, now, self.hub_uid)

    def unwatch_lease(self, name: str, hub_uid: str) -> None:
        """Note that a member Lease left the watch. ``hub_uid``: of the present Hub, or ""."""
        self.leases.unwatch(name, keep=bool(hub_uid) and hub_uid == self.hub_uid)

    def add_missing_leases(self, hub: Hub, now: float) -> None:
        """Add the Leases that were deleted while no operator led: a member that has run children must have one.

        The former holder may still run. The Lease counts as one that left the watch ``now``, with the holder that the
        slices name. Where they are deleted too, a pod or the Hub's status shows that there was a member.
        """
        uid, seconds = hub.metadata.uid, hub.spec.timeouts.lease_seconds
        names = self.pods.by_member(hub).keys() | {member.name for member in hub.status.members}
        holders = dict.fromkeys(names, (UNKNOWN_HOLDER, seconds))
        for member, (known, *_) in self.slices.by_member().items():
            spec = known.present.spec
            if spec.hub_uid == uid:
                holder = spec.holder or known.present.status.holder or UNKNOWN_HOLDER
                holders[member] = (holder, spec.settings.lease_seconds)
        for member, (holder, seconds) in holders.items():
            if self.leases.of_member(member) is None:
                self.leases.add_missing(member, holder, seconds, hub.metadata, now)
