"""Changes of a slice that need no plan, or none at once.

Children that only restart change no plan, and are reported without one. Children that members have started by
themselves run and answer requests already, so nothing waits until they are on record. While many start, a round in each
second puts all of them there. One for each change would take as much of the machine as the children themselves.
Of the reports about a handover only the last one lets the move go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from processhub.api.naming import ANNOTATION_JOINING, ANNOTATION_SETTLED
from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice
from processhub.controller.store.slices import KnownSlice, Slices
from processhub.registry.copies import only_restarts
from processhub.registry.grammar import (
    Assignment,
    EntryError,
    Given,
    HandoverOrder,
    Report,
    is_by_view,
    parse_report,
)
from processhub.registry.workloads import is_pod_workload

_UP = (State.STARTING, State.RUNNING)
_BEFORE = (State.PENDING, State.STARTING)
_NOTES = (ANNOTATION_JOINING, ANNOTATION_SETTLED)


def children_only_restart(old: RegistrySlice, new: RegistrySlice) -> bool:
    """Whether nothing but restarts of children differs, each of which has been up before.

    The first start of a child is more: its lifetime begins. A pod child's restart is more too: the operator makes its
    Pod.
    """
    before, after = old.status.reports, new.status.reports
    if (
        msgspec.structs.replace(old.metadata, resource_version=new.metadata.resource_version) != new.metadata
        or old.spec != new.spec
        or old.status.reporting({}) != new.status.reporting({})
        or before.keys() != after.keys()
        or any(map(is_pod_workload, new.spec.workloads.values()))
    ):
        return False
    changed = [(text, after[child_id]) for child_id, text in before.items() if after[child_id] != text]
    return all(_only_restarts(text, now) for text, now in changed)


def _only_restarts(before: str, after: str) -> bool:
    try:
        earlier, later = parse_report(before), parse_report(after)
    except EntryError:
        return False
    return bool(earlier.started_at) and only_restarts(earlier, later)


def only_comes_on_record(old: RegistrySlice | None, new: RegistrySlice, slices: Slices, changed: Set[str]) -> bool:
    """Whether nothing else differs between two versions of a slice, and nothing else is under way in its hub.

    ``slices``: those of the hub, with the new version. ``changed``: the ids whose entry or report differs.
    """
    known = slices.get(new.metadata.name)
    if known is None or not changed or any(map(_awaits, slices.values())):
        return False
    if old is None:
        return not new.status.holder and all(entry.on_demand and not entry.wait for entry in known.assignments.values())
    if not old.status.holder and known.index:  # the first answer
        old = msgspec.structs.replace(old, status=new.status)
    if _but_children(old) != _but_children(new) or (known.index == 0 and _answers(old, new)):
        return False
    return all(_comes(old, known, child_id) for child_id in changed)


def only_hands_over(old: RegistrySlice | None, new: RegistrySlice, slices: Slices, changed: Set[str]) -> bool:
    """Whether nothing else differs than entries and reports of children that are handed over, and no move goes on.

    The waiting entry and the order are written one after the other, and both members report the state. The last of
    these reports lets the move go on, and then the target's that the child is up (docs/protocol.md, rule 21). That a
    member takes its share now, or has it, is the operator's own note. ``slices`` and ``changed`` as above.
    """
    known = slices.get(new.metadata.name)
    if known is None or old is None or known.unproven or new.spec.order is not None:
        return False
    if _but_children(_without_notes(old)) != _but_children(_without_notes(new)):
        return False
    if not changed and old.status != new.status:
        return False  # another generation was acknowledged
    sources = [other for other in slices.values() if other.leaving]
    targets = slices.by_member()
    return all(_hands_over(known, child_id, sources, targets) for child_id in changed)


def _without_notes(item: RegistrySlice) -> RegistrySlice:
    annotations = {name: text for name, text in item.metadata.annotations.items() if name not in _NOTES}
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, annotations=annotations))


def _hands_over(
    known: KnownSlice, child_id: str, sources: list[KnownSlice], targets: Mapping[str, list[KnownSlice]]
) -> bool:
    entry, report = known.assignments.get(child_id), known.reports.get(child_id)
    if entry is None or entry.asleep or entry.ended or child_id in known.ended:
        return False
    if report is not None and report.kept:
        return False
    if entry.state:
        return report is None or report.epoch != entry.epoch or (report.state in _BEFORE and not report.started_at)
    if entry.wait:
        return not any(_has_given(source, child_id, [known]) for source in sources if child_id in source.leaving)
    return bool(entry.to) and not _has_given(known, child_id, targets.get(HandoverOrder.parse(entry.to).member, []))


def _has_given(source: KnownSlice, child_id: str, targets: list[KnownSlice]) -> bool:
    """Whether both members report that the state has arrived."""
    report = source.reports.get(child_id)
    given = Given.parse(report.gave) if report is not None else None
    reports = (target.reports.get(child_id) for target in targets)
    return given is not None and any(report is not None and report.got == given.checksum for report in reports)


def _awaits(known: KnownSlice) -> bool:
    """Whether the end of a child or a step of a move is awaited. For a write without an answer the round comes back."""
    return bool(known.unproven or known.leaving or known.claims)


def _but_children(item: RegistrySlice) -> tuple[object, ...]:
    """What the slice says besides its entries and reports, and besides the versions of these."""
    metadata = msgspec.structs.replace(item.metadata, resource_version="", generation=0)
    spec = msgspec.structs.replace(item.spec, entries={}, workloads={})
    return metadata, spec, msgspec.structs.replace(item.status, observed_generation=0, running=(), entries={})


def _answers(old: RegistrySlice, new: RegistrySlice) -> bool:
    """Whether the generation is another one, or another one was acknowledged. In slice 0 it may be that of a view."""
    before, after = old.metadata.generation, new.metadata.generation
    return before != after or old.status.observed_generation != new.status.observed_generation


def _comes(old: RegistrySlice, known: KnownSlice, child_id: str) -> bool:
    """Whether the child is one that was started by its member or a request, and is up."""
    entry, report = known.assignments.get(child_id), known.reports.get(child_id)
    if entry is None and child_id in old.spec.entries:
        return False
    if report is None:
        before = old.status.reports.get(child_id)
        return before is None or is_by_view(before)
    return _by_request(entry, report) and report.state in _UP


def _by_request(entry: Assignment | None, report: Report) -> bool:
    return bool(report.view) if entry is None else entry.on_demand and not entry.wait
