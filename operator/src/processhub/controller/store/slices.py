"""The slices of one hub, parsed once when they change, and what is not yet proven of removed entries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Generic, TypeVar

import msgspec

from processhub.api.reasons import Role
from processhub.api.slice import RegistrySlice
from processhub.registry.copies import has_ended
from processhub.registry.grammar import Report
from processhub.registry.slices import SliceView

log = logging.getLogger(__name__)
T = TypeVar("T")


class Creation(msgspec.Struct, frozen=True):
    """A slice that may exist, because its creation was not answered: its member, number, and the ids of its entries."""

    member: str
    index: int
    ids: frozenset[str]


class _Derived(Generic[T]):
    """A value that follows from a slice and from ``of``. ``behind``: the ids whose reports it does not have yet."""

    def __init__(self, of: object, value: T) -> None:
        self.of, self.value = of, value
        self.behind: set[str] = set()


def unchanged(value: T, _: Set[str]) -> T:
    """The value that follows from the spec of a slice alone, after reports have changed."""
    return value


class KnownSlice:
    """A slice with its entries parsed. Only texts that changed are parsed again.

    - ``index``: the slice's number, the last part of its name.
    - ``unproven``: id → the generation that removed its entry, took the active role from it, or made it wait. None
      while the outcome of that write is unknown.
    - ``uncertain``: id → the generation on which a write changed its entry, while the outcome of the write is unknown.
      It is dropped with the next generation: the write is in that one, or can no longer be stored.
    - ``asked``: the ids whose entry a hook changed.
    - ``leaving``: the ids whose entry orders a handover.
    - ``claims``: the ids that the member runs although they are on record at another.
    - ``by_view``: the ids that the member reports to have started by itself.
    - ``ended``: the ids that the member reports not to start again.
    """

    def __init__(self) -> None:
        self.object: RegistrySlice | None = None
        self.index = 0
        self._view = SliceView()
        self.assignments, self.reports = self._view.entries, self._view.reports
        self.unproven: dict[str, int | None] = {}
        self.uncertain: dict[str, int] = {}
        self.asked: set[str] = set()
        self.leaving: set[str] = set()
        self.claims: set[str] = set()
        self.by_view: set[str] = set()
        self.ended: set[str] = set()
        self._reported_only: set[str] = set()  # ids in the status that are not in the spec
        self._derived: dict[str, _Derived[Any]] = {}

    @property
    def present(self) -> RegistrySlice:
        """The object. There must be one."""
        assert self.object is not None
        return self.object

    def is_stale(self, term: int) -> bool:
        """Whether a leader that this one, of this term, has deposed created the slice: nothing was started from it."""
        return self.present.spec.term < term

    @property
    def ending(self) -> set[str]:
        """The ids that are no longer on record here, and may still run."""
        if not self.unproven:
            return self._reported_only
        return self._reported_only.union(self.unproven.keys() - self.present.spec.entries.keys())

    def derived(
        self, name: str, of: object, compute: Callable[[], T], follow: Callable[[T, Set[str]], T] | None = None
    ) -> T:
        """A value that follows from the spec and the reports of this slice, and from ``of``.

        It is computed again when one of them has changed, so that one changed child costs no look at all others. Where
        nothing but reports have changed, ``follow(value, ids)`` makes it anew from the value before, so that one costs
        no look at the others of its slice either.
        """
        known: _Derived[T] | None = self._derived.get(name)
        if known is None or known.of != of or (known.behind and follow is None):
            known = self._derived[name] = _Derived(of, compute())
        elif known.behind and follow is not None:
            known.value, known.behind = follow(known.value, known.behind), set()
        return known.value

    def other(self, reports: Mapping[str, Report]) -> Mapping[str, Report] | None:
        """The reports that count for the entries of this slice, None if they are those in the slice itself.

        What follows from the slice and from them is derived ``of`` this.
        """
        return None if reports is self.reports else reports

    def acknowledged_by(self, holder: str) -> bool:
        """Whether this Lease holder has acknowledged the present generation."""
        status = self.present.status
        return status.holder == holder and status.observed_generation >= self.present.metadata.generation

    def update(self, new: RegistrySlice) -> set[str]:
        """Take a newer object; returns the ids whose entry or report changed: all if it has another reporter.

        A report counts if it is of the Lease's holder, so one with the same text says something new then.
        """
        change, before = self._view.update(new), self.object
        for child_id, error in change.unreadable:
            log.error("slice %s, entry %s: %s", new.metadata.name, child_id, error)
        changed, reported = change.entries, change.reports
        self.asked -= changed
        self.asked |= {child_id for child_id in changed & self.assignments.keys() if self.assignments[child_id].asked}
        self.leaving -= changed
        self.leaving |= {child_id for child_id in changed & self.assignments.keys() if self.assignments[child_id].to}
        self.claims -= reported
        self.claims |= {child_id for child_id in reported & self.reports.keys() if self.reports[child_id].claim}
        self.by_view -= reported
        self.by_view |= {child_id for child_id in reported & self.reports.keys() if self.reports[child_id].view}
        self.ended -= reported
        self.ended |= {child_id for child_id in reported & self.reports.keys() if has_ended(self.reports[child_id])}
        if self.object is None:
            tail = new.metadata.name.rpartition(".")[2]
            self.index = int(tail) if tail.isdigit() else 0
        if self.object is None or self.object.spec != new.spec:
            self._derived.clear()
        for derived in self._derived.values():
            derived.behind |= reported
        self.object = new
        self._reported_only = new.status.reports.keys() - new.spec.entries.keys()
        for child_id, generation in list(self.unproven.items()):
            if generation is None and (child_id not in new.spec.entries or self._is_quiet(child_id)):
                self.unproven[child_id] = new.metadata.generation
        if self.uncertain:
            written = new.metadata.generation
            self.uncertain = {child_id: on for child_id, on in self.uncertain.items() if on >= written}
        if before is not None and before.status.holder != new.status.holder:
            return changed | self.assignments.keys() | self.reports.keys() | reported
        return changed | reported

    def prove(self, holder: str) -> None:
        """Forget the removals that the member has acknowledged. From then on its reports say what has not ended.

        ``holder``: the holder of the member's Lease (docs/protocol.md, rule 7).
        """
        status = self.present.status
        if self.unproven and status.holder == holder:
            observed = status.observed_generation
            self.unproven = {
                child_id: generation
                for child_id, generation in self.unproven.items()
                if generation is None or generation > observed
            }

    def _is_quiet(self, child_id: str) -> bool:
        """Whether the entry on record is no order to be active."""
        entry = self.assignments.get(child_id)
        return entry is not None and (entry.role == Role.PASSIVE or entry.wait)

    def possibly_running(self, holder: str) -> set[str]:
        """The ids that may run on the member, or be active there, without an entry of this slice that says so.

        These are the ids that this leader has noted until the member acknowledged that, and those that the member
        reports. A leader that came after the write has only the reports.
        """
        ids = self.unproven.keys() | self.uncertain.keys()
        if self.present.status.holder == holder:
            ids |= self.derived("reported beside", None, self._reported_beside)
        return ids

    def _reported_beside(self) -> set[str]:
        """The ids whose report can't be read, or is of a run that no entry of this slice orders so."""
        ids = self.present.status.reports.keys() - self.reports.keys()
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


