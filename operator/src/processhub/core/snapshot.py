"""What the planner decides on: one hub at one moment, immutable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from processhub.api.child import ChildSpec
from processhub.api.hub import HubSpec
from processhub.api.slice import Assignment
from processhub.core.membership import Phase
from processhub.core.placement import child_key


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A child that shall run: what the user asked for, accepted and in the planner's terms."""

    id: str
    uid: str
    key: int  # placement.child_key(id)
    workload: str  # hash
    nodes: tuple[str, ...] = ()
    pinned: bool = False
    restart_policy: str = "Permanent"
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def bound(self) -> bool:
        """Whether it waits for its member rather than moving."""
        return self.pinned or bool(self.nodes)

    def entry(self, epoch: int, *, wait: bool = False) -> Assignment:
        """What a slice says of it; ``wait``: on record only until its former member has stopped it."""
        return Assignment(
            uid=self.uid,
            epoch=epoch,
            workload=self.workload,
            wait=wait,
            restart_policy=self.restart_policy,
            tags=self.tags,
            metadata=self.metadata,
        )


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the planner sees it.

    ``lingering`` are the ids that may still run there though no entry says so: reported in its status, or removed
    and not yet proven stopped. ``settled`` is false while any id may: after a leader change, until the member has
    acknowledged all that was written.
    """

    name: str
    weight: int = 1
    phase: Phase = Phase.LIVE
    draining: bool = False
    joining: bool = False
    wanted: bool = True
    settled: bool = True
    lingering: frozenset[str] = frozenset()


class OnRecord(msgspec.Struct, frozen=True):
    """An entry and the member whose slice holds it."""

    member: str
    entry: Assignment


class HubSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One hub. ``children`` are those that shall run, by id; one whose edit was refused is here as it was.

    ``pods``: id → name and node of a Pod that was made for it and is still there, wherever the id is on record.
    """

    spec: HubSpec
    members: tuple[MemberView, ...]
    children: Mapping[str, Wanted]
    record: Mapping[str, tuple[OnRecord, ...]]
    next_epoch: int
    move_budget: int = 0
    pods: Mapping[str, str] = {}
    formed: bool = True  # false until the hub's first members are there: nothing is placed yet


def wanted_child(spec: ChildSpec, child_id: str, uid: str, workload: str) -> Wanted:
    """What a Child's spec asks for; ``workload`` is the hash of its workload."""
    return Wanted(
        id=child_id,
        uid=uid,
        key=child_key(child_id),
        workload=workload,
        nodes=spec.nodes,
        pinned=spec.pinned,
        restart_policy=spec.restart_policy,
        tags=spec.tags,
        metadata=_frozen(spec.metadata),
    )


def _frozen(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Metadata in the order that entries hold it."""
    return tuple(sorted((str(key), str(value)) for key, value in metadata.items()))
