"""Checks after every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from memoryapi import Json
from memoryrequests import Key

from builders import reports_of
from processhub.api.reasons import State
from processhub.registry.grammar import parse_assignment, parse_report

from .childpods import PodRun
from .copies import all_active, keeps_copies
from .finishing import Finished
from .machines import Run
from .trace import Trace

# Codes of answers to requests that no child has executed.
_UNBEGUN = ("400", "401", "403", "404", "409", "429", "503")


@dataclass
class _Up:
    """A run that was up. ``reported``: a slice has said so."""

    agent: str
    epoch: int
    reported: bool = False


class Checks:
    """The promises that always hold, checked by the running processes. ``one_owner``: at most one active owner."""

    def __init__(self, trace: Trace, *, one_owner: bool) -> None:
        self._trace, self._one_owner = trace, one_owner
        self.runs: dict[Run | PodRun, None] = {}
        self._taken_over: set[tuple[str, int]] = set()  # child and epoch of each local takeover
        self._owner_of: dict[int, tuple[str, str]] = {}  # epoch → the id and member that got it
        self._active: dict[str, int] = {}  # id → the highest epoch that was active
        self._since: dict[str, frozenset[str]] = {}  # child whose Pod a restore brought back → the agents of that time
        self._epochs_again: set[tuple[str, int]] = set()  # id and epoch of each entry that was restored with etcd
        self._run_before: set[tuple[str, str, int]] = set()  # agent, id and epoch of each start
        self._ups: dict[str, list[_Up]] = defaultdict(list)  # by id
        self._left: dict[bytes, int] = {}  # state → how many of the child's runs had been up when it was left
        self._entries: dict[tuple[str, int], str] = {}  # id and epoch → the uid of the entry
        # The id and uid of an object, and of another that adopted its run.
        self._adopted: set[tuple[tuple[str, str], tuple[str, str]]] = set()
        self._terms: dict[str, int] = {}  # agent → the highest term that it has read
        self._executed: dict[int, str] = {}  # request → where it was executed
        self._unbegun: dict[int, str] = {}  # request → the answer that says that it was not begun
        self.finished = Finished(trace)
        self._had_copies = False
        self._many_active = False  # the hub has, or may have from before, copies that are all active
        self.followers: list[Callable[[Run | PodRun, str], None]] = []  # of each start, end or new role

    def stored(self, key: Key, before: Json | None, after: Json | None) -> None:
        """Check a change at the API server."""
        self.finished.stored(key, before, after)
        if key.plural == "hubs" and after is not None:
            self._had_copies |= keeps_copies(after)
            self._many_active |= all_active(after)
        if key.plural != "registryslices" or after is None:
            return
        spec = after["spec"]
        self._note_reports(reports_of(after))
        if before is not None and before["spec"] == spec:
            return
        for child_id, text in spec["entries"].items():
            entry = parse_assignment(text)
            self._note_epoch(entry.epoch, child_id, spec["member"])
            uid = self._entries.get((child_id, entry.run))
            if uid is not None and uid != entry.uid:
                self._adopted.add(((child_id, uid), (child_id, entry.uid)))
            self._entries[child_id, entry.epoch] = entry.uid

    def _note_epoch(self, epoch: int, child_id: str, member: str) -> None:
        known = self._owner_of.setdefault(epoch, (child_id, member))
        if known != (child_id, member):
            self._trace.break_promise(
                f"epoch {epoch} was given to {known[0]} on {known[1]}, and is given to {child_id} on {member}"
            )

    def _note_reports(self, reports: Mapping[str, str]) -> None:
        for child_id, text in reports.items():
            if (ups := self._ups.get(child_id)) and (report := parse_report(text)).state == State.RUNNING:
                for up in ups:
                    up.reported |= up.epoch == report.epoch

    def rested(self, hub: Json) -> None:
        """Take note that the hub is at rest: where it keeps one active copy, no other one is left."""
        self._many_active = all_active(hub)

    def restored(self, objects: Mapping[Key, Json], pods: Mapping[str, int], agents: frozenset[str]) -> None:
        """Take note that etcd is restored: what has happened since the backup is on no record (docs/protocol.md).

        ``pods``: the children whose Pods are back, with their epochs; what the ``agents`` run may run on beside them.
        """
        for key, item in objects.items():
            if key.plural == "registryslices":
                entries = item["spec"]["entries"].items()
                self._epochs_again |= {(child_id, parse_assignment(text).epoch) for child_id, text in entries}
            elif key.plural == "hubs":
                self._many_active |= all_active(item)
        self._epochs_again |= pods.items()
        self._since |= dict.fromkeys(pods, agents)
        self.finished.forget_all()

    def deleted_by_hand(self, item: Json) -> None:
        """Take note that somebody deletes this object. What only a slice said, an operator may not have read."""
        for child_id, text in reports_of(item).items() if item["kind"] == "RegistrySlice" else ():
            for up in self._ups.get(child_id, ()):
                up.reported &= up.epoch != parse_report(text).epoch

    def changed(self, run: Run, what: str, read: Iterable[int]) -> None:
        """Check the start, the end or the new role of a process. ``read``: the terms of its agent's slices."""
        self._trace.note(run.member, f"child {run.child_id} (epoch {run.epoch}, pid of {run.where}) {what}")
        self._tell(run, what)
        if not run.runs:
            self.runs.pop(run, None)
            if run.left:
                self._left[run.left] = len(self._ups[run.child_id])
            return
        if what == "is up":
            self._ups[run.child_id].append(_Up(run.where, run.epoch))
        begins = run not in self.runs
        self.runs[run] = None
        if begins:
            self.finished.check_start(run)
            self._check_term(run, read)
            began = run.child_id, run.desired.assignment.started_with
            if run.desired.claim:  # a takeover starts under the epoch of the lost owner, and keeps it once on record
                self._taken_over.add(began)
            elif began not in self._taken_over:
                self._note_epoch(began[1], run.child_id, run.member)
        # Each copy leaves a state of its own, and what one starts with may be older than what another has left.
        if self._one_owner and begins and run.state and not self._had_copies:
            self._check_state(run, run.state)
        self._check_active(run)

    def pod_changed(self, run: PodRun, what: str) -> None:
        """Check the start, the end or the new role of a pod child's process."""
        self._trace.note(run.member, f"child {run.child_id} (epoch {run.epoch}, pod {run.where}) {what}")
        self._tell(run, what)
        if not run.runs:
            self.runs.pop(run, None)
            return
        if run not in self.runs:
            self.runs[run] = None
            self._ups[run.child_id].append(_Up(run.where, run.epoch))
            self._note_epoch(run.pod.started_with, run.child_id, run.member)
        self._check_active(run)

    def _tell(self, run: Run | PodRun, what: str) -> None:
        for follower in self.followers:
            follower(run, what)

    def _check_active(self, run: Run | PodRun) -> None:
        """Check that the child has one active owner at most, besides Pods that somebody deleted by force."""
        if not self._one_owner:
            return
        beside = self._since.get(run.child_id, frozenset())
        own = [other for other in self.runs if other.child_id == run.child_id and not other.given_up]
        own = [other for other in own if other.where not in beside]
        if self._many_active:
            own = [other for other in own if other.member == run.member]
        active = [other for other in own if other.role_now == "Active"]
        if len(active) > 1:
            places = ", ".join(f"{other.where} (epoch {other.epoch})" for other in active)
            self._trace.break_promise(f"child {run.child_id} has {len(active)} active owners: {places}")
        if run.role_now == "Active" and not self._many_active:
            highest = self._active.get(run.child_id, 0)
            if run.epoch < highest and (run.child_id, run.epoch) not in self._epochs_again:
                self._trace.break_promise(f"child {run.child_id} is active with epoch {run.epoch}, after {highest}")
            self._active[run.child_id] = max(highest, run.epoch)

    def executes(self, run: Run | PodRun, number: int) -> None:
        """Check that a request is executed once at most, alone, and not after an answer that says that it was not."""
        where = f"{run.child_id} on {run.where}"
        self._trace.note(run.member, f"child {run.child_id} handles request {number}")
        if number in self._executed:
            self._trace.break_promise(f"request {number} is executed by {self._executed[number]}, and by {where}")
        if number in self._unbegun:
            self._trace.break_promise(f"request {number} is executed by {where}, after {self._unbegun[number]}")
        if run.handles:
            self._trace.break_promise(f"request {number} is executed by {where} beside {run.handles}")
        self._executed[number] = where

    def answered(self, number: int, child_id: str, answer: str) -> None:
        """Check the answer to a request."""
        code = answer.partition(" ")[0]
        if code == "200" and number not in self._executed:
            self._trace.break_promise(f"request {number} for {child_id} was executed by nobody: {answer}")
        if code in _UNBEGUN:
            if number in self._executed:
                self._trace.break_promise(
                    f"request {number} for {child_id} was executed by {self._executed[number]}: {answer}"
                )
            self._unbegun[number] = answer

    def _check_state(self, run: Run, state: bytes) -> None:
        theirs, own = _object(state), _object(run.incarnation)
        if theirs != own and (theirs, own) not in self._adopted:
            self._trace.break_promise(f"child {run.incarnation!r} starts with the state of another: {state!r}")
        # A run that was up and lost before it could be reported is known to nobody but its own agent.
        since = self._ups[run.child_id][self._left.get(state, 0) :]
        if any(up.reported or up.agent == run.where for up in since):
            self._trace.break_promise(f"child {run.child_id} starts with {state!r}, and was up since it had left that")

    def _check_term(self, run: Run, read: Iterable[int]) -> None:
        name = run.where
        self._terms[name] = highest = max(self._terms.get(name, 0), *read)
        incarnation = (name, run.child_id, run.desired.assignment.started_with)
        # An agent restarts its own children, as that changes no owner: it has read the entry under its Lease.
        if run.desired.term < highest and incarnation not in self._run_before:
            self._trace.break_promise(
                f"child {run.child_id} starts from a slice of term {run.desired.term}, and its agent has read {highest}"
            )
        self._run_before.add(incarnation)


def _object(state: bytes) -> tuple[str, str]:
    """Return the id and the uid of the object whose state has this name."""
    child_id, _, uid = state.partition(b" ")[0].decode().rpartition("/")
    return child_id, uid
