"""Reversals of single rules of the product, each of which the simulator must find: a proof of the simulator."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from processhub.agent.app import Agent
from processhub.agent.children.child import Child
from processhub.agent.env import Environment
from processhub.agent.handover.transfer import Handovers
from processhub.agent.lease.keeper import LeaseKeeper
from processhub.agent.lease.record import LeaseRecord
from processhub.agent.lease.validity import Renewal, Validity
from processhub.agent.permit import Permit
from processhub.agent.registry import slicewatcher
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.agent.requests.activation import Activations
from processhub.agent.supervisor import Supervisor
from processhub.api.kubernetes import Pod
from processhub.api.slice import Activation
from processhub.cluster.errors import ApiError
from processhub.cluster.informer import Informer
from processhub.controller import engine, reconcile
from processhub.controller.execute import executor, podchildren, slicewriter
from processhub.controller.execute.moverequests import MoveRequests
from processhub.controller.lead.notedterm import Noted
from processhub.controller.lead.takeover import TermsRaised
from processhub.controller.observe import members, observation, views
from processhub.controller.observe.memory import Epochs
from processhub.controller.report.childqueue import ChildStatuses
from processhub.controller.rounds.round import Round
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.controller.store.informers import Store
from processhub.controller.store.slices import KnownSlice, Slices
from processhub.core.model import activation
from processhub.core.model.activation import Standing, View, ViewPhase
from processhub.core.model.membership import Judgement, MemberFacts, judge
from processhub.core.model.snapshot import DesiredChild, OnRecord
from processhub.core.planning import underview
from processhub.core.planning.builder import PlanBuilder
from processhub.core.planning.steps import ChildSteps
from processhub.registry.grammar import Assignment


class Mutant(NamedTuple):
    """``breaks``: the promise that is broken. ``where`` and ``name``: the function that ``instead`` replaces.

    ``found_by``: a seed that found it. A change of the product changes what the seeds do: another may find it now.
    """

    breaks: str
    where: Any
    name: str
    instead: Any
    found_by: int = 0

    def put_in(self) -> AbstractContextManager[object]:
        """Break the product during a block."""
        return patch.object(self.where, self.name, self.instead)


def _judge_early(facts: MemberFacts) -> Judgement:
    return judge(msgspec.structs.replace(facts, unrenewed_seconds=facts.unrenewed_seconds * 2))


async def _always(*_: object) -> bool:
    return True


async def _unnoted(round: Round, _own: Noted) -> Round:
    return round


async def _nothing(*_: object) -> None: ...


async def _raise_none(*_: object) -> TermsRaised:
    return TermsRaised({}, {})


def _no_one(*_: object) -> list[str]:
    return []


_no: Callable[..., None] = lambda *_: None  # noqa: E731
_resolve, _prove, _possibly_running = SliceWatcher._resolve, KnownSlice.prove, KnownSlice.possibly_running
_mark, _continued, _renew = ChildStatuses.mark, Child.set_desired, Validity.renew

_owner, _activation, _refreshed = Activations.find_or_start, Activations._activation, PlanBuilder.refreshed
_event, _take, _record = Informer._event, Informer._take, LeaseRecord.__init__
_known_pod = Store._known_child_pod


def _refreshed_anew(self: PlanBuilder, child: DesiredChild, place: OnRecord, role: str) -> Assignment | None:
    return self.assignment(child, role=role) if _refreshed(self, child, place, role) is not None else None


def _resolve_any_term(self: SliceWatcher, child: str) -> DesiredRun | None:
    found = _resolve(self, child)
    return found and dataclasses.replace(found, startable=found.restartable)


def _resolve_any_grant(self: SliceWatcher, child: str) -> DesiredRun | None:
    found = _resolve(self, child)
    runs = found is not None and not found.assignment.wait
    return found and dataclasses.replace(found, startable=runs, restartable=runs)


def _resolve_waiting(self: SliceWatcher, child: str) -> DesiredRun | None:
    found = _resolve(self, child)
    return found and dataclasses.replace(found, startable=True)


def _prove_by_anybody(self: KnownSlice, _holder: str) -> None:
    _prove(self, self.present.status.holder)


def _mark_once(self: ChildStatuses, key: tuple[str, str]) -> None:
    if key not in self._writing:
        _mark(self, key)


def _keep_running(self: Child, desired: DesiredRun | None) -> None:
    if desired is not None or not self.alive:
        _continued(self, desired)


def _epochs_of_no_term(self: Epochs, _term: int, used: int = 0) -> None:
    self._first = 10**9
    self.next = self._first + used


def _renew_in_session(self: Validity, began: float, seconds: int, *, taken: bool) -> Renewal:
    session = self.session
    renewal = _renew(self, began, seconds, taken=taken)
    self.session = session or self.session
    return renewal


def _event_of_the_living(self: Informer[Any], event: Any) -> None:
    if event.type != "DELETED":
        _event(self, event)


def _take_older(self: Informer[Any], item: Any, *, rewound: bool = False) -> None:
    _take(self, item, rewound=True)


async def _try_once(self: ChildStatuses, key: tuple[str, str]) -> None:
    with contextlib.suppress(Exception):
        await self._child(key)


def _record_of_the_pod(self: LeaseRecord, env: Environment) -> None:
    _record(self, env)
    self.identity = f"{env.pod_uid}/0"


def _feed_late(self: Validity) -> None:
    if self.settings.fence and self.renewed_at:
        self._feed.set(self.renewed_at + self.seconds + 3, self.renewed_at + self.seconds + 6)
    else:
        self._feed.set(0, 0)


async def _stop_some(self: Supervisor, grace: float, _max_wait: float) -> None:
    for child in list(self.children.values()):
        child.stop(grace)


def _start_here(self: Activations, child_id: str) -> RoutedCopy | None:
    if child_id not in self._slices.made and self._routing_view() is not None:
        self._start(child_id)
    return _owner(self, child_id)


def _open_for_all(self: Activations) -> Activation | None:
    order = _activation(self)
    return order and msgspec.structs.replace(order, phase=ViewPhase.OPEN)


def _granted_to_all(self: Activations) -> Activation | None:
    order = _activation(self)
    return order and msgspec.structs.replace(order, holder=self._identity)


def _told_to_close(_view: View, standing: Standing | None) -> bool:
    return standing is None or standing.phase is ViewPhase.CLOSING


def _leave_at_once(_self: object, _child_id: str, place: OnRecord) -> dict[str, None]:
    return {place.member: None}


def _share_all(limit: int, _counts: object, members: Sequence[str], *_: object) -> dict[str, int]:
    return dict.fromkeys(members, limit)


def _gone_from_the_watch(self: Store, key: HubKey, known: Pod, new: Pod | None) -> None:
    if new is None:
        self.child_pod_gone(key, known.metadata.name)
        self._wake(key)
    else:
        _known_pod(self, key, known, new)


MUTANTS = {
    "lease-of-another-pod": Mutant(
        "an agent waits for the Lease that another pod of its member holds (docs/protocol.md, rule 9)",
        LeaseKeeper, "_max_wait", lambda *_: 0.0,
    ),
    "start-without-lease": Mutant(
        "without the Lease an agent starts nothing (docs/protocol.md, rule 9)", Permit, "held", True
    ),
    "no-deadline": Mutant(
        "the watchdog ends the children of an agent that does not renew (docs/protocol.md, rule 11)",
        Validity, "_feed_deadlines", _no, 5,
    ),
    "judged-early": Mutant(
        "a member is gone only when its Lease has run out (docs/protocol.md, rules 10 and 11)",
        members, "judge", _judge_early, 2,
    ),
    "order-unanswered": Mutant(
        "an order to move a child is answered", MoveRequests, "record_results", _nothing, 8
    ),
    "edit-unseen": Mutant(
        "an agent restarts a child whose workload has changed (docs/protocol.md, rule 6)",
        DesiredRun, "same_run", lambda *_: True, 6,
    ),
    "deletions-unseen": Mutant(
        "what is deleted while a watch is cut is noticed (docs/protocol.md, rule 4)",
        Informer, "_event", _event_of_the_living, 5,
    ),
    "state-kept": Mutant(
        "a crash restart never gets a state that came by a handover (docs/protocol.md, rule 20)",
        Handovers, "started", _no, 9,
    ),
    "end-unawaited": Mutant(
        "an agent releases its Lease when its last child has ended (docs/protocol.md, rule 9)",
        Supervisor, "stop_all", _stop_some, 5,
    ),
    "deadline-late": Mutant(
        "children have ended before their member's Lease has run out for others (docs/protocol.md, rule 11)",
        Validity, "_feed_deadlines", _feed_late, 5,
    ),
    "waiting-starts": Mutant(
        "an entry that waits starts nothing (docs/protocol.md, rule 8)", SliceWatcher, "_resolve", _resolve_waiting, 9
    ),
    "reports-unread": Mutant(
        "what a member reports beside its entries may run there (docs/protocol.md, rule 7)",
        KnownSlice, "possibly_running", lambda *_: set(), 8,
    ),
    "removal-ignored": Mutant(
        "an agent stops what has no entry (docs/protocol.md, rule 7)", Child, "set_desired", _keep_running
    ),
    "epochs-of-no-term": Mutant(
        "epochs of a later term are above those of an earlier one (docs/protocol.md, rule 3)",
        Epochs, "__init__", _epochs_of_no_term, 2,
    ),
    "status-marked-once": Mutant(
        "a status that changes while it is written is written again", ChildStatuses, "mark", _mark_once, 4
    ),
    "end-forgotten": Mutant(
        "a child that has ended for good is not started by its next member (docs/protocol.md, rule 34)",
        ChildSteps, "end_of", lambda *_, **__: "", 3,
    ),
    "started-anywhere": Mutant(
        "only the member that the view names for an id starts it (docs/protocol.md, rule 27)",
        Activations, "find_or_start", _start_here, 11,
    ),
    "reports-unrecorded": Mutant(
        "what members have started is put on record (docs/protocol.md, rule 31)",
        reconcile, "with_recorded", lambda plan, *_: plan, 7,
    ),
    "edit-restarts": Mutant(
        "an edit of tags restarts no process (docs/protocol.md, rule 3)", PlanBuilder, "refreshed", _refreshed_anew, 8
    ),
    "place-lost": Mutant(
        "a suspended child stays put (docs/protocol.md, rule 8)", PlanBuilder, "loses_its_place", lambda *_: True, 33
    ),
}  # fmt: skip

# Mutants of rules about children on demand, which only odd seeds have.
ON_DEMAND = frozenset({"started-anywhere", "reports-unrecorded"})
EDITING = frozenset({"edit-restarts", "place-lost"})  # only seeds in which users edit what runs find these

# Mutants that none of the seeds 0 to 4 has found. A story finds each of them (test_stories_needed.py).
RARE = {
    "slices-unread": Mutant(
        "an agent that has taken the Lease reads its slices before it starts anything (docs/protocol.md, rule 9)",
        SliceWatcher, "refresh", _nothing,
    ),
    "back-at-once": Mutant(
        "a pod that is back by a restore of etcd waits for what ran meanwhile (docs/protocol.md, rule 4)",
        LeaseRecord, "has_run", True,
    ),
    "gone-slices-shown": Mutant(
        "nothing is started by what a slice once said that was gone when the list was read (docs/protocol.md, rule 9)",
        slicewatcher._OwnSlices, "lack", lambda *_: False,
    ),
    "older-lists-believed": Mutant(
        "a list that is older than what was seen is refused (docs/protocol.md, rule 4)", Informer, "_is_older", _no
    ),
    "term-unnoted": Mutant(
        "the term is in the Hub's status before an epoch of it is given (docs/protocol.md, rule 1)",
        reconcile, "note_term", _unnoted,
    ),
    "other-holder-ignored": Mutant(
        "an agent that sees another holder of its Lease ends (docs/protocol.md, rule 9)",
        Agent, "_other_holder", _no,
    ),
    "older-taken": Mutant(
        "an object that is older than the known one is ignored (docs/protocol.md, rule 4)",
        Informer, "_take", _take_older,
    ),
    "leftovers-unseen": Mutant(
        "nothing is made for a Hub while objects of an earlier one are there (docs/protocol.md, rule 14)",
        HubState, "leftovers", _no_one,
    ),
    "status-untried": Mutant(
        "a status whose write fails is written again", ChildStatuses, "_retrying", _try_once
    ),
    "round-unasked": Mutant(
        "a round that could not do all asks for another", Round, "again_in", _no
    ),
    "identity-kept": Mutant(
        "the holder of a Lease has a name that is new for each process (docs/protocol.md, rule 9)",
        LeaseRecord, "__init__", _record_of_the_pod,
    ),
    "clocks-run-on": Mutant(
        "the clocks of Leases are restarted when they could not be observed (docs/protocol.md, rule 11)",
        Store, "_lease_watch_back", _no,
    ),
    "blind-judgement": Mutant(
        "nothing follows from a Lease while renewals could not be seen (docs/protocol.md, rule 11)",
        Store, "leases_observed", lambda *_: True,
    ),
    "session-goes-on": Mutant(
        "an agent whose Lease ran out reads its slices again (docs/protocol.md, rule 9)",
        Validity, "renew", _renew_in_session,
    ),
    "term-not-raised": Mutant(
        "a new leader raises the term of all slices before it plans (docs/protocol.md, rule 2)",
        engine, "raise_terms", _raise_none,
    ),
    "any-term-starts": Mutant(
        "an agent starts nothing new from a slice of an earlier term (docs/protocol.md, rule 2)",
        SliceWatcher, "_resolve", _resolve_any_term,
    ),
    "any-grant-starts": Mutant(
        "an agent starts nothing that was granted to another process (docs/protocol.md, rule 15)",
        SliceWatcher, "_resolve", _resolve_any_grant,
    ),
    "new-holder-unheard": Mutant(
        "a new process acknowledges a grant before it counts as one that runs nothing (docs/protocol.md, rule 10)",
        members, "_answered", lambda *_: True,
    ),
    "gone-unread": Mutant(
        "the Lease of a member is read once more before its children go elsewhere (docs/protocol.md, rule 10)",
        executor, "_is_as_judged", _always,
    ),
    "removal-unproven": Mutant(
        "another owner starts only when the end of the former is acknowledged (docs/protocol.md, rule 7)",
        slicewriter, "_removed", _no_one,
    ),
    "proved-by-anybody": Mutant(
        "only the present holder of the Lease proves an end (docs/protocol.md, rule 7)",
        KnownSlice, "prove", _prove_by_anybody,
    ),
    "outcome-known": Mutant(
        "a write without an answer may have been stored (docs/protocol.md, rule 5)",
        ApiError, "outcome_unknown", property(lambda _: False),
    ),
    "uncertain-forgotten": Mutant(
        "an entry whose write was not answered may be on record (docs/protocol.md, rule 5)",
        Slices, "uncertain", lambda *_: frozenset(),
    ),
    "closing-starts": Mutant(
        "nothing is started under a view that closes (docs/protocol.md, rule 27)",
        Activations, "_activation", _open_for_all,
    ),
    "block-of-another": Mutant(
        "a block of epochs is for one holder of the Lease (docs/protocol.md, rule 28)",
        Activations, "_activation", _granted_to_all,
    ),
    "made-kept": Mutant(
        "what is on no record ends when its Lease was lost and its view is over (docs/protocol.md, rule 29)",
        Activations, "retake", _no,
    ),
    "closed-at-once": Mutant(
        "each member acknowledges that a view closes (docs/protocol.md, rule 30)",
        activation, "_has_closed", _told_to_close,
    ),
    "opened-unready": Mutant(
        "the next view is opened when all that was started is on record (docs/protocol.md, rule 30)",
        views, "is_ready", lambda *_: True,
    ),
    "placed-anywhere": Mutant(
        "a new entry is for the member that the view names (docs/protocol.md, rule 31)",
        underview._Restriction, "_comes", lambda _self, _child, changes: changes,
    ),
    "left-at-once": Mutant(
        "an entry leaves the record after its end, and after the next block (docs/protocol.md, rules 28 and 32)",
        underview._Restriction, "_leaves", _leave_at_once,
    ),
    "shares-of-all": Mutant(
        "the shares of the members add up to onDemand.max at most (docs/protocol.md, rule 33)",
        views, "shares", _share_all,
    ),
    "deleted-unnoted": Mutant(
        "what a deleted slice had is not started before the next view (docs/protocol.md, rule 27)",
        Activations, "registry_changed", _no,
    ),
    "acknowledged-unread": Mutant(
        "an agent acknowledges a slice when its watch has come so far (docs/protocol.md, rule 7)",
        SliceWatcher, "has_read", lambda *_: True,
    ),
    "pods-unseen": Mutant(
        "while a Pod of an id is there nothing else of it starts (docs/protocol.md, rule 23)",
        observation, "_pods_of_children", lambda *_: {},
    ),
    "pod-kept": Mutant(
        "a Pod of another incarnation than that on record is deleted (docs/protocol.md, rule 23)",
        podchildren, "to_be_deleted", lambda *_: False,
    ),
    "pod-gone-unread": Mutant(
        "a Pod that has left the watch is read before it counts as gone (docs/protocol.md, rule 23)",
        Store, "_known_child_pod", _gone_from_the_watch,
    ),
    "pod-unmarked": Mutant(
        "no entry changes of a child whose Pod has lost its labels (docs/protocol.md, rule 23)",
        observation, "_unmarked", lambda *_: set(),
    ),
    "pod-off-the-record": Mutant(
        "an id stays on record while its Pod is there (docs/protocol.md, rule 30)",
        reconcile, "with_pods", lambda _snapshot, plan, *_: plan,
    ),
    "registry-behind": Mutant(
        "a member starts nothing that it may not have read of others (docs/protocol.md, rule 27)",
        SliceWatcher, "reads_others_as_own", True,
    ),
}  # fmt: skip