class Slices(dict[str, KnownSlice]):
    """The slices of one hub, by object name.

    - ``older``: those of an earlier Hub of its name.
    - ``unaccounted``: member → the ids of slices that were deleted. They may run there.
    - ``lost``: the members of such slices, until the view that is open begins to close.
    - ``creating``: name → contents of a slice whose creation was not answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.older: dict[str, RegistrySlice] = {}
        self.unaccounted: dict[str, set[str]] = {}
        self.lost: set[str] = set()
        self.creating: dict[str, Creation] = {}

    def put(self, item: RegistrySlice) -> set[str]:
        """Take a new or changed slice; returns the ids whose entry or report changed."""
        self.creating.pop(item.metadata.name, None)
        known = self.setdefault(item.metadata.name, KnownSlice())
        if known.object is not None and known.object.metadata.uid != item.metadata.uid:
            known = self[item.metadata.name] = KnownSlice()
        return known.update(item)

    def drop(self, item: RegistrySlice) -> set[str]:
        """Forget a deleted slice; returns the ids that it had."""
        self.older.pop(item.metadata.name, None)
        known = self.get(item.metadata.name)
        if known is None or known.object is None or known.object.metadata.uid != item.metadata.uid:
            return set()
        ids = known.assignments.keys() | known.reports.keys()
        if lost := ids | known.unproven.keys() | known.uncertain.keys():
            self.unaccounted.setdefault(item.spec.member, set()).update(lost)
            self.lost.add(item.spec.member)
        del self[item.metadata.name]
        return ids

    def belong_to(self, hub_uid: str) -> None:
        """Take the uid of the Hub, and set the slices of an earlier one aside."""
        for name, known in list(self.items()):
            if known.present.spec.hub_uid != hub_uid:
                self.older[name] = self.pop(name).present

    def by_member(self) -> dict[str, list[KnownSlice]]:
        """The slices of each member, in order of their number."""
        members: dict[str, list[KnownSlice]] = {}
        for known in self.values():
            members.setdefault(known.present.spec.member, []).append(known)
        for slices in members.values():
            slices.sort(key=lambda known: known.index)
        return members

    def uncertain(self) -> frozenset[str]:
        """The ids whose entries may differ from the slices, because a write without an answer may change them."""
        ids = {child_id for known in self.values() for child_id in known.uncertain}
        return frozenset(ids.union(*(creation.ids for creation in self.creating.values())))


def all_once(slices: Iterable[KnownSlice], distinct: int = -1) -> bool:
    """Whether no child has entries in two of the slices. ``distinct``: the number of children on record, if known.

    Slices may have been written since the children were counted. Then the ids are compared.
    """
    entries = [known.assignments for known in slices]
    count = sum(map(len, entries))
    return count == distinct or len(set().union(*entries)) == count
