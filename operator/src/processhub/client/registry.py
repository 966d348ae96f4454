"""The registry on the client's side: slices in, look-ups out.

Look-ups read plain dicts of prepared values. A changed slice costs work only for the entries whose text
changed; the others keep what was parsed before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from processhub.api.child import Workload
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice
from processhub.client.records import Node, Processes, Record, SliceCopy, Spec, node_of, record_of, spec_of
from processhub.registry.grammar import EntryError, parse_assignment, parse_report

log = logging.getLogger(__name__)
T = TypeVar("T")
Listener = Callable[[set[str]], None]

_workload_decoder = msgspec.json.Decoder(Workload)


class _Shelf(msgspec.Struct):
    """A slice as it was last seen, with its workloads decoded as far as they were needed."""

    assignments: Mapping[str, str]
    reports: Mapping[str, str]
    texts: Mapping[str, str]
    workloads: dict[str, Workload]


class Registry:
    """All children of one hub, by id. ``records``, ``lookups`` and ``pids`` are for reading only and never replaced.

    Fed from one thread; look-ups may come from any.
    """

    def __init__(self, hub: str, hub_uid: str) -> None:
        self.hub, self.hub_uid = hub, hub_uid
        self.records: dict[str, Record] = {}
        self.lookups: dict[str, tuple[Spec, Processes]] = {}
        self.pids: dict[str, int] = {}  # of the active copies
        self._copies: dict[str, tuple[SliceCopy, ...]] = {}
        self._tagged: dict[str, set[str]] = {}
        self._shelves: dict[str, _Shelf] = {}
        self._listeners: list[Listener] = []

    # feeding

    def put(self, item: RegistrySlice) -> None:
        """Take a slice as it is now. One of another hub, or of an earlier hub of this name, counts as absent."""
        name, spec = item.metadata.name, item.spec
        if spec.hub_uid != self.hub_uid or spec.hub != self.hub:
            self.drop(name)
            return
        before = self._shelves.get(name) or _Shelf({}, {}, {}, {})
        changed = _differing(before.assignments, spec.entries) | _differing(before.reports, item.status.entries)
        decoded = {
            key: workload
            for key, workload in before.workloads.items()
            if spec.workloads.get(key) == before.texts.get(key)
        }
        shelf = self._shelves[name] = _Shelf(spec.entries, item.status.entries, spec.workloads, decoded)
        for child_id in changed:
            self._set(child_id, name, self._copy(child_id, item, before, shelf))
        self._tell(changed)

    def drop(self, name: str) -> None:
        """Forget a slice that was deleted."""
        shelf = self._shelves.pop(name, None)
        if shelf is None:
            return
        changed = shelf.assignments.keys() | shelf.reports.keys()
        for child_id in changed:
            self._set(child_id, name, None)
        self._tell(changed)

    def reset(self, hub_uid: str) -> None:
        """Forget everything: the hub was created anew under this uid."""
        for name in list(self._shelves):
            self.drop(name)
        self.hub_uid = hub_uid

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with the ids that a slice changed, each time; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # asking

    def holds(self, child_id: str, uid: str) -> bool:
        """Whether any slice, in spec or status, still names this incarnation of the id."""
        return any(copy.concerns(uid) for copy in self._copies.get(child_id, ()))

    def tagged(self, tag: str) -> Iterable[str]:
        """The ids on record that carry the tag."""
        return tuple(self._tagged.get(tag, ()))

    def ending(self) -> Iterator[tuple[str, Node]]:
        """Copies that are off record and still have to end."""
        for child_id, copies in tuple(self._copies.items()):
            for copy in copies:
                if copy.entry is None:
                    yield child_id, node_of(copy)

    def on_member(self, member: str) -> Iterator[str]:
        """The ids of which something is on the member: on record to run there, or not yet seen to have ended."""
        for child_id, copies in tuple(self._copies.items()):
            for copy in copies:
                ordered = copy.entry is not None and not copy.entry.wait
                if copy.member == member and (ordered or _has_process(copy)):
                    yield child_id

    # inside

    def _copy(self, child_id: str, item: RegistrySlice, before: _Shelf, shelf: _Shelf) -> SliceCopy | None:
        """What the slice says of the id now; what its text did not change is kept as it was parsed."""
        name = item.metadata.name
        ordered, reported = shelf.assignments.get(child_id), shelf.reports.get(child_id)
        known = next((copy for copy in self._copies.get(child_id, ()) if copy.slice == name), None)
        if known is not None and before.assignments.get(child_id) == ordered:
            entry, spec = known.entry, known.spec
        else:
            entry = _parsed(parse_assignment, ordered, name, child_id)
            spec = None
            if entry is not None:
                spec = spec_of(self.hub, child_id, entry, _workload(shelf, entry.workload))
        if known is not None and before.reports.get(child_id) == reported:
            report = known.report
        else:
            report = _parsed(parse_report, reported, name, child_id)
        if entry is None and report is None:
            return None
        return SliceCopy(item.spec.member, entry, report, name, spec)

    def _set(self, child_id: str, slice_name: str, copy: SliceCopy | None) -> None:
        others = tuple(known for known in self._copies.get(child_id, ()) if known.slice != slice_name)
        # In the order of slices, not of arrival: what is shown does not depend on who spoke last.
        copies = others if copy is None else tuple(sorted((*others, copy), key=lambda known: known.slice))
        if copies:
            self._copies[child_id] = copies
        else:
            self._copies.pop(child_id, None)
        self._index(child_id, self.records.get(child_id), record_of(copies))

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


def _has_process(copy: SliceCopy) -> bool:
    return copy.report is not None and copy.report.state not in (State.PENDING, State.STOPPED, State.FAILED)


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """The ids whose text is not the same in both."""
    if old == new:
        return set()
    known = old.get
    return {child_id for child_id, text in new.items() if known(child_id) != text} | (old.keys() - new.keys())


def _parsed(parse: Callable[[str], T], text: str | None, slice_name: str, child_id: str) -> T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except EntryError as error:
        log.warning("slice %s, child %s: %s; ignored", slice_name, child_id, error)
        return None


def _workload(shelf: _Shelf, key: str) -> Workload:
    known = shelf.workloads.get(key)
    if known is None:
        try:
            known = _workload_decoder.decode(shelf.texts.get(key, "{}"))
        except msgspec.DecodeError as error:
            log.warning("workload %s can't be read: %s", key, error)
            known = Workload()
        shelf.workloads[key] = known
    return known
