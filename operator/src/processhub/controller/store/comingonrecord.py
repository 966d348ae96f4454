"""Changes of a slice by which children that members have started by themselves come on record: nothing waits for them.

Such a child runs and answers requests already. While many start, a round in each half second puts all of them on
record. One for each change would take as much of the machine as the children themselves.
"""

from __future__ import annotations

from collections.abc import Set

import msgspec

from processhub.api.reasons import State
from processhub.api.slice import RegistrySlice
from processhub.controller.store.slices import KnownSlice, Slices
from processhub.registry.grammar import Assignment, Report, is_by_view

_UP = (State.STARTING, State.RUNNING)


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
