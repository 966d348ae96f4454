"""What the operator knows of one hub: its Children, slices, pods and Leases, parsed once when they change.

Nothing here decides. The reconcile reads it into a snapshot; informers and the outcome of own writes change it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import HubSpec, OnDemand
from processhub.api.kubernetes import Lease, LeaseSpec, Pod
from processhub.api.meta import ObjectMeta
from processhub.api.naming import ANNOTATION_MOVE_TO, LABEL_HUB_UID, LABEL_MEMBER, lease_name
from processhub.api.reasons import Role
from processhub.api.slice import RegistrySlice
from processhub.controller.store.childsets import KnownSet, known_set, refuse_set, shared_ids
from processhub.core.acceptance import Refusal, on_demand_spec, refuse_child, refuse_size
from processhub.core.model.snapshot import DesiredChild, desired_child
from processhub.registry.slices import SliceView
from processhub.registry.workloads import encode_workload

AGENT_CONTAINER = "agent"
HubKey = tuple[str, str]  # (namespace, name)
log = logging.getLogger(__name__)


class KnownChild(msgspec.Struct, frozen=True):
    """A Child with what is derived from its spec: the planner's view and the workload's JSON.

    ``spec`` is the Child's; one on demand has the workload and lifetimes of the Hub's template in it.
    """

    child: Child
    wanted: DesiredChild
    workload: str  # JSON
    spec: ChildSpec

    @property
    def metadata(self) -> ObjectMeta:
        """The object's metadata."""
        return self.child.metadata

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"child/{self.child.metadata.name}"


class Creation(msgspec.Struct, frozen=True):
    """A slice that may be there, because its creation was not answered: whose it is, and the ids of its entries."""

    member: str
    index: int
    ids: frozenset[str]


class KnownLease(msgspec.Struct, frozen=True):
    """A member Lease and when (monotonic seconds) its renewal was seen to change.

    ``renewing``: that was seen since the clocks were started, and not only a Lease that somebody held before.
    ``changed_at``: when it was last seen to change, whatever was done with the clocks since.
    """

    lease: Lease
    renewed_at: float
    renewing: bool = False
    changed_at: float = 0.0


