"""What the registry knows of one child: immutable values, prepared once when a slice changes."""

from __future__ import annotations

from collections.abc import KeysView
from typing import Any

import msgspec

from processhub.api.child import ChildSpec, Workload
from processhub.api.reasons import Role, State
from processhub.registry.grammar import Assignment, Report


class Processes(tuple[tuple[str, int], ...]):
    """``(member, pid)`` of each copy that has a process, the active one first; a pod child that runs has pid 0.

    Shared by all look-ups, so it can't be changed; it equals a list of the same pairs.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class Spec(ChildSpec, frozen=True, kw_only=True):
    """A child's spec as the registry has it: hub, id, workload, restartPolicy, tags and metadata.

    Read it by attribute (``spec.exec.command``) or as the manifest is written (``spec["exec"]["command"]``).
    """

    def __getitem__(self, field: str) -> Any:
        return self.to_dict()[field]

    def get(self, field: str, default: Any = None) -> Any:
        """The field as the manifest is written, ``default`` where it is not set."""
        return self.to_dict().get(field, default)

    def keys(self) -> KeysView[str]:
        """The fields that are set; with it ``dict(spec)`` works."""
        return self.to_dict().keys()

    def to_dict(self) -> dict[str, Any]:
        """The spec as the manifest is written, defaults left out."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))  # lists, where the struct has tuples
        return plain


class Copy(msgspec.Struct, frozen=True):
    """What one slice says of an id: the entry in its spec, the report in its status, or both."""

    slice: str
    member: str
    assignment: Assignment | None
    report: Report | None
    spec: Spec | None  # the spec that the assignment describes, where there is one

    @property
    def answered(self) -> bool:
        """Whether the report is about the incarnation that the entry asks for."""
        assignment, report = self.assignment, self.report
        return (
            assignment is not None
            and report is not None
            and report.epoch in (assignment.epoch, assignment.run)
            and report.uid == assignment.uid
        )

    def concerns(self, uid: str) -> bool:
        """Whether the entry or the report is about this incarnation."""
        return (self.assignment is not None and self.assignment.uid == uid) or (
            self.report is not None and self.report.uid == uid
        )


class Node(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One copy of a child on one member. ``pid`` is 0 where no process runs; ``started_at`` is RFC 3339 or empty.

    ``waiting`` is true for the target of a move whose source still runs, and where the child is ``asleep``: suspended,
    with a place that it keeps.
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

    ``pid`` is the active copy's or None, ``alive`` whether that copy runs, ``running`` whether every copy that shall
    run does. ``locked`` is true while the child changes its owner: a target waits, or an earlier incarnation still
    has to end.
    """

    uid: str
    spec: Spec
    nodes: tuple[Node, ...]
    processes: Processes
    pid: int | None
    alive: bool
    running: bool
    locked: bool


def node_of(copy: Copy) -> Node:
    """The copy as users see it: Pending until the member reports it, and its last report once it is off record."""
    assignment, report = copy.assignment, copy.report
    if report is None or (assignment is not None and not copy.answered):
        if assignment is None:
            raise ValueError(f"slice {copy.slice} says nothing of this id")
        state = State.STOPPED if assignment.asleep and report is None else State.PENDING
        return Node(
            name=copy.member,
            role=assignment.role,
            state=state,
            epoch=assignment.epoch,
            waiting=assignment.wait,
            asleep=assignment.asleep,
        )
    return Node(
        name=copy.member,
        role=assignment.role if assignment else report.role,
        state=State.STOPPED if assignment is not None and assignment.asleep else report.state,
        pid=report.pid,
        epoch=report.epoch,
        restarts=report.restarts,
        started_at=report.started_at,
        reason=report.reason,
        message=report.message,
        last_exit=report.last_exit,
        waiting=assignment is not None and assignment.wait,
        asleep=assignment is not None and assignment.asleep,
    )


def spec_of(hub: str, child_id: str, assignment: Assignment, workload: Workload) -> Spec:
    """The spec that an entry and its workload describe."""
    return Spec(
        hub=hub,
        id=child_id,
        restart_policy=assignment.restart_policy,  # type: ignore[arg-type]  # a newer policy is shown as it is
        tags=assignment.tags,
        metadata=dict(assignment.metadata),
        exec=workload.exec,
        python=workload.python,
        pod=workload.pod,
    )


def record_of(copies: tuple[Copy, ...]) -> Record | None:
    """The record that the copies make; None where no slice's spec names the id.

    Of several entries of one member the highest epoch counts, as it does for the agent.
    """
    owners: dict[str, Copy] = {}
    uid, spec, newest = "", None, -1
    for copy in copies:
        if copy.assignment is None:
            continue
        epoch = copy.assignment.epoch
        known = owners.get(copy.member)
        if known is None or known.assignment is None or known.assignment.epoch < epoch:
            owners[copy.member] = copy
        if epoch > newest:
            uid, spec, newest = copy.assignment.uid, copy.spec, epoch
    if spec is None:
        return None
    nodes = tuple(node_of(copy) for copy in owners.values())
    if len(nodes) > 1:
        nodes = tuple(sorted(nodes, key=_registry_order))
    in_pod = spec.pod is not None  # its processes are in a Pod of its own, where no pid of ours means anything
    return Record(
        uid=uid,
        spec=spec,
        nodes=nodes,
        processes=Processes((node.name, node.pid) for node in nodes if node.pid or (in_pod and _runs(node))),
        pid=next((node.pid for node in nodes if node.pid and node.role == Role.ACTIVE), None),
        alive=nodes[0].role == Role.ACTIVE and nodes[0].state == State.RUNNING,
        running=all(node.state == State.RUNNING for node in nodes if not node.waiting or node.asleep),
        locked=any(_in_transition(copy) for copy in copies),
    )


def _runs(node: Node) -> bool:
    return node.state == State.RUNNING


def _registry_order(node: Node) -> tuple[bool, bool, bool, str]:
    # Under ActiveActive the first running copy serves: one that runs stands before one that does not.
    return node.role != Role.ACTIVE, node.waiting, node.state != State.RUNNING, node.name


def _in_transition(copy: Copy) -> bool:
    if copy.assignment is None:
        return True  # only a report is left: an earlier owner that has not ended yet
    return (copy.assignment.wait and not copy.assignment.asleep) or (copy.report is not None and not copy.answered)
