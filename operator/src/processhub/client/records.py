"""The record of one child in the registry: immutable values, prepared once when a slice changes."""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from typing import Any

import msgspec

from processhub.api.child import ChildSpec, Workload
from processhub.api.reasons import Role, State
from processhub.registry.copies import Copy
from processhub.registry.grammar import Assignment, Report


class Processes(tuple[tuple[str, int], ...]):
    """The pair ``(member, pid)`` of each copy that has a process, the active copy first; a running pod child has pid 0.

    All look-ups share it, so it can't be changed. It is equal to a list of the same pairs.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class Spec(ChildSpec, frozen=True, kw_only=True):
    """A child's spec as the registry contains it: hub, id, workload, restartPolicy, tags and metadata.

    Read it by attribute (``spec.exec.command``), or as the manifest is written (``spec["exec"]["command"]``).
    """

    def __getitem__(self, field: str) -> Any:
        return self.to_dict()[field]

    def get(self, field: str, default: Any = None) -> Any:
        """The field as the manifest is written, or ``default`` if it is not set."""
        return self.to_dict().get(field, default)

    def keys(self) -> KeysView[str]:
        """The fields that are set. They make ``dict(spec)`` work."""
        return self.to_dict().keys()

    def to_dict(self) -> dict[str, Any]:
        """The spec as the manifest is written, without defaults."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))  # lists, where the struct has tuples
        return plain


class SliceCopy(Copy, frozen=True):
    """A copy with the slice that names it, and the spec that its entry describes, if it has one."""

    slice: str
    spec: Spec | None


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """One copy of a child on one member. ``pid`` is 0 if no process runs; ``started_at`` is RFC 3339 or empty.

    ``waiting`` is true for the target of a move whose source still runs, and for a child that is ``asleep``: it is
    suspended and keeps its place.
    """

    name: str
    role: str = Role.ACTIVE.value
    state: str = State.PENDING.value
    pid: int = 0
    epoch: int = 0
    restarts: int = 0
    started_at: str = ""
    reason: str = ""
    message: str = ""
    last_exit: str = ""
    waiting: bool = False
    asleep: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A child on record: its spec and its copies, the active one first, then by member.

    ``pid`` is that of the active copy, or None. ``alive`` says whether that copy runs, ``running`` whether every copy
    runs that should. ``locked`` is true while the child changes its owner: a target waits, or an earlier incarnation
    has not ended yet. ``on_demand``: a request has started the child, and no object describes it. ``on_record`` is
    false as long as only the member that has started it by itself says so. ``epoch`` is the newest of its copies.
    """

    uid: str
    spec: Spec
    nodes: tuple[Node, ...]
    processes: Processes
    pid: int | None
    alive: bool
    running: bool
    locked: bool
    on_demand: bool = False
    on_record: bool = True
    epoch: int = 0


def node_of(copy: SliceCopy) -> Node:
    """The copy as users see it: Pending until the member reports it; off record, its last report."""
    entry, shown = copy.entry, copy.shown
    known = entry or shown
    if known is None:
        raise ValueError(f"slice {copy.slice} says nothing of this id")
    if shown is None:
        shown = Report(uid=known.uid, epoch=known.epoch)
    return Node(
        name=copy.member,
        role=known.role,
        state=copy.state,
        pid=shown.pid,
        epoch=shown.epoch,
        restarts=shown.restarts,
        started_at=shown.started_at,
        reason=shown.reason,
        message=shown.message,
        last_exit=shown.last_exit,
        waiting=copy.waiting,
        asleep=entry is not None and entry.asleep,
    )


def spec_of(hub: str, child_id: str, entry: Assignment, workload: Workload) -> Spec:
    """The spec that an entry and its workload describe."""
    return Spec(
        hub=hub,
        id=child_id,
        restart_policy=entry.restart_policy,  # type: ignore[arg-type]  # a newer policy is shown as it is
        tags=entry.tags,
        metadata=dict(entry.metadata),
        exec=workload.exec,
        python=workload.python,
        pod=workload.pod,
    )


def record_of(copies: Sequence[SliceCopy]) -> Record | None:
    """The record of the copies, or None if no slice's spec names the id, and no member has started it by itself.

    If one member has several entries, the one with the highest epoch counts, as it does for the agent.
    """
    owners: dict[str, SliceCopy] = {}
    uid, spec, newest, on_demand = "", None, -1, False
    for copy in copies:
        if copy.entry is None:
            continue
        epoch = copy.entry.epoch
        known = owners.get(copy.member)
        if known is None or known.entry is None or known.entry.epoch < epoch:
            owners[copy.member] = copy
        if epoch > newest:
            uid, spec, newest, on_demand = copy.entry.uid, copy.spec, epoch, copy.entry.on_demand
    on_record = bool(owners)
    if not on_record:
        for copy in copies:
            if copy.self_started and copy.report is not None:
                owners[copy.member] = copy
                uid, spec, on_demand, newest = copy.report.uid, copy.spec, True, copy.report.epoch
    if spec is None:
        return None
    nodes = tuple(node_of(copy) for copy in owners.values())
    if len(nodes) > 1:
        nodes = tuple(sorted(nodes, key=_registry_order))
    in_pod = spec.pod is not None  # the processes are in a Pod of their own, where their pids mean nothing here
    return Record(
        uid=uid,
        spec=spec,
        nodes=nodes,
        processes=Processes(
            (node.name, node.pid) for node in nodes if node.pid or (in_pod and node.state == State.RUNNING)
        ),
        pid=next((node.pid for node in nodes if node.pid and node.role == Role.ACTIVE), None),
        alive=nodes[0].role == Role.ACTIVE and nodes[0].state == State.RUNNING,
        running=all(node.state == State.RUNNING for node in nodes if not node.waiting or node.asleep),
        locked=any(_in_transition(copy) for copy in copies if on_record or not copy.self_started),
        on_demand=on_demand,
        on_record=on_record,
        epoch=newest,
    )


def _registry_order(node: Node) -> tuple[bool, bool, bool, str]:
    # Under ActiveActive the first running copy serves, so running copies come first.
    return node.role != Role.ACTIVE, node.waiting, node.state != State.RUNNING, node.name


def _in_transition(copy: SliceCopy) -> bool:
    if copy.entry is None:
        return True  # only a report is left: an earlier owner has not ended yet
    return (copy.entry.wait and not copy.entry.asleep) or (copy.report is not None and not copy.current)
