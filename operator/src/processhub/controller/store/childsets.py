"""ChildSets in the planner's terms: each is expanded once a generation, whatever the number of its children.

The children that requests have started are a set too. Their object is the Hub, and their ids are those on record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub, HubSpec
from processhub.api.meta import ObjectMeta
from processhub.core.acceptance import Refusal, invalid, refuse_child, refuse_size, spec_on_demand, unreadable
from processhub.core.model.placement import child_key
from processhub.core.model.snapshot import DesiredChild, desired_child
from processhub.registry.workloads import encode_workload

_TEMPLATE_FIELDS = re.compile(
    r"\bspec\.(" + "|".join(field.encode_name for field in msgspec.structs.fields(ChildSpec)) + r")\b"
)


class KnownSet(msgspec.Struct, frozen=True):
    """A ChildSet, or a Hub with its children on demand. ``wanted``: the children as the planner sees them, by id.

    ``digest`` is the hash of their workload.
    """

    object: ChildSet | Hub
    wanted: Mapping[str, DesiredChild]
    digest: str
    workload: str  # JSON.

    @property
    def metadata(self) -> ObjectMeta:
        """The object's metadata."""
        return self.object.metadata

    @property
    def title(self) -> str:
        """The object's name in messages."""
        return f"{self.object.kind.lower()}/{self.object.metadata.name}"

    @property
    def template(self) -> ChildSpec:
        """The spec of each child."""
        if isinstance(self.object, ChildSet):
            return self.object.spec.template
        assert self.object.spec.on_demand is not None
        return spec_on_demand(self.object.spec.on_demand)

    @property
    def pace(self) -> tuple[int | str, int]:
        """The ``maxFailed`` and ``minReadySeconds`` of roll-outs of the template."""
        spec = self.object.spec if isinstance(self.object, ChildSet) else self.object.spec.on_demand
        assert spec is not None
        return spec.max_failed, spec.min_ready_seconds


class SeenSet(msgspec.Struct, frozen=True):
    """A ChildSet in one round: why it is not accepted, and the ids that others have (id → who).

    ``held``: the former workload of each child whose turn in a roll-out has not come, by id. ``failing``: the children
    for which the roll-out has stopped. ``rejected``: why the API server does not create the Pods of an edited
    spec.onDemand. ``note``: what of it is accepted and has no effect.
    """

    known: KnownSet
    refusal: Refusal | None = None
    taken: Mapping[str, str] = {}
    held: Mapping[str, str] = {}
    failing: tuple[str, ...] = ()
    rejected: Refusal | None = None
    note: str = ""


