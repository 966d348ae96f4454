"""The reports after each round: the statuses of Hubs, Children and ChildSets, and Events.

A status is computed from the latest observation of its hub. The status of a Child is computed when it is written, by
workers that serve all hubs, and not in the round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from processhub.api.child import Child, ChildStatus
from processhub.api.childset import ChildSet, ChildSetStatus
from processhub.api.hub import Hub, HubStatus
from processhub.api.reasons import GroupReason
from processhub.cluster.client import Client
from processhub.cluster.timestamps import now_seconds
from processhub.controller import metrics
from processhub.controller.objects.owned import selector_of
from processhub.controller.observe.members import Member
from processhub.controller.observe.observation import Observation
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.report.child import (
    child_status,
    copies_of,
    first_started,
    forget_deleted,
    hub_not_found,
    life_of,
    of_hub,
)
from processhub.controller.report.childqueue import ChildStatuses
from processhub.controller.report.childset import child_set_status, refused_set_status, tallies
from processhub.controller.report.deferredwrites import ChildKey
from processhub.controller.report.eventrules import emit
from processhub.controller.report.hub import hub_status, refused_status, stalled_status
from processhub.controller.report.hubprogress import Work
from processhub.controller.report.memory import ReportMemory
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.report.statusrate import OF_HUBS, OF_SETS
from processhub.controller.report.writer import AppliedStatuses
from processhub.controller.rounds.round import Requeue, Round
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.controller.store.informers import Store
from processhub.core.acceptance import Refusal, invalid
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan

T = TypeVar("T")
_MANY_CHANGES_SECONDS = 2.0  # Between writes of a Hub's status while many entries are under way, as slices go first.
_REFUSED_SECONDS = 1.0  # Until the next round of a refused Hub, if a status had to wait.


class Reporter:
    """Reports the rounds of all hubs.

    ``refusal_of(hub)`` returns why a Hub's spec is not accepted, or None. ``outdated()`` returns what the CRDs in the
    cluster lack, or "".
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        wake: Callable[[HubKey], None],
        refusal_of: Callable[[Hub], Refusal | None],
        outdated: Callable[[], str] = lambda: "",
    ) -> None:
        self._store, self._refusal_of, self._outdated = store, refusal_of, outdated
        self._observed: dict[HubKey, tuple[Observation, ReportMemory]] = {}
        self._refused = RefusedStatuses(wake)
        self._hubs = AppliedStatuses(client, store, wake, OF_HUBS, self._refused)
        self._sets = AppliedStatuses(client, store, wake, OF_SETS, self._refused)
        self._children = ChildStatuses(client, store, self._latest_child_status, self._refused)

    async def run(self) -> None:
        """Write the statuses of Children until cancelled."""
        await self._children.run()

    async def close(self) -> None:
        """End the writes that are under way; ``run`` was cancelled."""
        await self._hubs.close()
        await self._sets.close()

    def throttle(self, key: HubKey, many_changes: bool) -> None:
        """Set whether writes of the hub's Child statuses are throttled."""
        self._children.throttle(key, many_changes)

    # After a round.

    def round_ended(
        self,
        round: Round,
        memory: ReportMemory,
        observation: Observation,
        plan: Plan,
        members: Mapping[str, Member],
        quorum: QuorumWatch | None,
    ) -> Observation:
        """Post the round's Events and queue the statuses of changed Children; returns the observation with ``members``.

        ``members`` are judged after the round's writes, so that statuses show the record after them. The ids that
        changed in this round are added to ``round.changed``.
        """
        key, changed = round.hub.metadata.key, round.changed
        self._refused.note(key, round.steps)
        self._observed[key] = msgspec.structs.replace(observation, members=members), memory
        lives = {name: life_of(member) for name, member in members.items()}
        # A member that was lost is reported as lost, even if it is back by now, because its children went to others.
        members = {name: _with_judgement(member, observation.members.get(name)) for name, member in members.items()}
        fresh = msgspec.structs.replace(observation, members=members)
        for name, member in members.items():
            if memory.lives.get(name) != lives[name] or name in memory.troubled:
                for known in member.slices:
                    changed |= known.assignments.keys() | known.reports.keys()
        changed |= _differing(plan.unplaced, memory.unplaced)
        emit(round, fresh, plan, memory, quorum)
        forget_deleted(changed, round.state.children, memory)
        names = _differing(observation.refusals, memory.refusals)
        names.update(name for child_id in changed for name in round.state.children.by_id.get(child_id, ()))
        self._mark(key, sorted(names))  # So statuses are written in the same order in each run of the same program.
        memory.unplaced, memory.refusals = dict(plan.unplaced), observation.refusals
        memory.lives = lives
        metrics.CHILDREN.labels(*key).set(len(observation.snapshot.to_run))
        metrics.MEMBERS.labels(*key).set(sum(member.phase is Phase.LIVE for member in members.values()))
        return fresh

    def report_hub(
        self, round: Round, memory: ReportMemory, plan: Plan, refusal: Refusal | None, followed: int
    ) -> None:
        """Write the status of the Hub after a round.

        ``refusal``: why the spec, or a part of it, is not followed. ``followed``: the generation of the spec that was.
        """
        hub = round.hub
        observation, _ = self._observed[hub.metadata.key]
        trouble = round.steps.trouble() if refusal is None else (refusal.reason, refusal.message)
        if trouble is None and (outdated := self._outdated()):
            trouble = GroupReason.CRD_OUTDATED, outdated
        compute = partial(
            hub_status,
            hub,
            Work(observation, plan, memory.template, round.steps.failing, round.state.children.admitted),
            refusal=refusal,
            trouble=trouble,
            followed=followed,
            troubles=memory.troubles,
            note=memory.unknown.message,
        )
        self._write_hub(hub, memory, lambda: _completed(compute(now_seconds()), memory), round.requeue)

    def report_sets(self, round: Round, plan: Plan) -> None:
        """Write the statuses of the hub's ChildSets after a round."""
        key = round.hub.metadata.key
        observation, _ = self._observed[key]
        seen_sets = (seen for seen in observation.sets.values() if isinstance(seen.known.object, ChildSet))
        # Its status may have been written since it was observed.
        sets = {seen.known.metadata.uid: round.state.sets.present(seen) for seen in seen_sets}

        def compute() -> dict[str, ChildSetStatus]:
            counted = tallies(sets, observation.members, len(observation.snapshot.record))
            return {
                uid: child_set_status(seen, counted[uid], plan.unplaced, now_seconds(), selector_of(round.hub))
                for uid, seen in sets.items()
            }

        objects = (seen.known.object for seen in sets.values())
        self._sets.report(key, [it for it in objects if isinstance(it, ChildSet)], compute, round.requeue)

    # Without a round.

    def refuse(self, round: Round, memory: ReportMemory, refusal: Refusal) -> None:
        """Report on the Hub, its Children and its ChildSets that the Hub is not accepted."""
        hub, key, waiting = round.hub, round.hub.metadata.key, Requeue()
        self._observed.pop(key, None)
        self._mark(key, round.state.children)
        self._write_hub(hub, memory, lambda: _completed(refused_status(hub, refusal, now_seconds()), memory), waiting)
        self._refuse_sets(key, round.state, of_hub(refusal), waiting)
        if waiting.after is not None:
            round.again_in(_REFUSED_SECONDS)

    def report_stalled(self, round: Round, memory: ReportMemory) -> None:
        """Report that nothing can be done for the Hub now."""
        hub, trouble = round.hub, round.steps.trouble()
        self._write_hub(hub, memory, lambda: stalled_status(hub, trouble, now_seconds()), round.requeue)

    def report_no_hub(self, key: HubKey, state: HubState, requeue: Requeue) -> None:
        """Report on Children and ChildSets that their hub does not exist."""
        self._observed.pop(key, None)
        self._mark(key, state.children)
        self._hubs.forget(key)
        self._refused.forget(key)
        self._refuse_sets(key, state, self._no_hub(key), requeue)

    def _latest_child_status(self, key: ChildKey) -> tuple[Child, ChildStatus] | None:
        child = self._store.child(key)
        if child is None or child.metadata.deletion_timestamp is not None:
            return None
        hub_key = (key[0], child.spec.hub)
        hub = self._store.hubs.get(hub_key)
        if hub is None:
            return child, child_status(child, [], self._no_hub(hub_key), None, now_seconds())
        if hub_key not in self._observed:
            refused = self._refusal_of(hub)
            if refused is None:
                return None  # The first round has not ended yet.
            return child, child_status(child, [], of_hub(refused), None, now_seconds())
        observation, memory = self._observed[hub_key]
        if not observation.has_seen(child):
            return None  # The next round will have seen it.
        copies = copies_of(child.id, observation.members)
        refusal, unplaced = observation.refusals.get(child.metadata.name), memory.unplaced.get(child.id)
        started = first_started(child, copies, memory)
        wanted = observation.snapshot.children.get(child.id)
        if wanted is not None and wanted.uid != child.metadata.uid:
            wanted = None
        status = child_status(child, copies, refusal, unplaced, now_seconds(), started, memory.troubles, wanted)
        return child, status

    def _no_hub(self, key: HubKey) -> Refusal:
        if error := self._store.unread_hub(key):
            return of_hub(invalid(f"the hub can't be read: {error}"))
        return hub_not_found(key, [name for namespace, name in self._store.hubs if namespace == key[0]])

    def _refuse_sets(self, key: HubKey, state: HubState, refusal: Refusal, requeue: Requeue) -> None:
        items = [known.object for known in state.sets.values() if isinstance(known.object, ChildSet)]

        def compute() -> dict[str, ChildSetStatus]:
            return {item.metadata.uid: refused_set_status(item, refusal, now_seconds()) for item in items}

        self._sets.report(key, items, compute, requeue)

    def _write_hub(self, hub: Hub, memory: ReportMemory, compute: Callable[[], HubStatus], requeue: Requeue) -> None:
        """Write the Hub's status if it differs. If it has to wait, another round is asked for."""
        current = self._store.hubs.get(hub.metadata.key)
        if current is None or current.metadata.uid != hub.metadata.uid:
            return  # It was re-created during the round. This status is of its predecessor.
        spacing = _MANY_CHANGES_SECONDS if memory.many_changes else 0.0
        uid = current.metadata.uid
        self._hubs.report(hub.metadata.key, (current,), lambda: {uid: compute()}, requeue, spacing=spacing)

    def _mark(self, key: HubKey, names: Iterable[str]) -> None:
        for name in names:
            self._children.mark((key[0], name))


def _completed(status: HubStatus, memory: ReportMemory) -> HubStatus:
    """The status of a Hub with the hooks that were last found to be in effect, and its members' TLS."""
    return msgspec.structs.replace(status, hooks=memory.hooks, tls=memory.tls)


def _differing(now: Mapping[str, T], before: Mapping[str, T]) -> set[str]:
    """The keys whose values differ."""
    return {key for key in now.keys() | before.keys() if now.get(key) != before.get(key)}


def _with_judgement(member: Member, before: Member | None) -> Member:
    """The member with the judgement that the plan was made from."""
    return member if before is None else msgspec.structs.replace(member, judgement=before.judgement)
