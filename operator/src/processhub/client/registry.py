"""The registry on the client's side: it takes slices and answers look-ups.

Look-ups read plain dicts of prepared values. When a slice changes, only entries whose text changed are parsed again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from processhub.api.child import Workload
from processhub.api.slice import Activation, RegistrySlice
from processhub.api.wording import wrong_json
from processhub.client.records import Node, Processes, Record, SliceCopy, Spec, node_of, record_of, spec_of
from processhub.registry.copies import HAS_PROCESS, joined, of_a_child
from processhub.registry.grammar import Assignment, EntryError, Report, parse_assignment
from processhub.registry.slices import SliceView

log = logging.getLogger(__name__)
Listener = Callable[[set[str]], None]

_workload_decoder = msgspec.json.Decoder(Workload)


class _ParsedSlice(msgspec.Struct):
    """A slice as last seen. Its workloads are decoded when they are needed.

    ``first``: it says what its member may start by itself, or what that asks for, as only slice 0 does.
    """

    member: str
    view: SliceView
    texts: Mapping[str, str] = {}
    workloads: dict[str, Workload] = {}
    first: bool = False


class Registry:
    """All children of one hub, by id. ``records``, ``lookups`` and ``pids`` may only be read, and are never replaced.

    ``activations``: what each member may start by itself. ``asks``: the ids that requests wait for at each member.

    One thread feeds the registry. Look-ups may come from any thread.
    """

    def __init__(self, hub: str, hub_uid: str) -> None:
        self.hub, self.hub_uid = hub, hub_uid
        self.records: dict[str, Record] = {}
        self.lookups: dict[str, tuple[Spec, Processes]] = {}
        self.pids: dict[str, int] = {}  # pids of the active copies
        self.activations: dict[str, Activation] = {}
        self.asks: dict[str, tuple[str, ...]] = {}
        self._copies: dict[str, tuple[SliceCopy, ...]] = {}
        self._tagged: dict[str, set[str]] = {}
        self._slices: dict[str, _ParsedSlice] = {}
        self._listeners: list[Listener] = []

    # Changes.

    def put(self, item: RegistrySlice) -> None:
        """Take a slice as it is now. A slice of another hub, or of an earlier hub of this name, counts as absent."""
        name, spec = item.metadata.name, item.spec
        if spec.hub_uid != self.hub_uid or spec.hub != self.hub:
            self.drop(name)
            return
        parsed = self._slices.setdefault(name, _ParsedSlice(spec.member, SliceView()))
        change = parsed.view.update(item)
        for child_id, error in change.unreadable:
            log.warning("slice %s, child %s: %s; ignored", name, child_id, error)
        texts, before = spec.workloads, parsed.texts
        parsed.workloads = {
            key: workload for key, workload in parsed.workloads.items() if texts.get(key) == before.get(key)
        }
        parsed.texts = texts
        if spec.order is not None:
            self.activations[spec.member] = spec.order
        elif parsed.first:
            self.activations.pop(spec.member, None)
        if asks := item.status.asks:
            self.asks[spec.member] = asks
        elif parsed.first:
            self.asks.pop(spec.member, None)
        parsed.first = spec.order is not None or bool(asks)
        changed = change.entries | change.reports
        for child_id in changed:
            self._set(child_id, name, self._copy(child_id, item, parsed))
        self._tell(changed)

    def drop(self, name: str) -> None:
        """Remove a slice that was deleted."""
        parsed = self._slices.pop(name, None)
        if parsed is None:
            return
        if parsed.first:
            self.activations.pop(parsed.member, None)
            self.asks.pop(parsed.member, None)
        changed = parsed.view.ids
        for child_id in changed:
            self._set(child_id, name, None)
        self._tell(changed)

    def reset(self, hub_uid: str) -> None:
        """Remove everything: the hub was re-created with this uid."""
        for name in list(self._slices):
            self.drop(name)
        self.hub_uid = hub_uid

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with the changed ids at each change of a slice; returns a function that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # Look-ups.

    def holds(self, child_id: str, uid: str) -> bool:
        """Whether any slice, in spec or status, still names the child with this uid."""
        return any(copy.concerns(uid) for copy in self._copies.get(child_id, ()))

    def holds_run(self, child_id: str, uid: str, epoch: int) -> bool:
        """Whether any slice still names this run of the child, or an earlier one."""
        return any(
            known.uid == uid and known.epoch <= epoch
            for copy in self._copies.get(child_id, ())
            for known in (copy.entry, copy.report)
            if known is not None
        )

    def tagged(self, tag: str) -> Iterable[str]:
        """The ids on record that have the tag."""
        return tuple(self._tagged.get(tag, ()))

    def ending(self) -> Iterator[tuple[str, Node]]:
        """The copies that are off record and have not ended yet."""
        for child_id, copies in tuple(self._copies.items()):
            record = self.records.get(child_id)
            for copy in joined(copies):
                if copy.entry is None and not (copy.self_started and record is not None and not record.on_record):
                    yield child_id, node_of(copy)

    def on_member(self, member: str) -> Iterator[str]:
        """The ids that are on record to run on the member, or whose end there has not been seen."""
        for child_id, copies in tuple(self._copies.items()):
            for copy in copies:
                ordered = copy.self_started or (copy.entry is not None and not copy.entry.wait)
                has_process = copy.report is not None and copy.report.state in HAS_PROCESS
                if copy.member == member and (ordered or has_process):
                    yield child_id

    # Internal.

    def _copy(self, child_id: str, item: RegistrySlice, parsed: _ParsedSlice) -> SliceCopy | None:
        """The copy of the id in this slice. Its spec is made again if the entry changed."""
        name, view = item.metadata.name, parsed.view
        entry, report = of_a_child(view.entries.get(child_id)), of_a_child(view.reports.get(child_id))
        if entry is None and report is None:
            return None
        known = next((copy for copy in self._copies.get(child_id, ()) if copy.slice == name), None)
        spec = None
        if entry is not None:
            if known is not None and known.entry is entry:
                spec = known.spec
            else:
                spec = spec_of(self.hub, child_id, entry, _workload(parsed, entry.workload))
        elif report is not None and report.view:
            if known is not None and known.entry is None and known.report == report:
                spec = known.spec
            else:
                spec = self._spec_by_view(child_id, item, report)
        return SliceCopy(item.spec.member, entry, report, name, spec)

    def _spec_by_view(self, child_id: str, item: RegistrySlice, report: Report) -> Spec:
        """The spec of a child that the member has started by itself: of its view, as far as slice 0 still has that."""
        order, entry, workload = item.spec.order, Assignment(uid="", epoch=0, workload=""), Workload()
        if order is not None and order.view == report.view:
            with contextlib.suppress(EntryError, msgspec.DecodeError):
                entry, workload = parse_assignment(order.entry), _workload_decoder.decode(order.workload)
        return spec_of(self.hub, child_id, entry, workload)

    def _set(self, child_id: str, slice_name: str, copy: SliceCopy | None) -> None:
        others = tuple(known for known in self._copies.get(child_id, ()) if known.slice != slice_name)
        # Ordered by slice and not by arrival, so that the result does not depend on which slice changed last.
        copies = others if copy is None else tuple(sorted((*others, copy), key=lambda known: known.slice))
        if copies:
            self._copies[child_id] = copies
        else:
            self._copies.pop(child_id, None)
        self._index(child_id, self.records.get(child_id), record_of(joined(copies)))

    def _index(self, child_id: str, before: Record | None, record: Record | None) -> None:
        old_tags = before.spec.tags if before else ()
        new_tags = record.spec.tags if record else ()
        if old_tags != new_tags:
            for tag in old_tags:
                ids = self._tagged.get(tag, set())
                ids.discard(child_id)
                if not ids:
                    self._tagged.pop(tag, None)
            for tag in new_tags:
                self._tagged.setdefault(tag, set()).add(child_id)
        if record is None:
            self.records.pop(child_id, None)
            self.lookups.pop(child_id, None)
            self.pids.pop(child_id, None)
            return
        self.records[child_id] = record
        self.lookups[child_id] = (record.spec, record.processes)
        if record.pid is None:
            self.pids.pop(child_id, None)
        else:
            self.pids[child_id] = record.pid

    def _tell(self, changed: set[str]) -> None:
        if changed:
            for listener in tuple(self._listeners):
                listener(changed)


def _workload(parsed: _ParsedSlice, key: str) -> Workload:
    known = parsed.workloads.get(key)
    if known is None:
        text = parsed.texts.get(key, "{}")
        try:
            known = _workload_decoder.decode(text)
        except msgspec.DecodeError as error:
            log.warning("workload %s can't be read: %s", key, wrong_json(error, text, Workload))
            known = Workload()
        parsed.workloads[key] = known
    return known
