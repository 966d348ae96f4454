"""Writes of slices: of whole objects, conditional and rate-limited. It is noted which removals are not proven.

A write without an answer may have been stored, or may be stored later. Until the slice is read at a later generation,
the ids that the write changed are uncertain, and the planner leaves them alone. The next write of the slice raises
``spec.attempt``. So it always makes a new generation, and no earlier write can be stored after it (docs/protocol.md,
rules 5 to 7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from processhub.api.naming import ANNOTATION_JOINING, ANNOTATION_SETTLED
from processhub.api.reasons import RestartPolicy, Role
from processhub.api.slice import FORMAT, Activation, RegistrySlice, SliceSpec, SliceTls
from processhub.cluster.client import JSON_PATCH
from processhub.cluster.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ConnectionFailedError,
    InvalidError,
    NotFoundError,
)
from processhub.cluster.kinds import SLICES
from processhub.controller.concurrency import gather_all
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.objects.registry import new_slice, slice_settings
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.controller.store.slices import Creation, KnownSlice, unchanged
from processhub.core.model.membership import Phase
from processhub.core.planning.packing import SliceContent, measured, pack
from processhub.registry.grammar import Assignment, uid_and_role, waits

_NO_ORDERS: Mapping[str, Activation] = {}
_RETRY_SECONDS = 0.1  # After a write that failed or whose outcome is unknown.
log = logging.getLogger(__name__)


class SliceWriter:
    """Writes the slices of one hub in one round. If a write is delayed or fails, another round is asked for."""

    def __init__(
        self,
        round: Round,
        memory: ExecuteMemory,
        *,
        fingerprint: str,
        partitioned: bool,
        tls: Callable[[Member], SliceTls] = lambda _: SliceTls(),
        orders: Mapping[str, Activation] = _NO_ORDERS,
    ) -> None:
        """Write ``fingerprint`` to members that have their share, ``partitioned`` to all slices, ``tls`` to slice 0.

        ``orders``: what slice 0 of members is to say about views, where that changes.
        """
        self._orders = orders
        self._round, self._memory, self._tls = round, memory, tls
        self._fingerprint, self._partitioned = fingerprint, partitioned
        self._client, self._store, self._hub = round.client, round.store, round.hub
        self._state, self._term = round.state, round.term

    async def write(
        self, member: Member, changes: Mapping[str, Assignment | None], workloads: Mapping[str, str], joining: bool
    ) -> None:
        """Write the member's slices where entries or settings differ, and create those that must exist.

        Raises ApiError if a write was refused or not answered, after all have been tried.
        """
        contents = [_content(known) for known in member.slices]
        # The status of slice 0 has what the member starts by itself, and the ids that it asks for.
        first = 0 if self._hub.spec.on_demand is None else 1
        changed = {content.index: content for content in pack(contents, changes, workloads, first=first)}
        by_index = {known.index: known for known in member.slices}
        for index in self.required(member) - by_index.keys():
            changed.setdefault(index, SliceContent(index, {}, {}))
        grant = self._grant(member)
        writes = []
        for index in sorted(changed.keys() | by_index.keys()):
            known, content = by_index.get(index), changed.get(index)
            if known is None:
                assert content is not None
                writes.append(self._create(member, content, grant, joining))
                continue
            spec = self._spec(known, content, grant)
            if index == 0:
                spec = msgspec.structs.replace(spec, tls=self._tls(member))
            annotations = self._annotations(known, joining)
            if spec != known.present.spec or annotations != known.present.metadata.annotations:
                as_read = self._last_status_counts(known, spec, gone=member.phase is Phase.GONE)
                writes.append(self._replace(known, known.present, spec, annotations, as_read=as_read))
        await gather_all(*writes)

    def required(self, member: Member) -> set[int]:
        """The numbers of the slices that the member must have, even without entries.

        A slice whose creation was not answered is created again. This settles whether the first creation can still be
        stored.
        """
        required = {
            creation.index for creation in self._state.slices.creating.values() if creation.member == member.name
        }
        return required | {0} if member.needs_slice else required

    def with_stale_term(self) -> list[KnownSlice]:
        """The slices that a deposed leader created after this one took over.

        Nothing was started from them (docs/protocol.md, rule 2).
        """
        return [known for known in self._state.slices.values() if known.is_stale(self._term)]

    async def clear_stale_term(self, known: KnownSlice) -> None:
        """Empty a slice that a deposed leader created late. Raises ApiError."""
        spec = msgspec.structs.replace(known.present.spec, term=self._term, entries={}, workloads={})
        await self._replace(known, known.present, spec, known.present.metadata.annotations)

    async def write_tls(self, member: Member) -> None:
        """Write slice 0 where its TLS differs, and nothing else of it. Raises ApiError."""
        known = member.slices[0]
        spec = msgspec.structs.replace(known.present.spec, tls=self._tls(member))
        if spec != known.present.spec:
            await self._replace(known, known.present, spec, known.present.metadata.annotations)

    def _last_status_counts(self, known: KnownSlice, spec: SliceSpec, *, gone: bool) -> bool:
        """Whether an entry is removed of a child whose next start depends on the last status of its member.

        One with a state may have been up with it: else the former member starts it with that again (docs/protocol.md,
        rule 21). One that its restart policy may leave stopped may have ended (docs/protocol.md, rule 34).
        """
        for child_id in known.assignments.keys() - spec.entries.keys():
            entry = known.assignments[child_id]
            if gone and entry.state:
                return True
            if entry.restart_policy != RestartPolicy.PERMANENT and (gone or self._is_moved(child_id, known)):
                return True
        return False

    def _is_moved(self, child_id: str, source: KnownSlice) -> bool:
        """Whether another slice has an entry of the child."""
        return any(child_id in known.assignments for known in self._state.slices.values() if known is not source)

    def _annotations(self, known: KnownSlice, joining: bool) -> dict[str, str]:
        """The slice's annotations. Slice 0 has whether its member is joining, or the fingerprint of its share."""
        annotations = dict(known.present.metadata.annotations)
        annotations.pop(ANNOTATION_JOINING, None)
        if known.index == 0 and joining:
            annotations[ANNOTATION_JOINING] = "true"
        elif known.index == 0:
            annotations[ANNOTATION_SETTLED] = self._fingerprint
        return annotations

    def _grant(self, member: Member) -> str | None:
        """The holder for whom the entries are: "" for any holder (Hold), else the present one; None changes nothing."""
        if self._hub.spec.migration.holds:
            return ""
        # A new holder that acknowledges the grant to an earlier one reports by that what it runs; so the grant stays.
        return None if member.answers_as_new else member.holder or None

    def _spec(self, known: KnownSlice, content: SliceContent | None, grant: str | None) -> SliceSpec:
        present = known.present
        # The end of children of a deleted slice is proven by the member's answer to a write of slice 0.
        renewed = bool(known.uncertain) or (known.index == 0 and present.spec.member in self._state.slices.unaccounted)
        spec = msgspec.structs.replace(
            present.spec,
            term=self._term,
            format=FORMAT,
            attempt=present.spec.attempt + renewed,
            settings=slice_settings(self._hub, partitioned=self._partitioned),
            holder=present.spec.holder if grant is None else grant,
        )
        if known.index == 0 and (order := self._orders.get(present.spec.member)) is not None:
            spec = msgspec.structs.replace(spec, activation=order)
        if content is not None:
            spec = msgspec.structs.replace(spec, workloads=dict(content.workloads), entries=dict(content.entries))
        return spec

    async def _create(self, member: Member, content: SliceContent, grant: str | None, joining: bool) -> None:
        annotations: dict[str, str] = {}
        if content.index == 0:
            annotations = {ANNOTATION_JOINING: "true"} if joining else {ANNOTATION_SETTLED: self._fingerprint}
        item = new_slice(
            *(self._hub, member.name, content.index, self._term, annotations),
            holder=grant or "",
            partitioned=self._partitioned,
        )
        spec = msgspec.structs.replace(item.spec, workloads=dict(content.workloads), entries=dict(content.entries))
        if content.index == 0:
            spec = msgspec.structs.replace(spec, tls=self._tls(member))
        item = msgspec.structs.replace(item, spec=spec)
        name, unaccounted = item.metadata.name, self._unaccounted(member.name, content.index)
        before = self._state.slices.creating.get(name)
        ids = frozenset(content.entries) | (before.ids if before is not None else frozenset())
        self._state.slices.creating[name] = Creation(member.name, content.index, ids)
        try:
            stored = await self._client.create(SLICES, self._hub.metadata.namespace, item)
        except AlreadyExistsError as error:
            log.info("slice %s: %s; reading it", name, error.message)
            await self._read(name)
            if name in self._state.slices.older:
                self._not_created(name, before)
                raise  # A slice of an earlier hub has the name, and may never be deleted.
            self._round.again_in(_RETRY_SECONDS)
            return
        except ApiError as error:
            self._round.again_in(_RETRY_SECONDS)
            if error.outcome_unknown:
                self._memory.unconfirmed_slices.add(name)
            else:
                self._not_created(name, before)
            raise
        self._store.put("registryslices", stored)
        self._await_proof(name, unaccounted, stored)

    def _not_created(self, name: str, before: Creation | None) -> None:
        """Note that this creation was refused. An earlier one without an answer may still be stored."""
        if before is None:
            del self._state.slices.creating[name]
        else:
            self._state.slices.creating[name] = before

    def _unaccounted(self, member: str, index: int) -> frozenset[str]:
        """The ids of the member's deleted slices whose end a write of this slice is to prove."""
        return frozenset(self._state.slices.unaccounted.get(member, ())) if index == 0 else frozenset()

    def _await_proof(self, name: str, unaccounted: frozenset[str], stored: RegistrySlice) -> None:
        """Note that an acknowledgement of this write proves the end of the deleted slices' ids that it does not report.

        Agents watch all slices in one order. They see this write after the deletion, and from then on the status of
        slice 0 lists what is left of a deleted slice (docs/protocol.md, rule 7).
        """
        if not unaccounted or (known := self._state.slices.get(name)) is None:
            return
        known.unproven.update(dict.fromkeys(unaccounted, stored.metadata.generation))
        left = self._state.slices.unaccounted.get(stored.spec.member, set()) - unaccounted
        if left:
            self._state.slices.unaccounted[stored.spec.member] = left
        else:
            self._state.slices.unaccounted.pop(stored.spec.member, None)

    async def _replace(
        self,
        known: KnownSlice,
        present: RegistrySlice,
        spec: SliceSpec,
        annotations: Mapping[str, str],
        *,
        as_read: bool = False,
    ) -> None:
        """Write ``spec``, which was derived from ``present``. A later change of the slice's spec is not overwritten.

        ``as_read``: nothing is written over a later status either.
        """
        name = present.metadata.name
        now = self._round.now()
        bucket = self._memory.slice_buckets.of(name, now)
        if not bucket.take(now):
            self._round.again_in(bucket.wait(now))
            return
        # Noted before the write, because an unknown outcome must count as an unproven removal.
        removed = _removed(known, spec)
        # Only a new generation proves anything, because the present one may be acknowledged already.
        renewed = spec.attempt > present.spec.attempt
        unaccounted = self._unaccounted(present.spec.member, known.index) if renewed else frozenset()
        former = {child_id: known.unproven[child_id] for child_id in removed if child_id in known.unproven}
        known.unproven.update(dict.fromkeys(removed))
        unconfirmed = dict.fromkeys(_changed(present.spec, spec) - known.uncertain.keys(), present.metadata.generation)
        known.uncertain.update(unconfirmed)
        try:
            stored = await self._send(present, spec, annotations, as_read=as_read)
        except ApiError as error:
            self._round.again_in(_RETRY_SECONDS)  # If nothing was written, no event wakes the hub.
            if not error.outcome_unknown:
                for child_id in unconfirmed:
                    known.uncertain.pop(child_id, None)
                _restore_unproven(known, removed, former)
            if not isinstance(error, ConflictError | NotFoundError | ConnectionFailedError):
                raise
            log.warning("slice %s not written, reading it: %s", name, error.message)
            await self._read(name)
            if isinstance(error, ConnectionFailedError):
                raise
            return
        for child_id in removed:
            known.unproven[child_id] = stored.metadata.generation
        self._store.put("registryslices", stored)
        self._await_proof(name, unaccounted, stored)

    async def _send(
        self, present: RegistrySlice, spec: SliceSpec, annotations: Mapping[str, str], *, as_read: bool
    ) -> RegistrySlice:
        """Write the whole object, and after a conflict, unless ``as_read``, only the spec. Raises ApiError."""
        metadata = msgspec.structs.replace(present.metadata, annotations=dict(annotations))
        # Without the status, of which the API server takes its own, and without the owners of fields from now on: they
        # serve server-side apply, and to work them out is a quarter of what a write costs the API server.
        body = {
            "apiVersion": present.api_version,
            "kind": present.kind,
            "metadata": {**msgspec.to_builtins(metadata), "managedFields": [{}]},
            "spec": spec,
        }
        try:
            return await self._client.replace(SLICES, metadata.namespace, metadata.name, body)
        except ConflictError as conflict:
            if as_read:
                raise
            try:
                return await self._patch(present, spec, annotations)
            except InvalidError:  # A failed test gets this answer too. An invalid spec fails again in the next PUT.
                raise conflict from None

    async def _patch(self, present: RegistrySlice, spec: SliceSpec, annotations: Mapping[str, str]) -> RegistrySlice:
        """Write the spec after a conflict with a status: conditional on the generation, which only spec raises."""
        metadata = present.metadata
        return await self._client.patch(
            SLICES,
            *metadata.key,
            [
                {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
                {"op": "test", "path": "/metadata/generation", "value": metadata.generation},
                {"op": "replace", "path": "/spec", "value": spec},
                {"op": "add", "path": "/metadata/annotations", "value": dict(annotations)},
            ],
            content_type=JSON_PATCH,
        )

    async def _read(self, name: str) -> None:
        """Read the slice into the store after a write that failed or whose outcome is unknown."""
        try:
            self._store.put("registryslices", await self._client.get(SLICES, self._hub.metadata.namespace, name))
        except NotFoundError:
            log.info("slice %s is gone", name)


def _content(known: KnownSlice) -> SliceContent:
    spec = known.present.spec
    measure = known.derived("measure", None, partial(measured, spec.entries), unchanged)
    return SliceContent(known.index, spec.workloads, spec.entries, known.ending, measure)


def _changed(before: SliceSpec, after: SliceSpec) -> set[str]:
    """The ids whose entry is new, removed or changed; "" if what the slice says about views is."""
    ids = before.entries.keys() | after.entries.keys()
    views = {""} if before.activation != after.activation else set()
    return views | {child_id for child_id in ids if before.entries.get(child_id) != after.entries.get(child_id)}


def _restore_unproven(known: KnownSlice, removed: Iterable[str], former: Mapping[str, int | None]) -> None:
    """Forget what a refused write would have removed. ``former``: what was unproven before it.

    Nothing has changed, so no later version of the slice would prove these ends. A removal by an earlier write that was
    seen meanwhile has its generation by now.
    """
    for child_id in removed:
        if known.unproven.get(child_id, 0) is not None:
            continue
        if child_id in former:
            known.unproven[child_id] = former[child_id]
        else:
            del known.unproven[child_id]


def _removed(known: KnownSlice, spec: SliceSpec) -> list[str]:
    """The ids whose entry is removed, gets another uid, loses the active role, or begins to wait."""
    gone = []
    for child_id, entry in known.assignments.items():
        text = spec.entries.get(child_id)
        if text is None:
            gone.append(child_id)
            continue
        uid, role = uid_and_role(text)
        steps_back = entry.role == Role.ACTIVE and role != Role.ACTIVE
        if uid != entry.uid or steps_back or (waits(text) and not entry.wait):
            gone.append(child_id)
    return gone
