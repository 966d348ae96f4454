"""One round for one hub: observe, plan, execute, report. The only place where the stages meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from processhub.api.child import Child, ChildStatus
from processhub.api.childset import ChildSetStatus
from processhub.api.hub import Hub, HubStatus
from processhub.api.naming import (
    ANNOTATION_FORCE_SCALE_DOWN,
    ANNOTATION_PAUSED,
    ANNOTATION_QUORUM_RESET,
    member_ordinal,
)
from processhub.api.reasons import EventReason, Reason
from processhub.cluster.client import JSON_PATCH, Client
from processhub.cluster.errors import (
    ApiError,
    ConflictError,
    InvalidError,
    NamespaceTerminatingError,
    NotFoundError,
)
from processhub.cluster.kinds import HUBS
from processhub.cluster.timestamps import now_seconds
from processhub.controller import metrics
from processhub.controller.execute.callrights import CallRights
from processhub.controller.execute.executor import Executor, workload_texts
from processhub.controller.execute.lifetimes import Lifetimes, first_started
from processhub.controller.execute.memberlabels import label_pods
from processhub.controller.execute.memberleases import delete_lease, make_leases
from processhub.controller.execute.memory import CheckedTemplate, ExecuteMemory
from processhub.controller.execute.moverequests import MoveRequests
from processhub.controller.execute.ownedobjects import NameConflictError, OwnedObjects, Refused, supporting_objects
from processhub.controller.execute.podchildren import PodChildren
from processhub.controller.execute.podends import delete_all
from processhub.controller.execute.registrymarks import put_marks_back
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.execute.staticchildren import sync_static_children
from processhub.controller.execute.steps import Steps
from processhub.controller.hooks.hubhooks import Hooks
from processhub.controller.lead.terms import raise_terms
from processhub.controller.memory import HubMemory
from processhub.controller.objects.template import pod_template
from processhub.controller.objects.workload import workload
from processhub.controller.observe.customrules import CustomRules
from processhub.controller.observe.members import Member, observe_members, proven_members
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation, formation_wait, observe
from processhub.controller.observe.quorumwatch import QuorumWatch
from processhub.controller.report.child import child_status, copies_of
from processhub.controller.report.childset import ChildSetWriter, child_set_status, refused_set_status, tallies
from processhub.controller.report.eventrules import emit, emit_changed_pods
from processhub.controller.report.events import EventRecorder
from processhub.controller.report.hub import hub_status, refused_status, stalled_status
from processhub.controller.report.memory import ReportMemory
from processhub.controller.report.writer import ChildKey, StatusWriter
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.controller.store.informers import Store
from processhub.core.acceptance import Refusal, refuse_hub
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.planning.planner import plan as make_plan
from processhub.core.strategies import Strategy, strategy_of
from processhub.core.strategies.custom import CustomDistribution
from processhub.core.strategies.migration import CustomMigration, MigrationStrategy, migration_of
from processhub.extensions import own_strategies

_MANY = 32  # With more entries under way than this, writes of Child statuses are throttled: slices go first.
_MOVING_SECONDS = 0.5  # Moves under way are looked at again after this, whatever the watches show.
_TEMPLATE = "members can't be made as spec.members says"
_NAMESPACE_GOES_SECONDS = 10.0  # Whether a terminating namespace has gone is looked at again after this.
T = TypeVar("T")
log = logging.getLogger(__name__)


class Reconciler:
    """The leader's rounds. ``reconcile`` is the work of a queue keyed by hub."""

    def __init__(
        self, client: Client, store: Store, settings: OperatorSettings, term: int, wake: Callable[[HubKey], None]
    ) -> None:
        self.wake = wake
        self._client, self._store, self._settings, self._term = client, store, settings, term
        self._memory: dict[HubKey, HubMemory] = {}
        self._observed: dict[HubKey, Observation] = {}
        self._custom = own_strategies()
        # By hubs that are gone: one re-created under the name goes on from there (docs/protocol.md, rule 3).
        self._used_epochs = 0
        self.term_generations: dict[str, int] = {}  # slice's uid → generation with this leader's term
        self.behind: dict[HubKey, ApiError] = {}  # hubs for which nothing may be done before their terms are raised
        self.events = EventRecorder(client, settings.pod_name)
        self.rights = CallRights(client, settings.namespaces, store.hub_keys())
        self.status = StatusWriter(client, store, self._latest_child_status)
        self.sets = ChildSetWriter(client, store, wake)
        self.hooks = Hooks(self.events, term, settings.pod_name, store.hubs.values(), wake)
        self._paused: set[str] = set()  # uids of hubs

    async def reconcile(self, key: HubKey) -> float | None:
        """One round; the seconds until the next one is due without any event."""
        self.rights.look()
        hub, state = self._store.hubs.get(key), self._store.state(key)
        if hub is None or hub.metadata.deletion_timestamp is not None:
            return await self._without_hub(key, state)
        if self._is_paused(hub):
            return None
        memory = self._memory_of(hub, state)
        steps = Steps(memory.execute.failures, self.events, hub)
        try:
            if key in self.behind and not await self._catch_up(key, steps):
                trouble = steps.trouble()
                wait = self._write_hub(hub, memory, lambda: stalled_status(hub, trouble, now_seconds()))
            elif refusal := self._unreconcilable(hub, state, memory):
                wait = await self._refuse(key, hub, state, memory, steps, refusal)
            else:
                with metrics.ROUND_SECONDS.time():
                    wait = await self._round(key, _as_accepted(hub, memory), state, memory, steps)
        except NamespaceTerminatingError:
            log.info("hub %s/%s goes with its namespace", *key)
            return _NAMESPACE_GOES_SECONDS
        steps.end()
        return _soonest(wait, steps.again_in)

    async def _catch_up(self, key: HubKey, steps: Steps) -> bool:
        """Raise the terms of the hub's slices, which was refused when this leader began; whether that is done."""

        async def raise_them() -> None:
            raised = await raise_terms(self._client, self._store, (key[0],), self._term, key)
            if key in raised.behind:
                raise raised.behind[key]
            # A member that restarted may have read what the former leader removed just before.
            await self._store.read_leases()
            self.term_generations.update(raised.generations)
            del self.behind[key]

        return await steps.take("what an earlier leader has left of the hub can't be taken over", raise_them)

    def _is_paused(self, hub: Hub) -> bool:
        """Whether the hub is paused by its annotation; an Event is posted when that begins and ends."""
        uid, paused = hub.metadata.uid, hub.metadata.annotations.get(ANNOTATION_PAUSED) == "true"
        if paused and uid not in self._paused:
            self._paused.add(uid)
            self.events.about_hub(
                hub,
                EventReason.PAUSED,
                f"nothing is placed, moved or told in its status until the annotation {ANNOTATION_PAUSED} is taken off;"
                " what runs runs on",
            )
        elif not paused and uid in self._paused:
            self._paused.discard(uid)
            self.events.about_hub(hub, EventReason.RESUMED, "it is reconciled again")
        return paused

    async def close(self) -> None:
        """End what is under way beside the rounds; none may begin any more."""
        await self.rights.close()
        await self.status.close()
        await self.sets.close()
        await self.hooks.close()

    # one round

    async def _refuse(
        self, key: HubKey, hub: Hub, state: HubState, memory: HubMemory, steps: Steps, refusal: Refusal
    ) -> float | None:
        """The round of a hub that is not accepted: its objects are kept as they were, and its children report why."""
        now = asyncio.get_running_loop().time()
        marks_in = await put_marks_back(self._client, self._store, hub, state, memory.execute, now, steps)
        self._observed.pop(key, None)
        self._mark_children(key, state)
        state.dirty |= state.by_id.keys()  # their statuses change once the hub is accepted
        owned = self._owned(hub, memory)
        _note_refused(steps, await owned.keep_last(now))
        wait = self._write_hub(hub, memory, lambda: refused_status(hub, refusal, now_seconds()))
        wait = _soonest(wait, self._refuse_sets(key, state, _of_hub(refusal)))
        again = 1.0 if wait is not None or refusal.reason is Reason.NAME_CONFLICT else None
        return _soonest(again, marks_in, owned.retry_in)

    async def _round(self, key: HubKey, hub: Hub, state: HubState, memory: HubMemory, steps: Steps) -> float | None:
        # What changes from here on may not be in this round's observation: it is reported after the next one.
        dirty, state.dirty = state.dirty, set()
        try:
            return await self._observe_and_act(key, hub, state, memory, steps, dirty)
        except BaseException:
            state.dirty |= dirty
            raise

    async def _observe_and_act(
        self, key: HubKey, hub: Hub, state: HubState, memory: HubMemory, steps: Steps, dirty: set[str]
    ) -> float | None:
        loop = asyncio.get_running_loop()
        pods = PodChildren(self._client, self._store, hub, state, memory.observe, memory.execute, steps)
        await pods.confirm_pods()
        writer = SliceWriter(self._client, self._store, hub, state, memory.observe, memory.execute, self._term)
        executor = Executor(self._client, self._store, state, writer, steps, self._term)
        look = partial(self._members, hub, state, memory.observe)
        members = await proven_members(lambda: look(loop.time()), executor.confirm_gone, copies=hub.spec.keeps_copies)
        observation, plan = self._plan(key, hub, state, memory, members)
        await make_leases(self._client, self._store, hub, state, members, steps)
        executed = await executor.execute(observation, plan, workload_texts(observation))
        await pods.follow(members, observation.owner, loop.time())
        emit_changed_pods(self.events, hub, observation, pods.changed)
        # Children made here are placed in the next round: a slow API server must not delay a failover.
        await sync_static_children(self._client, self._store, hub, state, steps)
        unplaced = {**plan.unplaced, **executed.unplaced, **pods.unplaced(), **observation.held}
        plan = msgspec.structs.replace(executed.plan, unplaced=unplaced)
        move_requests = MoveRequests(self._client, self._store, self.events, hub, memory.observe.applied_moves, steps)
        move_results_in = await move_requests.record_results(observation, plan.move_results, loop.time())
        lifetimes = Lifetimes(self._client, state, memory.execute, steps)
        await lifetimes.delete_expired(observation, loop.time())
        await self._retire(state, memory.execute, members, writer, steps)
        await self._end_quorum_reset(hub, memory.observe.quorum, steps)
        owned = self._owned(hub, memory)
        replicas = _replicas(hub, observation, plan)
        refusal = await self._keep_members(hub, memory.execute.template, owned, replicas, steps)
        await label_pods(self._client, self._store, members.values(), steps)
        marks_in = await put_marks_back(self._client, self._store, hub, state, memory.execute, loop.time(), steps)
        self._after(key, hub, state, memory, observation, plan, dirty)
        return _soonest(
            0.0 if executed.came_back else None,
            writer.retry_in,
            pods.retry_in,
            move_results_in,
            lifetimes.next_in,
            owned.retry_in,
            marks_in,
            self._report_hub(key, hub, memory, plan, memory.refused_edit or refusal, steps),
            0.05 if memory.observe.rebalance_target else None,
            _MOVING_SECONDS if plan.moving else None,
            0.2 if plan.pending_moves or plan.pending_restarts else None,
            self._report_sets(key, plan),
            formation_wait(hub, memory.observe.formation, loop.time()),
            memory.observe.deferred_moves.wait(loop.time()),
            *(member.judgement.recheck_seconds for member in members.values()),
        )

    def _plan(
        self, key: HubKey, hub: Hub, state: HubState, memory: HubMemory, members: dict[str, Member]
    ) -> tuple[Observation, Plan]:
        """What is observed, and what is to be done; ``memory`` gets what the next rounds need of the plan."""
        now, kept = asyncio.get_running_loop().time(), memory.observe
        strategy = strategy_of(hub.spec.distribution.strategy, self._custom.distribution)
        migration = migration_of(hub.spec.migration.strategy, self._custom.migration)
        rules = CustomRules(hub, members, self._custom.redundancy, self._custom.partition, kept.copies)
        admission = self.hooks.admission(hub, state)
        observation = observe(hub, state, members, kept, now, strategy, admission, rules)
        kept.copies = rules.copies or 1
        observation = self.hooks.before_plan(hub, observation)
        with metrics.PLAN_SECONDS.time():
            plan = self.hooks.before_execution(hub, observation, make_plan(observation.snapshot, strategy, migration))
        memory.report.many_changes = _changes(plan) + _unanswered(members) + plan.moving > _MANY
        self.status.throttle(key, memory.report.many_changes)
        kept.epochs.next = plan.next_epoch
        kept.moves.spend(plan.planned_moves)
        self._emit_failure(hub, memory.report, strategy, migration, rules)
        kept.last_placed = plan.last_placed
        kept.deferred_moves.defer(plan.deferred, now)
        kept.rebalance_target = kept.cooldown.target(plan.imbalance, now)
        return observation, plan

    def _members(self, hub: Hub, state: HubState, memory: ObserveMemory, now: float) -> dict[str, Member]:
        nodes, observed = self._store.nodes.items, self._store.leases_observed(now)
        return observe_members(hub, state, nodes, memory.restarting_since, now, leases_observed=observed)

    def _owned(self, hub: Hub, memory: HubMemory) -> OwnedObjects:
        def emit_put_back(text: str) -> None:
            self.events.about_hub(hub, EventReason.OBJECT_PUT_BACK, text, warning=True)

        return OwnedObjects(self._client, self._store.owned, hub, memory.execute.owned, emit_put_back)

    async def _keep_members(
        self, hub: Hub, checked: CheckedTemplate, owned: OwnedObjects, replicas: int, steps: Steps
    ) -> Refusal | None:
        """Apply the owned objects where they are not as they should be; why they can't be what spec.members says."""
        manifests = supporting_objects(hub)
        template = await self._template(hub, checked, owned, replicas, steps)
        if template is not None:
            manifests.append(workload(hub, template, replicas))
        refused = await owned.keep(manifests, asyncio.get_running_loop().time())
        _note_refused(steps, refused)
        conflict = next((error for error in refused.values() if isinstance(error, NameConflictError)), None)
        if conflict is not None:
            return Refusal(Reason.NAME_CONFLICT, str(conflict))
        failure = steps.failure(_TEMPLATE)
        return Refusal(Reason.INVALID, failure.sentence) if failure and failure.reason == Reason.INVALID else None

    async def _template(
        self, hub: Hub, checked: CheckedTemplate, owned: OwnedObjects, replicas: int, steps: Steps
    ) -> dict[str, Any] | None:
        """The members' pod template: the last that the API server would take, asked once a generation of the Hub.

        None where it has taken none since this leader began: what there is of members runs on.
        """

        async def check() -> None:
            template = pod_template(hub, self._settings)
            if template != checked.last_good:
                await owned.check(workload(hub, template, replicas))
            checked.last_good, checked.generation = template, hub.metadata.generation

        if checked.generation != hub.metadata.generation:
            await steps.take(_TEMPLATE, check)
        return checked.last_good

    async def _end_quorum_reset(self, hub: Hub, quorum: QuorumWatch | None, steps: Steps) -> None:
        """Remove the annotation that asks for a quorum reset once the outcome is on record."""
        if quorum is None or not quorum.reset_done(hub):
            return
        path = "/metadata/annotations/" + ANNOTATION_QUORUM_RESET.replace("/", "~1")
        order = hub.metadata.annotations[ANNOTATION_QUORUM_RESET]
        patch = [{"op": "test", "path": path, "value": order}, {"op": "remove", "path": path}]

        async def take_off() -> None:
            try:
                stored = await self._client.patch(HUBS, *hub.metadata.key, patch, content_type=JSON_PATCH)
            except (NotFoundError, ConflictError, InvalidError) as error:
                log.debug("quorum reset of hub %s: %s", hub.metadata.name, error.message)
                return
            self._store.put("hubs", stored)

        await steps.take("the order to reset the quorum can't be taken off", take_off)

    async def _retire(
        self, state: HubState, memory: ExecuteMemory, members: dict[str, Member], writer: SliceWriter, steps: Steps
    ) -> None:
        """Delete what is left of members that are gone for good, and slices that have become empty."""
        for member in members.values():
            for known in member.slices:
                present, name = known.present, known.present.metadata.name
                empty = not present.spec.entries and not known.unproven and not known.uncertain
                acknowledged = known.acknowledged_by(member.holder) and not present.status.entries
                retired = not member.wanted and member.phase is Phase.GONE and member.pod is None
                # An agent starts by slice 0, and a creation that was not answered may land where its name is free.
                kept = (known.index == 0 and len(member.slices) > 1) or name in memory.unconfirmed_slices
                if not kept and (
                    (retired and not present.spec.entries) or (known.index > 0 and empty and acknowledged)
                ):
                    await steps.take(f"slice {name} can't be deleted", partial(writer.delete, known))
            gone = not member.wanted and member.pod is None and not member.slices
            lease = state.member_lease(member.name)
            if gone and lease is not None:
                what = f"lease {lease.lease.metadata.name} can't be deleted"
                await steps.take(what, partial(delete_lease, self._client, state, lease.lease))

    # reporting

    def _after(
        self,
        key: HubKey,
        hub: Hub,
        state: HubState,
        memory: HubMemory,
        observation: Observation,
        plan: Plan,
        dirty: set[str],
    ) -> None:
        # What was written is seen at once: the status shows the record as it is now, not as it was planned from.
        members = self._members(hub, state, memory.observe, asyncio.get_running_loop().time())
        self._observed[key] = msgspec.structs.replace(observation, members=members)
        # But a member that was lost is reported as lost, though it is back by now: its children went to others.
        members = {name: _with_judgement(member, observation.members.get(name)) for name, member in members.items()}
        fresh = msgspec.structs.replace(observation, members=members)
        changed_phase = {
            name for name, member in members.items() if memory.report.phases.get(name) != str(member.phase)
        }
        for name in changed_phase:
            for known in members[name].slices:
                dirty |= known.assignments.keys() | known.reports.keys()
        dirty |= _differing(plan.unplaced, memory.report.unplaced)
        emit(self.events, hub, state, fresh, plan, memory.report, memory.observe.quorum)
        self.hooks.after_round(hub, fresh, plan, dirty)
        names = _differing(observation.refusals, memory.report.refusals)
        names.update(name for child_id in dirty for name in state.by_id.get(child_id, ()))
        for name in names:
            self.status.mark((key[0], name))
        memory.report.unplaced, memory.report.refusals = dict(plan.unplaced), observation.refusals
        memory.report.phases = {name: str(member.phase) for name, member in members.items()}
        metrics.CHILDREN.labels(*key).set(len(observation.snapshot.to_run))
        metrics.MEMBERS.labels(*key).set(sum(member.phase is Phase.LIVE for member in members.values()))

    def _latest_child_status(self, key: ChildKey) -> tuple[Child, ChildStatus] | None:
        child = self._store.child(key)
        if child is None or child.metadata.deletion_timestamp is not None:
            return None
        hub_key = (key[0], child.spec.hub)
        hub = self._store.hubs.get(hub_key)
        if hub is None:
            return child, child_status(child, [], self._no_hub(hub_key), None, now_seconds())
        observation, memory = self._observed.get(hub_key), self._memory.get(hub_key)
        if observation is None or memory is None:
            refused = self._refused(hub)
            if refused is None:
                return None  # the first round has not ended yet
            return child, child_status(child, [], _of_hub(refused), None, now_seconds())
        if not observation.has_seen(child):
            return None  # the next round will
        refusal_of_child = observation.refusals.get(child.metadata.name)
        copies = copies_of(child.id, observation.members)
        started = first_started(child, copies, memory.execute)
        unplaced = memory.report.unplaced.get(child.id)
        status = child_status(child, copies, refusal_of_child, unplaced, now_seconds(), started)
        return child, status

    def _report_sets(self, key: HubKey, plan: Plan) -> float | None:
        """Write the ChildSets' statuses; the seconds until the next may be written, None where none waits."""
        observation = self._observed[key]

        def compute() -> dict[str, ChildSetStatus]:
            counted = tallies(observation.sets, observation.members)
            return {
                uid: child_set_status(seen, counted[uid], plan.unplaced, now_seconds())
                for uid, seen in observation.sets.items()
            }

        return self.sets.report(key, [seen.known.object for seen in observation.sets.values()], compute)

    def _report_hub(
        self, key: HubKey, hub: Hub, memory: HubMemory, plan: Plan, refusal: Refusal | None, steps: Steps
    ) -> float | None:
        trouble = (refusal.reason, refusal.message) if refusal is not None else steps.trouble()
        followed = (memory.accepted or hub).metadata.generation
        compute = partial(
            hub_status, hub, self._observed[key], plan, refusal=refusal, trouble=trouble, followed=followed
        )
        return self._write_hub(hub, memory, lambda: compute(now_seconds()))

    def _refuse_sets(self, key: HubKey, state: HubState, refusal: Refusal) -> float | None:
        items = [known.object for known in state.sets.values()]
        return self.sets.report(
            key, items, lambda: {item.metadata.uid: refused_set_status(item, refusal, now_seconds()) for item in items}
        )

    def _write_hub(self, hub: Hub, memory: HubMemory, compute: Callable[[], HubStatus]) -> float | None:
        """Write the Hub's status where it differs; the seconds until it may be written, None where none waits."""
        current = self._store.hubs.get(hub.metadata.key)
        if current is None or current.metadata.uid != hub.metadata.uid:
            return None  # made anew in the midst of the round: this status is its predecessor's
        now = asyncio.get_running_loop().time()
        wait = memory.report.status_rate.wait(now, many_changes=memory.report.many_changes)
        if wait > 0 or self.status.busy_with(hub):
            return max(0.1, wait)
        status = compute()
        if status != current.status:
            if (wait := memory.report.status_rate.reserve(current, status, now)) > 0:
                return max(0.1, wait)
            self.status.hub(current, status, lambda: self.wake(hub.metadata.key))
        return None

    # beside a round

    def _memory_of(self, hub: Hub, state: HubState) -> HubMemory:
        key = hub.metadata.key
        memory = self._memory.get(key)
        if memory is None or memory.uid != hub.metadata.uid:
            self._drop_memory(key)
            state.unaccounted.clear()
            state.creating.clear()
            memory = self._memory[key] = HubMemory(hub.metadata.uid, self._term, self._used_epochs)
            memory.observe.term_generations = self.term_generations
        return memory

    def _emit_failure(
        self, hub: Hub, memory: ReportMemory, strategy: Strategy, migration: MigrationStrategy, rules: CustomRules
    ) -> None:
        """Post an Event about what went wrong in a custom strategy, once as long as it is the same."""
        failure = rules.failure
        if isinstance(strategy, CustomDistribution) and strategy.failure:
            failure, strategy.failure = f"strategy {strategy.name}: {strategy.failure}; the hash is used", ""
        if isinstance(migration, CustomMigration) and migration.failure:
            failure = (
                f"migration strategy {migration.name}: {migration.failure}; children stay, or take their state along"
            )
            migration.failure = ""
        if failure and failure != memory.strategy_failure:
            log.warning("hub %s/%s: %s", *hub.metadata.key, failure)
            self.events.about_hub(hub, EventReason.STRATEGY_FAILED, failure, warning=True)
            memory.strategy_failure = failure

    def _refused(self, hub: Hub) -> Refusal | None:
        custom, spec = self._custom, hub.spec
        refusal = refuse_hub(
            spec, custom.distribution, custom.redundancy, custom.partition, custom.migration
        ) or self.hooks.refusal(spec)
        if refusal is None or refusal.reason is not Reason.UNKNOWN_STRATEGY:
            return refusal
        names = (
            spec.distribution.strategy,
            spec.redundancy.strategy,
            spec.migration.strategy,
            spec.partition_tolerance.strategy,
        )
        why = next((custom.failed[name] for name in names if name in custom.failed), None)
        if why is None:
            return refusal
        return msgspec.structs.replace(refusal, message=f"{refusal.message}; its entry point can't be used: {why}")

    def _unreconcilable(self, hub: Hub, state: HubState, memory: HubMemory) -> Refusal | None:
        """Why there can be no round of the hub. A refused edit is no reason where the spec before it was accepted."""
        refusal = memory.refused_edit = self._refusal(hub, state)
        if refusal is None:
            memory.accepted = hub
        elif memory.accepted is None or _of_earlier_hub(state) is not None:
            return refusal
        return None

    def _refusal(self, hub: Hub, state: HubState) -> Refusal | None:
        if broken := self._store.broken_hubs.get(hub.metadata.key):
            return Refusal(Reason.INVALID, f"the hub can't be read: {broken[1]}")
        if refusal := self._refused(hub):
            return refusal
        return _of_earlier_hub(state)

    def _no_hub(self, key: HubKey) -> Refusal:
        if error := self._store.unread_hub(key):
            return _of_hub(Refusal(Reason.INVALID, f"the hub can't be read: {error}"))
        return Refusal(Reason.HUB_NOT_FOUND, f"spec.hub: there is no hub {key[1]!r} in namespace {key[0]!r}")

    async def _without_hub(self, key: HubKey, state: HubState) -> float | None:
        """The Hub does not exist (any more), or was never read: its Children report that. What is left goes with it."""
        self._observed.pop(key, None)
        self._mark_children(key, state)
        wait = self._refuse_sets(key, state, self._no_hub(key))
        state.dirty.clear()
        if self._store.unread_hub(key):
            return wait  # it is there: what it has stays as it is
        look_again = await delete_all(self._client, self._store, state)
        if self._store.hubs.get(key) is None:
            self._drop_memory(key)
            self.hooks.forget(key)
            metrics.forget(key)
            if state.empty:
                self._store.forget(key)
        return _soonest(wait, look_again)

    def _drop_memory(self, key: HubKey) -> None:
        if memory := self._memory.pop(key, None):
            self._used_epochs = max(self._used_epochs, memory.observe.epochs.used)

    def _mark_children(self, key: HubKey, state: HubState) -> None:
        for name in state.children:
            self.status.mark((key[0], name))