class ChildSets(dict[str, KnownSet]):
    """The ChildSets of one hub, by object name.

    ``rejected``: uid → why the API server does not create the Pods of the present template; also of the Hub's
    spec.onDemand. ``unread``: object name → why its present version can't be read. ``never_read``: the names of those
    of which no version was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rejected: dict[str, Refusal] = {}
        self.unread: dict[str, Refusal] = {}
        self.never_read: set[str] = set()
        self._refusals: dict[str, Refusal | None] = {}
        self._refusals_for: HubSpec | None = None
        # Ids that several ChildSets ask for. None: to be computed.
        self._shared: dict[str, list[KnownSet]] | None = None

    def put(self, item: ChildSet) -> None:
        """Take a new or changed ChildSet."""
        name = item.metadata.name
        before = self.get(name)
        self.never_read.discard(name)
        known = self[name] = known_set(item, before)
        if self.unread.pop(name, None) is not None or before is None or before.wanted is not known.wanted:
            self._refusals.pop(name, None)
            self._shared = None

    def drop(self, item: ChildSet) -> None:
        """Forget a deleted ChildSet."""
        known = self.get(item.metadata.name)
        if known is not None and known.metadata.uid == item.metadata.uid:
            del self[item.metadata.name]
            self.unread.pop(item.metadata.name, None)
            self.never_read.discard(item.metadata.name)
            self._refusals.pop(item.metadata.name, None)
            self._shared = None

    def refusals(self, hub: HubSpec) -> Mapping[str, Refusal | None]:
        """Object name → why the ChildSet is not accepted, or None. Computed once for each spec of ChildSet and Hub."""
        if self._refusals_for is not hub:
            if self._refusals_for != hub:  # Each write of the Hub's status gives it another object.
                self._refusals.clear()
            self._refusals_for = hub
        for name in self.keys() - self._refusals.keys():
            known = self[name]
            refusal = self.unread.get(name) or refuse_set(known, hub)
            self._refusals[name] = refusal or self.rejected.get(known.metadata.uid)
        return self._refusals

    def mark_unread(self, name: str, error: str, *, never_read: bool) -> None:
        """Take that the ChildSet's present version can't be read. What is known of it is the version before."""
        self.unread[name] = unreadable(error)
        self._refusals.pop(name, None)
        if never_read:
            self.never_read.add(name)

    def reject(self, uid: str, refusal: Refusal | None) -> None:
        """Take why the API server does not create the Pods of the present template; None: it does."""
        if self.rejected.get(uid) == refusal:
            return
        for name in [name for name, known in self.items() if known.metadata.uid == uid]:
            self._refusals.pop(name, None)
        if refusal is None:
            del self.rejected[uid]
        else:
            self.rejected[uid] = refusal

    def present(self, seen: SeenSet) -> SeenSet:
        """The ChildSet as it was seen, with its present metadata and status if its spec is still that."""
        before, known = seen.known.metadata, self.get(seen.known.metadata.name)
        if known is None or (known.metadata.uid, known.metadata.generation) != (before.uid, before.generation):
            return seen
        return msgspec.structs.replace(seen, known=msgspec.structs.replace(seen.known, object=known.object))

    def contested(self, ids: Set[str]) -> dict[str, list[KnownSet]]:
        """The ids that a ChildSet and another object ask for, each with these ChildSets. ``ids``: of Children."""
        if self._shared is None:
            self._shared = shared_ids(self.values())
        found = dict(self._shared)
        for known in self.values():
            for child_id in known.wanted.keys() & ids:
                found.setdefault(child_id, [known])
        return found


def known_set(item: ChildSet, before: KnownSet | None) -> KnownSet:
    """Expand a ChildSet. What ``before`` has is kept, so that a change of status or scale costs little."""
    if before is not None and before.metadata.uid != item.metadata.uid:
        before = None
    if before is not None and before.metadata.generation == item.metadata.generation:
        return KnownSet(item, before.wanted, before.digest, before.workload)
    digest, text = encode_workload(item.spec.template)
    # Of two equal templates, one may have 1 where the other has true: only their digests differ.
    same = before is not None and before.template == item.spec.template and before.digest == digest
    return KnownSet(item, _expanded(item, digest, before.wanted if before is not None and same else {}), digest, text)


def known_on_demand(hub: Hub, ids: Set[str], origins: Mapping[str, str], before: KnownSet | None) -> KnownSet:
    """The children on demand of a Hub, which has a template.

    ``origins``: of ids that members ask for, or have asked for, the member that was asked first. What ``before`` has is
    kept, so that a round in which few come or go costs little.
    """
    template = hub.spec.on_demand
    assert template is not None
    wanted = before.wanted if before is not None else {}
    former = before.object.spec.on_demand if before is not None and isinstance(before.object, Hub) else None
    if before is not None and former is template:
        digest, text = before.digest, before.workload
    else:
        digest, text = encode_workload(template)
    found: dict[str, DesiredChild] = {}
    if before is not None and former == template and before.digest == digest:
        if wanted.keys() == ids:
            return KnownSet(hub, wanted, digest, text)
        found.update(wanted)
        for child_id in found.keys() - ids:
            del found[child_id]
    model = desired_child(spec_on_demand(template), "", hub.metadata.uid, digest)
    model = msgspec.structs.replace(model, paced=True, on_demand=True)
    for child_id in sorted(ids - found.keys()):
        origin = origins.get(child_id) or (wanted[child_id].origin if child_id in wanted else "")
        found[child_id] = msgspec.structs.replace(model, id=child_id, key=child_key(child_id), origin=origin)
    return KnownSet(hub, found, digest, text)


def shared_ids(sets: Iterable[KnownSet]) -> dict[str, list[KnownSet]]:
    """The ids that several ChildSets ask for, each with these ChildSets."""
    sets = list(sets)
    first: dict[str, KnownSet] = {}
    shared: dict[str, list[KnownSet]] = {}
    for known in sets:
        for child_id in known.wanted.keys() & first.keys():
            shared.setdefault(child_id, [first[child_id]]).append(known)
        first.update(dict.fromkeys(known.wanted.keys() - shared.keys(), known))
    return shared


def refuse_set(known: KnownSet, hub: HubSpec) -> Refusal | None:
    """Why a hub with this spec does not accept the ChildSet, or None."""
    template = known.template
    refusal = _unfit(template) or refuse_child(template, hub) or refuse_size(known.workload)
    return None if refusal is None else of_template(refusal)


def of_template(refusal: Refusal) -> Refusal:
    """The refusal of a Child as that of its ChildSet: the fields of a Child's spec are those of the template."""
    return Refusal(refusal.reason, in_template(refusal.message))


def in_template(message: str) -> str:
    """A sentence about a Child's spec as one about a ChildSet's template."""
    return _TEMPLATE_FIELDS.sub(r"spec.template.\1", message)


def _unfit(template: ChildSpec) -> Refusal | None:
    """Why the template has fields that only a Child may have, or None. The children of a ChildSet have no lifetimes."""
    for field, value in (("ttlSeconds", template.ttl_seconds), ("idleSeconds", template.idle_seconds)):
        if value is not None:
            return invalid(
                f"spec.{field}: the children of a ChildSet stay as long as it asks for them; leave it out, or create "
                "a Child for each that shall end by itself"
            )
    return None


def _expanded(item: ChildSet, digest: str, before: Mapping[str, DesiredChild]) -> dict[str, DesiredChild]:
    spec = item.spec.template
    model = msgspec.structs.replace(desired_child(spec, "", item.metadata.uid, digest), paced=True)
    replace = msgspec.structs.replace
    return {
        child_id: before.get(child_id) or replace(model, id=child_id, key=child_key(child_id)) for child_id in item.ids
    }
