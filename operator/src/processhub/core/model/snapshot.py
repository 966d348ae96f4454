"""The planner's input: one hub at one moment, as immutable values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from operator import attrgetter
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


class DesiredChild(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A child that should be on record: the accepted spec of the user, in the planner's terms.

    ``suspended``: the child must not run, but keeps its place if it has one. ``paced``: the child is one of many that
    change at once, so a changed workload restarts it only within the move budget.
    """

    id: str
    uid: str
    key: int  # placement.child_key(id)
    workload: str  # hash
    nodes: tuple[str, ...] = ()
    origin: str = ""
    pinned: bool = False
    suspended: bool = False
    # The spec on record from before an edit that is not accepted; the child is not moved by choice.
    refused: bool = False
    paced: bool = False
    pod: bool = False  # the child runs in a Pod of its own
    restart_policy: str = "Permanent"
    idle_seconds: int = 0
    on_demand: bool = False
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    asked: str = ""  # as in Assignment: set if a hook changed what the user wrote

    @property
    def movable(self) -> bool:
        """Whether a join may move the child."""
        return not (self.bound or self.refused)

    @property
    def bound(self) -> bool:
        """Whether the child waits for its member instead of moving."""
        return self.pinned or bool(self.nodes)

    def recorded(self, entry: Assignment) -> DesiredChild:
        """The child with what the entry says of it: workload, restart policy, tags, metadata and a hook's digest."""
        return msgspec.structs.replace(
            self,
            workload=entry.workload,
            restart_policy=entry.restart_policy,
            tags=entry.tags,
            metadata=entry.metadata,
            asked=entry.asked,
        )

    def entry(
        self, epoch: int, *, wait: bool = False, role: str = Role.ACTIVE, run: int = 0, state: str = "", ended: str = ""
    ) -> Assignment:
        """The child's entry in a slice; ``wait``: it must not be started before its former member has stopped it."""
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
            origin=self.origin if self.on_demand else "",  # That of a declared child is in its object.
            tags=self.tags,
            metadata=self.metadata,
            asked=self.asked,
            ended=ended,
        )


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the planner sees it.

    ``possibly_running`` are the ids that may still run there although no entry says so: ids that its status reports,
    ids that were removed and not yet proven stopped, and ids that were made passive and not yet proven to have ended as
    active. ``settled`` is false while any id may be running: after a change of the leader, until the member has
    confirmed all that was written. ``ended``: the member is proven to run nothing now, but is waited for. ``node`` and
    ``zone`` say where its Pod runs ("" if unknown).
    """

    name: str
    weight: int = 1
    phase: Phase = Phase.LIVE
    draining: bool = False
    joining: bool = False
    wanted: bool = True
    settled: bool = True
    ended: bool = False
    forced: bool = False  # if drained, its bound children are stopped instead of left running
    resettles: bool = False  # joining because the strategy or the weights changed
    usage: Usage | None = None
    possibly_running: frozenset[str] = frozenset()
    node: str = ""
    zone: str = ""

    @property
    def dead(self) -> bool:
        """Whether nothing runs on the member now."""
        return self.ended or self.phase is Phase.GONE


class OnRecord(msgspec.Struct, frozen=True, gc=False):
    """An entry, and the member whose slice holds it; ``state`` as that member reports it, "" if it reports none.

    ``gave``, ``kept`` and ``got`` are its reports on a handover (registry/grammar.py). ``came_up``: the child was
    Running under this epoch, even if it is not any more. ``end``: the report that it has ended for good there, as
    another entry would name it (registry/grammar.py, ``ended``), "" if there is none.
    """

    member: str
    entry: Assignment
    state: str = ""
    gave: str = ""
    kept: str = ""
    got: str = ""
    came_up: bool = False
    end: str = ""

    @property
    def up(self) -> bool:
        """Whether the child runs there."""
        return self.state == State.RUNNING

    @property
    def untaken_state(self) -> str:
        """The state that the child may start with there: its entry names it, and the child was not up since."""
        return "" if self.up or self.came_up else self.got or self.entry.state

    @property
    def failed(self) -> bool:
        """Whether the child was started there, and ended or never came up."""
        return self.state in (State.FAILED, State.STOPPED)

    @property
    def tried(self) -> bool:
        """Whether the child's start there is over, successful or not."""
        return self.state not in ("", State.PENDING, State.STARTING)


class ChildPod(msgspec.Struct, frozen=True):
    """A Pod that was created for a child and still exists; ``text`` names it and its node.

    ``run`` is the epoch under which it was started, ``role`` the last role that it was given. A passive Pod is made
    active by changing its role. To make the child passive again, it gets another Pod.
    """

    member: str
    text: str
    run: str
    role: str = Role.ACTIVE

    def passive_for(self, place: OnRecord) -> bool:
        """Whether the Pod is the incarnation that this entry means, and was never made active."""
        own = self.member == place.member and self.run == str(place.entry.started_with)
        return own and self.role == Role.PASSIVE


class Claim(msgspec.Struct, frozen=True):
    """A local takeover: the member runs a child whose owner it could not reach, under that owner's epoch."""

    member: str
    uid: str
    epoch: int


class HubSnapshot(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One hub at one moment. ``children``: those that should run or are suspended, by id, as last accepted.

    ``last_placed`` is the member on which the newest child was placed ("": derive it from the record).
    ``move_requests`` maps ids to the members that they were requested to move to. ``pods`` maps ids to the existing
    Pods of pod children, wherever their entries are.
    """

    spec: HubSpec
    members: tuple[MemberView, ...]
    children: Mapping[str, DesiredChild]
    record: Mapping[str, tuple[OnRecord, ...]]
    next_epoch: int
    move_budget: int = 0
    last_placed: str = ""
    move_requests: Mapping[str, str] = {}
    copies: int | None = None  # the number that a user's redundancy strategy says; None with a built-in strategy
    pods: Mapping[str, tuple[ChildPod, ...]] = {}
    claims: Mapping[str, Claim] = {}  # by id
    # Children that declined a move lately or failed to move: they are not moved by choice now.
    deferred: frozenset[str] = frozenset()
    formed: bool = True  # false until the hub's first members have arrived; nothing is placed before
    uncertain: frozenset[str] = frozenset()  # ids whose entries may have been changed by a write that got no answer
    partitioned: str = ""  # why the hub has lost its quorum ("": it has not); nothing is started or moved then

    @cached_property
    def to_run(self) -> Mapping[str, DesiredChild]:
        """The children that should run, by id."""
        if not any(map(attrgetter("suspended"), self.children.values())):
            return self.children
        return {child_id: child for child_id, child in self.children.items() if not child.suspended}


def desired_child(spec: ChildSpec, child_id: str, uid: str, workload: str) -> DesiredChild:
    """The child that a Child's spec describes; ``workload`` is the hash of its workload."""
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
        tags=spec.tags,
        metadata=frozen_metadata(spec.metadata),
    )


def frozen_metadata(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Metadata in the order in which entries hold it."""
    return tuple(sorted((str(key), str(value)) for key, value in metadata.items()))


def keys_of(children: Iterable[DesiredChild]) -> NDArray[np.uint64]:
    """The hashes of the children's ids, in order; shape (n,)."""
    return np.fromiter((child.key for child in children), dtype=np.uint64)


def attributes_digest(child: DesiredChild) -> str:
    """A hash of everything a Pre hook may change: workload, restart policy, tags and metadata."""
    text = msgspec.json.encode((child.workload, child.restart_policy, child.tags, child.metadata))
    return xxhash.xxh3_64_hexdigest(text)