def _as_accepted(hub: Hub, memory: HubMemory) -> Hub:
    """The Hub as it is reconciled: with the last spec that was accepted."""
    if memory.refused_edit is None or memory.accepted is None:
        return hub
    return msgspec.structs.replace(hub, spec=memory.accepted.spec)


def _of_earlier_hub(state: HubState) -> Refusal | None:
    """Why the hub can't begin yet: what an earlier hub of its name has left may run children."""
    # A hub that has slices of its own has begun: what comes to be there later than that is no earlier hub's.
    left = next(iter(state.leftovers()), "") if not state.slices else ""
    text = f"{left} of an earlier hub of this name is still being deleted; started when it is gone"
    return Refusal(Reason.NAME_CONFLICT, text) if left else None


def _of_hub(refusal: Refusal) -> Refusal:
    """The refusal that the children of a refused hub report."""
    return Refusal(refusal.reason, f"the hub is not accepted: {refusal.message}")


def _differing(now: Mapping[str, T], before: Mapping[str, T]) -> set[str]:
    """The keys whose values differ."""
    return {key for key in now.keys() | before.keys() if now.get(key) != before.get(key)}


def _changes(plan: Plan) -> int:
    return sum(len(entries) for entries in plan.entries.values())


def _unanswered(members: Mapping[str, Member]) -> int:
    """Entries that live members have not reported on yet."""
    return sum(
        max(0, len(known.assignments) - len(known.reports))
        for member in members.values()
        if member.phase is Phase.LIVE
        for known in member.slices
    )


