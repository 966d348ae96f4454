"""The planner's input: one hub at one moment, immutable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from processhub.api.child import ChildSpec
from processhub.api.hub import HubSpec
from processhub.api.reasons import Role, State
from processhub.api.usage import Usage
from processhub.core.model.membership import Phase
from processhub.core.model.placement import child_key
from processhub.registry.grammar import Assignment


class DesiredChild(msgspec.Struct, frozen=True, kw_only=True):
    """A child that shall be on record: the accepted spec of the user, in the planner's terms.

    ``suspended``: it shall not run, but keep its place where it has one.
    ``paced``: a changed workload restarts it only as the move budget allows; it is one of many that change at once.
    """

    id: str
    uid: str
    key: int  # placement.child_key(id)
    workload: str  # hash
    nodes: tuple[str, ...] = ()
    origin: str = ""
    pinned: bool = False
    suspended: bool = False
    refused: bool = False  # as it was on record before an edit that is not accepted: it is not moved by choice
    paced: bool = False
    pod: bool = False  # it runs in a Pod of its own
    restart_policy: str = "Permanent"
    idle_seconds: int = 0
    on_demand: bool = False
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    asked: str = ""  # Assignment.asked: set where a hook changed what the user wrote

    @property
    def movable(self) -> bool:
        """Whether a join may move the child."""
        return not (self.bound or self.refused)

    @property
    def bound(self) -> bool:
        """Whether the child waits for its member rather than moving."""
        return self.pinned or bool(self.nodes)

    def entry(
        self, epoch: int, *, wait: bool = False, role: str = Role.ACTIVE, run: int = 0, state: str = ""
    ) -> Assignment:
        """The child's entry in a slice; ``wait``: it is not started before its former member has stopped it."""
        return Assignment(
            uid=self.uid,
            epoch=epoch,
            role=role,
            workload=self.workload,
            wait=wait,
            run=run,
            state=state,
            restart_policy=self.restart_policy,
            idle_seconds=self.idle_seconds,
            on_demand=self.on_demand,
            tags=self.tags,
            metadata=self.metadata,
            asked=self.asked,
        )


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the planner sees it.

    ``possibly_running`` are the ids that may still run there though no entry says so: reported in its status, or
    removed and not yet proven stopped, or made passive and not yet proven to have ended as active. ``settled`` is false
    while any id may: after a leader change, until the member has acknowledged all that was written. ``ended``: proven
    to run nothing now, though it is waited for. ``node`` and ``zone`` are where its pod runs, "" where not known.
    """

    name: str
    weight: int = 1
    phase: Phase = Phase.LIVE
    draining: bool = False
    joining: bool = False
    wanted: bool = True
    settled: bool = True
    ended: bool = False
    forced: bool = False  # bound children are stopped where it is drained, not left running
    resettles: bool = False  # joining, because strategy or weights changed
    usage: Usage | None = None
    possibly_running: frozenset[str] = frozenset()
    node: str = ""
    zone: str = ""

    @property
    def dead(self) -> bool:
        """Whether nothing runs on the member now."""
        return self.ended or self.phase is Phase.GONE


class OnRecord(msgspec.Struct, frozen=True):
    """An entry and the member whose slice holds it; ``state`` as that member reports it, "" where it does not.

    ``gave``, ``kept`` and ``got`` are its reports on a handover (registry/grammar.py). ``came_up``: it was Running
    under this epoch, whatever it is by now.
    """

    member: str
    entry: Assignment
    state: str = ""
    gave: str = ""
    kept: str = ""
    got: str = ""
    came_up: bool = False

    @property
    def up(self) -> bool:
        """Whether the child runs there."""
        return self.state == State.RUNNING

    @property
    def failed(self) -> bool:
        """Whether the child was started there, and ended or never came up."""
        return self.state in (State.FAILED, State.STOPPED)

    @property
    def tried(self) -> bool:
        """Whether the child's start there is over, successful or not."""
        return self.state not in ("", State.PENDING, State.STARTING)


class ChildPod(msgspec.Struct, frozen=True):
    """A Pod that was made for a child and is still there; ``text`` names it and its node.

    ``run`` is the epoch under which it was started, ``role`` the last role that it was given. A passive Pod is made
    active by a new role; to step back, the child gets another Pod.
    """

    member: str
    text: str
    run: str
    role: str = Role.ACTIVE

    def passive_for(self, place: OnRecord) -> bool:
        """Whether the Pod is the incarnation that this entry means, and has not been made active."""
        own = self.member == place.member and self.run == str(place.entry.started_with)
        return own and self.role == Role.PASSIVE


class Claim(msgspec.Struct, frozen=True):
    """A member runs a child that is on record elsewhere, where it could not be reached, under that entry's epoch."""

    member: str
    uid: str
    epoch: int


class HubSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One hub at one moment. ``children``: those that shall run or are suspended, by id, as last accepted.

    ``last_placed``: the member that the newest child went to ("": read it off the record). ``move_requests``: id → the
    member that somebody asked to have it moved to.
    ``pods``: id → the Pods of its own that are there, wherever it is on record.
    """

    spec: HubSpec
    members: tuple[MemberView, ...]
    children: Mapping[str, DesiredChild]
    record: Mapping[str, tuple[OnRecord, ...]]
    next_epoch: int
    move_budget: int = 0
    last_placed: str = ""
    move_requests: Mapping[str, str] = {}
    copies: int | None = None  # as a redundancy strategy of the user's says, None with ProcessHub's own
    pods: Mapping[str, tuple[ChildPod, ...]] = {}
    claims: Mapping[str, Claim] = {}  # by id
    deferred: frozenset[str] = frozenset()  # children that would not or could not be moved lately: not by choice now
    formed: bool = True  # false until the hub's first members are there: nothing is placed yet
    uncertain: frozenset[str] = frozenset()  # ids whose entries a write without an answer may have changed
    partitioned: str = ""  # why the hub has lost its quorum: nothing is started or moved

    @property
    def to_run(self) -> Mapping[str, DesiredChild]:
        """The children that shall run, by id."""
        if not any(child.suspended for child in self.children.values()):
            return self.children
        return {child_id: child for child_id, child in self.children.items() if not child.suspended}


def desired_child(spec: ChildSpec, child_id: str, uid: str, workload: str) -> DesiredChild:
    """The child that a Child's spec asks for; ``workload`` is the hash of its workload."""
    return DesiredChild(
        id=child_id,
        uid=uid,
        key=child_key(child_id),
        workload=workload,
        pod=spec.pod is not None,
        nodes=spec.nodes,
        origin=spec.origin,
        pinned=spec.pinned,
        restart_policy=spec.restart_policy,
        idle_seconds=spec.idle_seconds or 0,
        on_demand=bool(spec.on_demand),
        tags=spec.tags,
        metadata=frozen_metadata(spec.metadata),
    )


def frozen_metadata(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Metadata in the order that entries hold it."""
    return tuple(sorted((str(key), str(value)) for key, value in metadata.items()))


def keys_of(children: Iterable[DesiredChild]) -> NDArray[np.uint64]:
    """The hashes of the children, in order; shape (n,)."""
    return np.fromiter((child.key for child in children), dtype=np.uint64)


def attributes_digest(child: DesiredChild) -> str:
    """A hash of what a Pre hook may change of a child: its workload, restart policy, tags and metadata."""
    text = msgspec.json.encode((child.workload, child.restart_policy, child.tags, child.metadata))
    return xxhash.xxh3_64_hexdigest(text)
