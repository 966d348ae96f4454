"""The Children of one hub. What is derived from a spec is derived once for each spec, not once a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import HubSpec
from processhub.api.meta import ObjectMeta
from processhub.api.movednodes import moved_nodes
from processhub.api.naming import (
    ANNOTATION_CHILD_ID,
    ANNOTATION_MOVE_TO,
    ANNOTATION_NODES,
    LABEL_CHILD,
    LABEL_COMPONENT,
    LABEL_HUB,
    LABEL_HUB_UID,
    LABEL_NAME,
)
from processhub.core.acceptance import Refusal, refuse_child, refuse_size, unreadable
from processhub.core.model.snapshot import DesiredChild, desired_child
from processhub.registry.workloads import encode_workload

_MARKS = (LABEL_NAME, LABEL_COMPONENT, LABEL_HUB, LABEL_HUB_UID, LABEL_CHILD, ANNOTATION_CHILD_ID)


class KnownChild(msgspec.Struct, frozen=True):
    """A Child with what is derived from its spec: the planner's view and the workload's JSON.

    ``spec`` is the Child's. If it was moved on a Guided hub, it has the nodes of the move, and ``moved`` is true.
    """

    child: Child
    wanted: DesiredChild
    workload: str  # JSON.
    spec: ChildSpec
    moved: bool = False

    @property
    def metadata(self) -> ObjectMeta:
        """The object's metadata."""
        return self.child.metadata

    @property
    def title(self) -> str:
        """The object's name in messages."""
        return f"child/{self.child.metadata.name}"


class AdmittedSpec(msgspec.Struct, frozen=True):
    """The spec that was written for a static child, and what was stored: mutating webhooks may change it."""

    written: ChildSpec
    stored: ChildSpec


def is_carried_out(child: Child, wanted: ChildSpec, admitted: Mapping[str, AdmittedSpec]) -> bool:
    """Whether the Child has the wanted spec, or what became of it when it was written. ``admitted``: by object name."""
    known = admitted.get(child.metadata.name)
    became = known is not None and _same(known.written, wanted) and _same(known.stored, child.spec)
    return became or _same(child.spec, wanted)


def _same(one: ChildSpec, other: ChildSpec) -> bool:
    """Whether two specs are the same. Of two equal ones, one may have 1 where the other has true, in free JSON."""
    return one == other and (one.exec is not None or encode_workload(one) == encode_workload(other))


def same_order(old: Child | ChildSet, new: Child | ChildSet) -> bool:
    """Whether the orders to move children are the same."""
    before, after = old.metadata.annotations, new.metadata.annotations
    return all(before.get(order) == after.get(order) for order in (ANNOTATION_MOVE_TO, ANNOTATION_NODES))


def is_marked(child: Child) -> bool:
    """Whether the Child has an owner or the mark of a Hub, as static Children have them."""
    return LABEL_HUB_UID in child.metadata.labels or bool(child.metadata.owner_references)


def marks_of(child: Child) -> dict[str, str]:
    """The labels and the annotation of a static Child, as far as they are there."""
    there = child.metadata.labels | child.metadata.annotations
    return {key: there[key] for key in _MARKS if key in there}


def marks_changed(old: Child | None, new: Child) -> bool:
    """Whether somebody, or the operator, has changed the marks or the owner of a static Child."""
    if old is None or not is_marked(old):
        return False
    return old.metadata.owner_references != new.metadata.owner_references or marks_of(old) != marks_of(new)


