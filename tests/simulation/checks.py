"""Checks after every step, and checks at rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memoryapi import Json
from memoryrequests import Key

from builders import reports_of
from processhub.api.reasons import Reason, State
from processhub.registry.grammar import Assignment, parse_assignment, parse_report

from .childpods import PodRun
from .finishing import Finished, rests
from .machines import Run
from .naming import command_of, is_member, members_of
from .trace import Trace

if TYPE_CHECKING:
    from .world import World

# Reasons for which a declared child may be at rest without a process.
_GOOD_REASONS = {Reason.SUSPENDED, Reason.NO_MEMBERS, Reason.CAPACITY_EXCEEDED, Reason.MEMBER_UNAVAILABLE}

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

    def stored(self, key: Key, before: Json | None, after: Json | None) -> None:
        """Check a change at the API server."""
        self.finished.stored(key, before, after)
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

    def changed(self, run: Run, what: str, read: Iterable[int]) -> None:
        """Check the start, the end or the new role of a process. ``read``: the terms of its agent's slices."""
        self._trace.note(run.member, f"child {run.child_id} (epoch {run.epoch}, pid of {run.where}) {what}")
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
        if self._one_owner and begins and run.state:
            self._check_state(run, run.state)
        self._check_active(run)

    def pod_changed(self, run: PodRun, what: str) -> None:
        """Check the start, the end or the new role of a pod child's process."""
        self._trace.note(run.member, f"child {run.child_id} (epoch {run.epoch}, pod {run.where}) {what}")
        if not run.runs:
            self.runs.pop(run, None)
            return
        if run not in self.runs:
            self.runs[run] = None
            self._ups[run.child_id].append(_Up(run.where, run.epoch))
            self._note_epoch(run.pod.started_with, run.child_id, run.member)
        self._check_active(run)

    def _check_active(self, run: Run | PodRun) -> None:
        """Check that the child has one active owner at most, besides Pods that somebody deleted by force."""
        if not self._one_owner:
            return
        own = [other for other in self.runs if other.child_id == run.child_id and not other.given_up]
        active = [other for other in own if other.role_now == "Active"]
        if len(active) > 1:
            places = ", ".join(f"{other.where} (epoch {other.epoch})" for other in active)
            self._trace.break_promise(f"child {run.child_id} has {len(active)} active owners: {places}")
        if run.role_now == "Active":
            highest = self._active.get(run.child_id, 0)
            if run.epoch < highest:
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


def unrest(world: World) -> list[str]:
    """Return what is wrong at rest, each as a sentence."""
    objects = world.server.objects
    hub = objects.get(Key("hubs", "ns", "hub"))
    if hub is None:
        return ["there is no hub"]
    runs = [run for run in world.checks.runs if not run.given_up]
    found = [
        *(
            f"pod {key.name} is not ready"
            for key, pod in objects.items()
            if key.plural == "pods" and is_member(pod) and not _is(pod, "Ready")
        ),
        *_hub_unrest(hub),
    ]
    declared = {key.name: item for key, item in objects.items() if key.plural == "children"}
    for name, item in declared.items():
        found += _child_unrest(item, [run for run in runs if run.child_id == name], hub)
    for key, item in objects.items():
        if key.plural == "childsets":
            ids = [f"{key.name}-{number}" for number in range(item["spec"]["replicas"])]
            found += _set_unrest(item, ids, runs, _copies(hub))
            declared.update(dict.fromkeys(ids, item))
    entries = {
        (item["spec"]["member"], child_id): parse_assignment(text)
        for key, item in objects.items()
        if key.plural == "registryslices"
        for child_id, text in item["spec"]["entries"].items()
    }
    found += _demand_unrest(world, hub, declared, entries)
    demanded = {child_id for (_, child_id), entry in entries.items() if entry.uid == hub["metadata"]["uid"]}
    declared.update(dict.fromkeys(demanded, hub))
    for run in runs:
        entry = entries.get((run.member, run.child_id))
        if entry is None or entry.epoch != run.epoch:
            found.append(f"child {run.child_id} runs on {run.member} with epoch {run.epoch}, which is on no record")
        if run.child_id not in declared:
            found.append(f"child {run.child_id} runs on {run.member}, and is not declared")
    for name, item in declared.items():
        if rests(item) and sum(child_id == name for _, child_id in entries) != 1:
            found.append(f"child {name} has ended, and is on record on {[at for at, own in entries if own == name]}")
    for member, child_id in entries:
        if child_id not in declared:
            found.append(f"child {child_id} is on record on {member}, and is not declared")
    return found


def _hub_unrest(hub: Json) -> list[str]:
    status = hub.get("status", {})
    found = []
    if status.get("observedGeneration") != hub["metadata"]["generation"]:
        found.append("the hub's status is of an earlier generation")
    if not _is(hub, "Ready"):
        found.append(f"the hub is not Ready: {_condition(hub, 'Ready').get('message')}")
    if _is(hub, "Stalled"):
        found.append(f"the hub is Stalled: {_condition(hub, 'Stalled').get('message')}")
    names = members_of(hub)
    # A member that is scaled away stays as long as the creation of its slice may still be stored.
    members = [member for member in status.get("members", ()) if member["name"] in names or member["pod"]]
    if sorted(member["name"] for member in members) != sorted(names):
        found.append(f"the hub's status has the members {[member['name'] for member in status.get('members', ())]}")
    return found


