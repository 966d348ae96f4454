"""The interface between a round and the hooks that admit starts: which children may run, and as what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.hub import Hub
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.ownership import Record, as_on_record
from processhub.controller.store.children import KnownChild
from processhub.controller.store.childsets import SeenSet
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Unplaced
from processhub.core.model.snapshot import DesiredChild, OnRecord


class StartCandidate(msgspec.Struct, frozen=True):
    """A child that is to run: the planner's view of it, the spec that its user wrote, and its workload's JSON.

    ``generation`` is the Child's. It is 0 for a child of a ChildSet, whose generation rises with each scaling.
    """

    wanted: DesiredChild
    spec: ChildSpec
    workload: str
    generation: int = 0


class Admission(Protocol):
    """Admits candidates. ``workloads``: hash → JSON of the workloads that it changed in this round."""

    workloads: dict[str, str]

    def __call__(self, candidate: StartCandidate, places: tuple[OnRecord, ...]) -> DesiredChild | Refusal | Unplaced:
        """Admit a start; returns the child as it may run, why it may not, or what it waits for."""
        ...


class Admitted(msgspec.Struct):
    """The children that may run, and why the others may not or have to wait."""

    wanted: Mapping[str, DesiredChild]
    refusals: Mapping[str, Refusal] = {}  # by Child object's name
    held: Mapping[str, Unplaced] = {}
    workloads: Mapping[str, str] = {}


def admit(
    admission: Admission,
    wanted: Mapping[str, DesiredChild],
    chosen: Mapping[str, KnownChild],
    sets: Mapping[str, SeenSet],
    record: Record,
    hub: Hub,
) -> Admitted:
    """Have each start admitted. A recorded child whose edit is not admitted keeps its recorded spec.

    No start is admitted for a suspended child, as it starts nothing. A resumed child that is not admitted stays
    suspended.
    """
    kept: dict[str, DesiredChild] = {}
    refusals: dict[str, Refusal] = {}
    held: dict[str, Unplaced] = {}
    guided = hub.spec.distribution.strategy == "Guided"
    for child_id, child in wanted.items():
        if child.suspended:
            kept[child_id] = child
            continue
        candidate, places = _candidate(child, chosen.get(child_id), sets), record.get(child_id, ())
        verdict = child if candidate is None else admission(candidate, places)
        if isinstance(verdict, DesiredChild):
            kept[child_id] = verdict
            continue
        known = chosen.get(child_id)
        if isinstance(verdict, Refusal) and known is not None:
            refusals[known.child.metadata.name] = verdict
        last_good = as_on_record(child, places, guided, suspend=True)
        if last_good is not None:
            kept[child_id] = last_good
            # A Child says itself that its edit is denied. A ChildSet says it by what holds its children.
            if not last_good.suspended and (known is not None or isinstance(verdict, Unplaced)):
                continue
        if isinstance(verdict, Unplaced):
            held[child_id] = verdict
        elif known is None:
            held[child_id] = Unplaced(verdict.reason, verdict.message)
    return Admitted(kept, refusals, held, admission.workloads)


def admit_starts(observation: Observation, admission: Admission, hub: Hub) -> Observation:
    """Take the starts that are not admitted out of an observation."""
    snapshot = observation.snapshot
    admitted = admit(admission, snapshot.children, observation.chosen, observation.sets, snapshot.record, hub)
    return msgspec.structs.replace(
        observation,
        snapshot=msgspec.structs.replace(snapshot, children=admitted.wanted),
        refusals={**observation.refusals, **admitted.refusals},
        held={**admitted.held, **observation.held},
        workloads=admitted.workloads,
    )


def _candidate(child: DesiredChild, known: KnownChild | None, sets: Mapping[str, SeenSet]) -> StartCandidate | None:
    """The child with its user's spec, or None if that spec is refused and the child keeps running unchanged."""
    if known is not None:
        metadata = known.child.metadata
        return StartCandidate(child, known.spec, known.workload, metadata.generation) if child is known.wanted else None
    seen = sets.get(child.uid)
    if seen is None or seen.refusal is not None:
        return None
    return StartCandidate(child, seen.known.template, seen.known.workload)