def _soonest(*seconds: float | None) -> float | None:
    given = [value for value in seconds if value is not None]
    return min(given) if given else None


def _replicas(hub: Hub, observation: Observation, plan: Plan) -> int:
    """The StatefulSet's size: what is asked for, and members that are not empty yet."""
    forced = hub.metadata.annotations.get(ANNOTATION_FORCE_SCALE_DOWN) == "true"
    replicas = hub.spec.members.replicas
    for member in observation.members.values():
        ordinal = member_ordinal(hub.metadata.name, member.name)
        if ordinal is None or member.wanted or member.phase is Phase.GONE:
            continue
        view = next(view for view in observation.snapshot.members if view.name == member.name)
        # Also children whose entries were removed in this very round: the view was made before.
        occupied = any(known.assignments or known.unproven for known in member.slices) or view.possibly_running
        if occupied and not (forced and member.name in plan.stranded):
            replicas = max(replicas, ordinal + 1)
    return replicas


def _note_refused(steps: Steps, refused: Mapping[str, Refused]) -> None:
    for title, error in refused.items():
        steps.note(f"{title} can't be made as it is to be", error)


def _with_judgement(member: Member, before: Member | None) -> Member:
    """The member with the judgement that the plan was made from."""
    return member if before is None else msgspec.structs.replace(member, judgement=before.judgement)