def _child_unrest(item: Json, runs: list[Run | PodRun], hub: Json) -> list[str]:
    name, status = item["metadata"]["name"], item.get("status", {})
    ready = _condition(item, "Ready")
    found = []
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        found.append(f"the status of child {name} is of an earlier generation")
    if "processhub.dev/move-to" in item["metadata"].get("annotations", {}):
        found.append(f"the order to move child {name} is not answered")
    wanted = 0 if item["spec"].get("suspend") or (not runs and rests(item)) else _copies(hub)
    if len(runs) != wanted and not (not runs and ready.get("reason") in _GOOD_REASONS):
        places = [run.where for run in runs]
        found.append(f"child {name} runs on {places}; its Ready is {ready.get('status')}, {ready.get('reason')}")
    found += [
        f"child {name} runs {run.command} on {run.member}, and its spec has another command"
        for run in runs
        if list(run.command) != command_of(item["spec"])
    ]
    active = [run for run in runs if run.role_now == "Active"]
    if runs and len(active) != 1:
        found.append(f"child {name} has {len(active)} active copies")
    if active and ready.get("status") != "True":
        found.append(f"child {name} runs, and its Ready is {ready.get('status')}, {ready.get('reason')}")
    if active and (status.get("member"), status.get("state")) != (active[0].member, "Running"):
        found.append(f"child {name} runs on {active[0].member}; its status says {status.get('member')}")
    if not active and ready.get("status") == "True":
        found.append(f"child {name} does not run, and is Ready")
    return found


def _set_unrest(item: Json, ids: list[str], runs: list[Run | PodRun], copies: int) -> list[str]:
    name, status, found = item["metadata"]["name"], item.get("status", {}), []
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        found.append(f"the status of set {name} is of an earlier generation")
    if (status.get("desired"), status.get("running")) != (len(ids), len(ids)):
        found.append(f"set {name} has {len(ids)} children; its status says {status}")
    command = command_of(item["spec"]["template"])
    for child_id in ids:
        own = [run for run in runs if run.child_id == child_id]
        if len(own) != copies or sum(run.role_now == "Active" for run in own) != 1:
            found.append(f"child {child_id} of set {name} runs on {[run.where for run in own]}")
        found += [f"child {child_id} runs {run.command}" for run in own if list(run.command) != command]
    return found


def _demand_unrest(
    world: World, hub: Json, declared: Mapping[str, Json], entries: Mapping[tuple[str, str], Assignment]
) -> list[str]:
    """Return what is wrong with the children that requests have started."""
    template, uid, found = hub["spec"].get("onDemand"), hub["metadata"]["uid"], []
    own = {place: entry for place, entry in entries.items() if entry.uid == uid}
    for (member, child_id), entry in own.items():
        runs = [run for run in world.checks.runs if run.child_id == child_id and run.member == member]
        if child_id in declared:
            found.append(f"child {child_id} is declared, and is on record on {member} as one that a request started")
        if template is None:
            found.append(f"child {child_id} is on record on {member}, and the hub has no onDemand")
        elif len(runs) != 1:
            found.append(f"child {child_id} is on record on {member}, and runs {len(runs)} times there: {entry}")
        elif list(runs[0].command) != command_of(template):
            found.append(f"child {child_id} runs {runs[0].command} on {member}, and onDemand has another command")
    found += [
        f"child {child_id} is on record on {member} and waits: {entry}"
        for (member, child_id), entry in entries.items()
        if entry.uid == "-"
    ]
    ids, most = {child_id for _, child_id in own}, (template or {}).get("max")
    if most is not None and len(ids) > most:
        found.append(f"{len(ids)} children run on demand, and onDemand.max is {most}")
    for key, item in world.server.objects.items():
        if key.plural == "registryslices" and item.get("status", {}).get("asks"):
            found.append(f"{key.name} asks for {item['status']['asks']}")
    for annotation in ("processhub.dev/stop", "processhub.dev/move-to"):
        if (orders := hub["metadata"].get("annotations", {}).get(annotation)) is not None:
            found.append(f"the orders of {annotation} are not answered: {orders}")
    if template is not None:
        found += _count_unrest(hub, entries, len(list(world.checks.runs)))
    return found


def _count_unrest(hub: Json, entries: Mapping[tuple[str, str], Assignment], runs: int) -> list[str]:
    status = hub.get("status", {})
    ids, counts = {child_id for _, child_id in entries}, status.get("children", {})
    found = []
    if status.get("registrySize", 0) != len(ids):
        found.append(f"{len(ids)} children are on record, and the hub's registrySize is {status.get('registrySize')}")
    if _copies(hub) == 1 and counts.get("running") != runs:
        found.append(f"{runs} children run, and the hub's status says {counts}")
    return found


def _copies(hub: Json) -> int:
    redundancy = hub["spec"].get("redundancy", {})
    factor = redundancy.get("replicationFactor", 2) if redundancy.get("strategy", "Singularity") != "Singularity" else 1
    drained = hub["metadata"].get("annotations", {}).get("processhub.dev/drained", "").split(",")
    return max(1, min(factor, len(set(members_of(hub)) - set(drained))))


def _condition(item: Json, kind: str) -> Json:
    conditions = item.get("status", {}).get("conditions", ())
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _is(item: Json, kind: str) -> bool:
    return _condition(item, kind).get("status") == "True"