class Children(dict[str, KnownChild]):
    """The Children of one hub, by object name.

    - ``by_id``: child's id → object names.
    - ``expiring``: the names of the Children with ttlSeconds or idleSeconds.
    - ``marked``: the names of the Children that ``is_marked`` names.
    - ``move_requests``: object name → the member of its move request.
    - ``ended_moves``: the names of the Children whose move by nodes was ended by an edit of their spec.nodes.
    - ``pods``: the names of the pod children.
    - ``rejected``: object name → why the API server does not create the Pod of its present template.
    - ``unread``: object name → why its present version can't be read.
    - ``admitted``: object name → what the API server stored for the latest write of a static child.
    - ``admitted_marks``: object name → the marks that it stored for the latest write of a static child.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_id: dict[str, set[str]] = {}
        self.expiring: set[str] = set()
        self.marked: set[str] = set()
        self.move_requests: dict[str, str] = {}
        self.ended_moves: set[str] = set()
        self.pods: set[str] = set()
        self.rejected: dict[str, Refusal] = {}
        self.unread: dict[str, Refusal] = {}
        self.admitted: dict[str, AdmittedSpec] = {}
        self.admitted_marks: dict[str, dict[str, str]] = {}
        self._guided = False
        self._refusals: dict[str, Refusal | None] = {}
        self._refusals_for: HubSpec | None = None

    def put(self, child: Child) -> None:
        """Take a new or changed Child."""
        name = child.metadata.name
        before = self.get(name)
        if self.unread.pop(name, None) is not None:
            self._refusals.pop(name, None)
        same = before is not None and before.child.metadata.generation == child.metadata.generation
        if before is not None and same and _move_of(before.child) == _move_of(child):
            # Only metadata or status changed. What is derived from the spec stays.
            self[name] = msgspec.structs.replace(before, child=child)
        else:
            self._derive(child)
            self._refusals.pop(name, None)
            self.rejected.pop(name, None)
        _include(self.marked, name, is_marked(child))
        _include(self.ended_moves, name, bool(_move_of(child)) and moved_nodes(child) is None)
        if member := child.metadata.annotations.get(ANNOTATION_MOVE_TO):
            self.move_requests[name] = member
        else:
            self.move_requests.pop(name, None)
        self.by_id.setdefault(child.id, set()).add(name)

    def drop(self, child: Child) -> bool:
        """Forget a deleted Child; returns whether it was known."""
        name = child.metadata.name
        known = self.get(name)
        if known is None or known.child.metadata.uid != child.metadata.uid:
            return False
        del self[name]
        by_name: tuple[dict[str, Any], ...] = (self.rejected, self.unread, self.admitted, self.admitted_marks)
        for kept in (*by_name, self._refusals, self.move_requests):
            kept.pop(name, None)
        for names in (self.pods, self.expiring, self.marked, self.ended_moves):
            names.discard(name)
        same_id = self.by_id.get(child.id, set())
        same_id.discard(name)
        if not same_id:
            self.by_id.pop(child.id, None)
        return True

    def take_hub(self, hub: HubSpec) -> None:
        """Take the Hub's spec: whether moves by nodes are in effect."""
        guided = hub.distribution.strategy == "Guided"
        turned, self._guided = guided != self._guided, guided
        if not turned:
            return
        for known in list(self.values()):
            if _move_of(known.child):
                self._derive(known.child)
                self._refusals.pop(known.child.metadata.name, None)

    def refusals(self, hub: HubSpec) -> Mapping[str, Refusal | None]:
        """Object name → why the Child is not accepted, or None. Computed once for each spec of Child and Hub."""
        if self._refusals_for is not hub:
            if self._refusals_for != hub:  # Each write of the Hub's status gives it another object.
                self._refusals.clear()
            self._refusals_for = hub
        if len(self._refusals) < len(self):
            for name in self.keys() - self._refusals.keys():
                known = self[name]
                self._refusals[name] = self.unread.get(name) or self._refusal(known, hub)
        return self._refusals

    def _refusal(self, known: KnownChild, hub: HubSpec) -> Refusal | None:
        spec = msgspec.structs.replace(known.child.spec, nodes=known.spec.nodes)
        return refuse_child(spec, hub) or refuse_size(known.workload) or self.rejected.get(known.metadata.name)

    def mark_unread(self, name: str, error: str) -> None:
        """Take that the Child's present version can't be read. What is known of it is the version before."""
        self.unread[name] = unreadable(error)
        self._refusals.pop(name, None)

    def reject(self, name: str, refusal: Refusal | None) -> None:
        """Take why the API server does not create the Pod of the Child's present template; None: it does."""
        if self.rejected.get(name) != refusal:
            self._refusals.pop(name, None)
        if refusal is None:
            self.rejected.pop(name, None)
        else:
            self.rejected[name] = refusal

    def _derive(self, child: Child) -> None:
        name = child.metadata.name
        known = self[name] = _known(child, moved_nodes(child) if self._guided else None)
        _include(self.pods, name, known.spec.pod is not None)
        _include(self.expiring, name, known.spec.ttl_seconds is not None or known.spec.idle_seconds is not None)


def _include(names: set[str], name: str, holds: bool) -> None:
    """Have the name in the set, or not."""
    (names.add if holds else names.discard)(name)


def _move_of(child: Child) -> str:
    return child.metadata.annotations.get(ANNOTATION_NODES, "")


def _known(child: Child, moved: tuple[str, ...] | None) -> KnownChild:
    spec = child.spec if moved is None else msgspec.structs.replace(child.spec, nodes=moved)
    digest, text = encode_workload(spec)
    desired = desired_child(spec, child.id, child.metadata.uid, digest)
    return KnownChild(child, desired, text, spec, moved is not None)
