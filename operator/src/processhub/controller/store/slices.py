"""The slices of one hub, parsed once when they change, and what is not proven of what they have said."""

from __future__ import annotations

import logging

import msgspec

from processhub.api.reasons import Role
from processhub.api.slice import RegistrySlice
from processhub.registry.slices import SliceView

log = logging.getLogger(__name__)


class Creation(msgspec.Struct, frozen=True):
    """A slice that may be there, because its creation was not answered: whose it is, and the ids of its entries."""

    member: str
    index: int
    ids: frozenset[str]


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


class Slices(dict[str, KnownSlice]):
    """The slices of one hub, by object name.

    ``older``: those of an earlier Hub of its name. ``unaccounted``: member → ids of slices that somebody deleted, which
    may run there. ``creating``: name of a slice whose creation was not answered → what is in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.older: dict[str, RegistrySlice] = {}
        self.unaccounted: dict[str, set[str]] = {}
        self.creating: dict[str, Creation] = {}

    def put(self, item: RegistrySlice) -> set[str]:
        """Take a new or changed slice; the ids whose entries changed."""
        self.creating.pop(item.metadata.name, None)
        known = self.setdefault(item.metadata.name, KnownSlice())
        if known.object is not None and known.object.metadata.uid != item.metadata.uid:
            known = self[item.metadata.name] = KnownSlice()
        return known.update(item)

    def drop(self, item: RegistrySlice) -> set[str]:
        """A slice was deleted; the ids that it had."""
        self.older.pop(item.metadata.name, None)
        known = self.get(item.metadata.name)
        if known is None or known.object is None or known.object.metadata.uid != item.metadata.uid:
            return set()
        ids = known.assignments.keys() | known.reports.keys()
        if lost := ids | known.unproven.keys() | known.uncertain.keys():
            self.unaccounted.setdefault(item.spec.member, set()).update(lost)
        del self[item.metadata.name]
        return ids

    def belong_to(self, hub_uid: str) -> None:
        """The Hub of this name has this uid: slices of another are none of its own, here as for members."""
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
        """The ids whose entries may be other than the slices say: a write of ours may have changed them, or may yet."""
        ids = {child_id for known in self.values() for child_id in known.uncertain}
        return frozenset(ids.union(*(creation.ids for creation in self.creating.values())))