class KnownSlice:
    """A slice with its entries parsed; only texts that changed are parsed again.

    ``unproven``: id → the generation that removed it from spec, took the active role from it or has it wait; None while
    the write's outcome is unknown. ``uncertain``: id → the generation on which a write was made that changed its entry
    and whose outcome is unknown; forgotten with the next generation, because then that write is in it or can't land.
    """

    def __init__(self) -> None:
        self.object: RegistrySlice | None = None
        self._view = SliceView()
        self.assignments, self.reports = self._view.entries, self._view.reports
        self.unproven: dict[str, int | None] = {}
        self.uncertain: dict[str, int] = {}
        self.asked: set[str] = set()  # ids whose entry a hook changed
        self.leaving: set[str] = set()  # ids whose entry orders a handover
        self.claims: set[str] = set()  # ids that the member runs though another's entry says so

    @property
    def present(self) -> RegistrySlice:
        """The object; call only where there is one."""
        assert self.object is not None
        return self.object

    @property
    def ending(self) -> set[str]:
        """Ids that are not on record here any more, and of which it is not proven that nothing runs."""
        return (self.unproven.keys() | self.present.status.entries.keys()) - self.present.spec.entries.keys()

    def acknowledged_by(self, holder: str) -> bool:
        """Whether this Lease holder has answered the slice as it is now."""
        status = self.present.status
        return status.holder == holder and status.observed_generation >= self.present.metadata.generation

    @property
    def index(self) -> int:
        """The slice's number, the last part of its name."""
        tail = self.present.metadata.name.rpartition(".")[2]
        return int(tail) if tail.isdigit() else 0

    def update(self, new: RegistrySlice) -> set[str]:
        """Take a newer object; the ids whose entries changed."""
        change = self._view.update(new)
        for child_id, error in change.unreadable:
            log.error("slice %s, entry %s: %s", new.metadata.name, child_id, error)
        changed, reported = change.entries, change.reports
        self.asked -= changed
        self.asked |= {child_id for child_id in changed & self.assignments.keys() if self.assignments[child_id].asked}
        self.leaving -= changed
        self.leaving |= {child_id for child_id in changed & self.assignments.keys() if self.assignments[child_id].to}
        self.claims -= reported
        self.claims |= {child_id for child_id in reported & self.reports.keys() if self.reports[child_id].claim}
        self.object = new
        for child_id, generation in list(self.unproven.items()):
            if generation is None and (child_id not in new.spec.entries or self._is_quiet(child_id)):
                self.unproven[child_id] = new.metadata.generation
        if self.uncertain:
            written = new.metadata.generation
            self.uncertain = {child_id: on for child_id, on in self.uncertain.items() if on >= written}
        return changed | reported

    def prove(self, holder: str) -> set[str]:
        """Forget the removals that the member has proven (docs/protocol.md, rule 7); their ids.

        ``holder`` is who holds the member's Lease.
        """
        status = self.present.status
        if not self.unproven or status.holder != holder:
            return set()
        proven = {
            child_id
            for child_id, generation in self.unproven.items()
            if generation is not None and status.observed_generation >= generation and self._ended(child_id)
        }
        for child_id in proven:
            del self.unproven[child_id]
        return proven

    def _is_quiet(self, child_id: str) -> bool:
        """Whether what is on record is no order to be active."""
        entry = self.assignments.get(child_id)
        return entry is not None and (entry.role == Role.PASSIVE or entry.wait)

    def _ended(self, child_id: str) -> bool:
        """Whether the status says that what was removed, or was active, runs no more: (uid, epoch) is another."""
        report, entry = self.reports.get(child_id), self.assignments.get(child_id)
        if report is None:
            return child_id not in self.present.status.entries
        return entry is not None and (report.uid, report.epoch) == (entry.uid, entry.epoch)

    def possibly_running(self, holder: str) -> set[str]:
        """The ids that may still run on the member, or be active there, though no entry of this slice says so.

        Besides what this leader noted that is what the member reports: all that a leader has who came after the write.
        """
        ids = self.unproven.keys() | self.uncertain.keys()
        if self.present.status.holder == holder:
            for child_id, report in self.reports.items():
                entry = self.assignments.get(child_id)
                if (
                    entry is None
                    or entry.uid != report.uid
                    or (entry.wait and entry.epoch != report.epoch)
                    or (entry.role == Role.PASSIVE and report.role == Role.ACTIVE)
                ):
                    ids.add(child_id)
        return ids


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


class HubState:
    """All objects of one hub, by (namespace, hub name): also those of a hub that is not there (any more)."""

    def __init__(self, key: HubKey) -> None:
        self.key = key
        self.children: dict[str, KnownChild] = {}  # by object name
        self.expiring: set[str] = set()  # names of the children that end by ttl or by idling
        self.by_id: dict[str, set[str]] = {}  # id → object names
        self.sets: dict[str, KnownSet] = {}  # by object name
        self.hub_uid = ""  # of the Hub that there is, or was last; "" until one is seen
        self.slices: dict[str, KnownSlice] = {}
        self.older_slices: dict[str, RegistrySlice] = {}  # of another Hub of this name: an earlier one
        self.pods: dict[str, Pod] = {}  # of members
        self.ends: dict[str, dict[str, float]] = {}  # member's pod → its agent's ends, as reported → when that was seen
        self.child_pods: dict[str, Pod] = {}  # of pod children, by object name, with the marks they were made with
        self.changed_pods: dict[str, tuple[str, ...]] = {}  # by name: marks of those that somebody changed
        self.unwatched_pods: set[str] = set()  # names of those that left the watch: gone, or without a label
        self.unidentified_pods: dict[str, Pod] = {}  # of some child, they don't say of which: to be identified
        self.leases: dict[str, KnownLease] = {}  # by object name
        self.older_leases: dict[str, Lease] = {}  # as with slices
        self.unwatched_leases: set[str] = set()  # names of those that were held when they left the watch
        self.move_requests: dict[str, str] = {}  # object name → the member that somebody asked to have it moved to
        self.unaccounted: dict[str, set[str]] = {}  # member → ids of slices that somebody deleted: they may run there
        self.creating: dict[str, Creation] = {}  # name of a slice whose creation was not answered → what is in it
        self.dirty: set[str] = set()  # ids whose Child status is to be looked at
        self._template: OnDemand | None = None
        self._refusals_for: HubSpec | None = None
        self._refusals: dict[str, Refusal | None] = {}
        self._set_refusals: dict[str, Refusal | None] = {}
        self._shared: dict[str, list[KnownSet]] | None = None  # ids that several sets ask for; None: to be looked for

    @property
    def empty(self) -> bool:
        """Whether nothing of this hub is left, nor of one before it."""
        own = self.children or self.sets or self.slices or self.pods or self.child_pods or self.leases
        return not (own or self.older_slices or self.older_leases)

    def belongs_to(self, hub_uid: str) -> None:
        """The Hub of this name has this uid: slices and Leases of another are none of its own, here as for members."""
        if hub_uid == self.hub_uid:
            return
        self.hub_uid = hub_uid
        for name, known in list(self.slices.items()):
            if known.present.spec.hub_uid != hub_uid:
                self.older_slices[name] = self.slices.pop(name).present
        for name, held in list(self.leases.items()):
            if (made_for := hub_of_lease(held.lease, self.key[1])) != hub_uid:
                self.forget_lease(name)
                if made_for:
                    self.older_leases[name] = held.lease

    def leftovers(self) -> list[str]:
        """What there is of an earlier Hub of this name, each as "kind name"."""
        pods = (name for name, pod in self.pods.items() if pod.metadata.labels.get(LABEL_HUB_UID) != self.hub_uid)
        return [
            *(f"registryslice {name}" for name in self.older_slices),
            *(f"lease {name}" for name in self.older_leases),
            *(f"pod {name}" for name in pods),
        ]

    def put_child(self, child: Child) -> None:
        """Take a new or changed Child."""
        name = child.metadata.name
        before = self.children.get(name)
        if before is not None and before.child.metadata.generation == child.metadata.generation:
            # Only metadata or status changed: what is derived from the spec stands.
            self.children[name] = msgspec.structs.replace(before, child=child)
        else:
            self._derive(child)
            self._refusals.pop(name, None)
        if member := child.metadata.annotations.get(ANNOTATION_MOVE_TO):
            self.move_requests[name] = member
        else:
            self.move_requests.pop(name, None)
        self.by_id.setdefault(child.id, set()).add(name)
        self.dirty.add(child.id)

    def take_template(self, template: OnDemand | None) -> None:
        """The Hub's spec.onDemand as it is now: children on demand run what it says."""
        if template == self._template:
            return
        self._template = template
        for known in list(self.children.values()):
            if known.child.spec.on_demand:
                self._derive(known.child)

    def _derive(self, child: Child) -> None:
        name = child.metadata.name
        known = self.children[name] = _known(child, self._template)
        self.expiring.discard(name)
        if known.spec.ttl_seconds is not None or known.spec.idle_seconds is not None:
            self.expiring.add(name)

    def refusals(self, hub: HubSpec) -> Mapping[str, Refusal | None]:
        """By object name why each Child is not accepted, None where it is; computed once a spec of Child and Hub."""
        self._forget_refusals_of(hub)
        if len(self._refusals) < len(self.children):
            for name in self.children.keys() - self._refusals.keys():
                known = self.children[name]
                self._refusals[name] = refuse_child(known.child.spec, hub) or refuse_size(known.workload)
        return self._refusals

    def set_refusals(self, hub: HubSpec) -> Mapping[str, Refusal | None]:
        """By object name why each ChildSet is not accepted, None where it is; computed once a spec of both."""
        self._forget_refusals_of(hub)
        for name in self.sets.keys() - self._set_refusals.keys():
            self._set_refusals[name] = refuse_set(self.sets[name], hub)
        return self._set_refusals

    def _forget_refusals_of(self, hub: HubSpec) -> None:
        if self._refusals_for is not hub:
            self._refusals_for = hub
            self._refusals.clear()
            self._set_refusals.clear()

    def drop_child(self, child: Child) -> None:
        """A Child was deleted."""
        known = self.children.get(child.metadata.name)
        if known is None or known.child.metadata.uid != child.metadata.uid:
            return
        del self.children[child.metadata.name]
        self.expiring.discard(child.metadata.name)
        self._refusals.pop(child.metadata.name, None)
        self.move_requests.pop(child.metadata.name, None)
        names = self.by_id.get(child.id, set())
        names.discard(child.metadata.name)
        if not names:
            self.by_id.pop(child.id, None)
        self.dirty.add(child.id)

    def put_set(self, item: ChildSet) -> None:
        """Take a new or changed ChildSet."""
        name = item.metadata.name
        before = self.sets.get(name)
        known = self.sets[name] = known_set(item, before)
        if before is None or before.wanted is not known.wanted:
            self._set_refusals.pop(name, None)
            self._shared = None

    def drop_set(self, item: ChildSet) -> None:
        """A ChildSet was deleted."""
        known = self.sets.get(item.metadata.name)
        if known is not None and known.metadata.uid == item.metadata.uid:
            del self.sets[item.metadata.name]
            self._set_refusals.pop(item.metadata.name, None)
            self._shared = None

    def contested(self) -> dict[str, list[KnownSet]]:
        """The ids that a set asks for and something else does too, with the sets that do."""
        if self._shared is None:
            self._shared = shared_ids(self.sets.values())
        found = dict(self._shared)
        for known in self.sets.values():
            for child_id in known.wanted.keys() & self.by_id.keys():
                found.setdefault(child_id, [known])
        return found

    def put_slice(self, item: RegistrySlice) -> None:
        """Take a new or changed slice."""
        if self.hub_uid and item.spec.hub_uid != self.hub_uid:
            self.older_slices[item.metadata.name] = item
            return
        self.creating.pop(item.metadata.name, None)
        known = self.slices.setdefault(item.metadata.name, KnownSlice())
        if known.object is not None and known.object.metadata.uid != item.metadata.uid:
            known = self.slices[item.metadata.name] = KnownSlice()
        self.dirty |= known.update(item)

    def drop_slice(self, item: RegistrySlice) -> None:
        """A slice was deleted."""
        self.older_slices.pop(item.metadata.name, None)
        known = self.slices.get(item.metadata.name)
        if known is not None and known.object is not None and known.object.metadata.uid == item.metadata.uid:
            ids = known.assignments.keys() | known.reports.keys()
            self.dirty |= ids
            if lost := ids | known.unproven.keys() | known.uncertain.keys():
                self.unaccounted.setdefault(item.spec.member, set()).update(lost)
            del self.slices[item.metadata.name]

    def uncertain(self) -> frozenset[str]:
        """The ids whose entries may be other than the slices say: a write of ours may have changed them, or may yet."""
        ids = {child_id for known in self.slices.values() for child_id in known.uncertain}
        return frozenset(ids.union(*(creation.ids for creation in self.creating.values())))

    def put_pod(self, pod: Pod, seen: float) -> None:
        """Take a member's pod. ``seen``: since when (monotonic seconds) what it says that it did not say before."""
        name, before = pod.metadata.name, self.pods.get(pod.metadata.name)
        known = self.ends.get(name, {}) if before and before.metadata.uid == pod.metadata.uid else {}
        self.ends[name] = {moment: known.get(moment, seen) for moment in agent_ends(pod)}
        self.pods[name] = pod

    def drop_pod(self, name: str) -> None:
        """A member's pod was deleted, or is of this hub no more."""
        self.pods.pop(name, None)
        self.ends.pop(name, None)

    def put_lease(self, lease: Lease, now: float) -> None:
        """Take a member Lease, seen ``now`` (monotonic seconds); one that the operator can't have made is nobody's."""
        known = self.leases.get(lease.metadata.name)
        if self.hub_uid and (known is None or known.lease.metadata.uid != lease.metadata.uid):
            # One that is known is the member's whatever became of its marks: its holder renews it.
            made_for = hub_of_lease(lease, self.key[1])
            if made_for != self.hub_uid:
                if made_for:
                    self.older_leases[lease.metadata.name] = lease
                return
        same = known is not None and known.lease.metadata.uid == lease.metadata.uid and known.lease.spec == lease.spec
        renewed_at = known.renewed_at if known is not None and same else now
        renewing = known is not None and (known.renewing if same else known.lease.metadata.uid == lease.metadata.uid)
        changed_at = known.changed_at if known is not None and same else now
        self.leases[lease.metadata.name] = KnownLease(lease, renewed_at, renewing, changed_at)
        self.unwatched_leases.discard(lease.metadata.name)

    def unwatch_lease(self, name: str, hub_uid: str) -> None:
        """A member Lease left the watch: it was deleted, or somebody took its label off.

        That proves nothing of the one who held it (docs/protocol.md, rule 10): of the hub that there is (``hub_uid``,
        "" where there is none) it is kept as it was, until it is there again or has run out.
        """
        self.older_leases.pop(name, None)
        known = self.leases.get(name)
        if known is None:
            return
        if known.lease.spec.holder_identity and hub_uid and hub_uid == self.hub_uid:
            self.unwatched_leases.add(name)
        else:
            self.forget_lease(name)

    def add_missing_leases(self, hub_uid: str, now: float) -> None:
        """Of a member that has run children there must be a Lease: one that is not was deleted while nobody led.

        Whoever held it may run on. It counts as one that left the watch ``now``, held by whom the slices name.
        """
        for member, (known, *_) in self.member_slices().items():
            slice_ = known.present
            holder = slice_.spec.holder or slice_.status.holder
            if holder and slice_.spec.hub_uid == hub_uid and self.member_lease(member) is None:
                name = lease_name(self.key[1], member)
                labels, annotations = {LABEL_HUB_UID: hub_uid}, {LABEL_MEMBER: member}
                metadata = ObjectMeta(name=name, namespace=self.key[0], labels=labels, annotations=annotations)
                seconds = slice_.spec.settings.lease_seconds
                spec = LeaseSpec(holder_identity=holder, lease_duration_seconds=seconds)
                self.leases[name] = KnownLease(Lease(metadata=metadata, spec=spec), now, changed_at=now)
                self.unwatched_leases.add(name)

    def forget_lease(self, name: str) -> None:
        """Its member is gone for good, or the hub is."""
        self.leases.pop(name, None)
        self.unwatched_leases.discard(name)

    def restart_lease_clocks(self, now: float) -> None:
        """Count afresh: Leases could not be observed until ``now`` (docs/protocol.md, rule 11)."""
        for name, known in self.leases.items():
            self.leases[name] = KnownLease(known.lease, now, changed_at=known.changed_at)

    def member_slices(self) -> dict[str, list[KnownSlice]]:
        """The slices of each member, in order of their number."""
        members: dict[str, list[KnownSlice]] = {}
        for known in self.slices.values():
            members.setdefault(known.present.spec.member, []).append(known)
        for slices in members.values():
            slices.sort(key=lambda known: known.index)
        return members

    def member_lease(self, member: str) -> KnownLease | None:
        """The member's Lease."""
        return self.leases.get(lease_name(self.key[1], member))


def hub_of_lease(lease: Lease, hub: str) -> str:
    """The uid of the Hub for which the operator made this member Lease, "" where it can't have made it.

    Its owner says so, whatever became of its labels. Without an owner its labels do, on a Lease of a member's name.
    """
    metadata = lease.metadata
    for owner in metadata.owner_references:
        if (owner.kind, owner.name) == ("Hub", hub):
            return owner.uid
    member = metadata.annotations.get(LABEL_MEMBER) or metadata.labels.get(LABEL_MEMBER, "")
    named = member and metadata.name == lease_name(hub, member)
    return metadata.labels.get(LABEL_HUB_UID, "") if named else ""


def _known(child: Child, template: OnDemand | None) -> KnownChild:
    spec = child.spec
    if spec.on_demand and template is not None:
        spec = on_demand_spec(spec, template)
    digest, text = encode_workload(spec)
    return KnownChild(child, desired_child(spec, child.id, child.metadata.uid, digest), text, spec)
