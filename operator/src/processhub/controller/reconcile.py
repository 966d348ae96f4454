"""One round for one hub: observe, plan, execute, report. The only place where the stages meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_PAUSED
from processhub.api.reasons import EventReason, Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, NamespaceTerminatingError
from processhub.controller import metrics
from processhub.controller.execute.callrights import CallRights
from processhub.controller.execute.executor import Executor, workload_texts
from processhub.controller.execute.lifetimes import Lifetimes
from processhub.controller.execute.memberlabels import label_pods
from processhub.controller.execute.memberleases import make_leases
from processhub.controller.execute.memberworkload import keep_members, note_refused, replicas_of
from processhub.controller.execute.moverequests import MoveRequests
from processhub.controller.execute.ownedobjects import OwnedObjects
from processhub.controller.execute.podchildren import PodChildren
from processhub.controller.execute.podends import delete_all
from processhub.controller.execute.quorumreset import end_quorum_reset
from processhub.controller.execute.registrymarks import put_marks_back
from processhub.controller.execute.retirement import retire
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.execute.staticchildren import sync_static_children
from processhub.controller.execute.steps import Steps
from processhub.controller.hooks.hubhooks import Hooks, Receivers
from processhub.controller.hubacceptance import HubAcceptance
from processhub.controller.lead.terms import raise_terms
from processhub.controller.memory import HubMemory
from processhub.controller.observe.customrules import CustomRules
from processhub.controller.observe.members import Member, observe_members, proven_members
from processhub.controller.observe.memory import ObserveMemory
from processhub.controller.observe.observation import Observation, formation_wait, observe
from processhub.controller.report.eventrules import emit_changed_pods, emit_strategy_failure
from processhub.controller.report.events import EventRecorder
from processhub.controller.report.reporter import Reporter
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.controller.store.informers import Store
from processhub.core.acceptance import Refusal
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan
from processhub.core.planning.planner import plan as make_plan
from processhub.core.strategies import strategy_of
from processhub.core.strategies.migration import migration_of
from processhub.extensions import own_strategies

_MANY = 32  # With more entries under way than this, writes of Child statuses are throttled: slices go first.
_MOVING_SECONDS = 0.5  # Moves under way are looked at again after this, whatever the watches show.
_NAMESPACE_GOES_SECONDS = 10.0  # Whether a terminating namespace has gone is looked at again after this.
log = logging.getLogger(__name__)


class Reconciler:
    """The leader's rounds. ``reconcile`` is the work of a queue keyed by hub."""

    def __init__(
        self,
        client: Client,
        store: Store,
        settings: OperatorSettings,
        term: int,
        wake: Callable[[HubKey], None],
        receivers: Receivers,
    ) -> None:
        self.wake = wake
        self._client, self._store, self._settings, self._term = client, store, settings, term
        self._memory: dict[HubKey, HubMemory] = {}
        self._custom = own_strategies()
        # By hubs that are gone: one re-created under the name goes on from there (docs/protocol.md, rule 3).
        self._used_epochs = 0
        self.term_generations: dict[str, int] = {}  # slice's uid → generation with this leader's term
        self.behind: dict[HubKey, ApiError] = {}  # hubs for which nothing may be done before their terms are raised
        self.events = EventRecorder(client, settings.pod_name)
        self.rights = CallRights(client, settings.namespaces, store.hub_keys())
        self.hooks = Hooks(self.events, receivers, term, settings.pod_name, store.hubs.values(), wake)
        self._acceptance = HubAcceptance(store, self._custom, self.hooks)
        self.reporter = Reporter(client, store, self.events, wake, self._acceptance.refusal_of_spec)
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
                wait = self.reporter.report_stalled(hub, memory.report, steps.trouble())
            else:
                admitted = self._acceptance.admit(hub, state, memory)
                if isinstance(admitted, Refusal):
                    wait = await self._refuse(hub, state, memory, steps, admitted)
                else:
                    with metrics.ROUND_SECONDS.time():
                        wait = await self._round(admitted, state, memory, steps)
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
        await self.reporter.close()
        await self.hooks.close()

    # one round

    async def _refuse(
        self, hub: Hub, state: HubState, memory: HubMemory, steps: Steps, refusal: Refusal
    ) -> float | None:
        """The round of a hub that is not accepted: its objects are kept as they were, and its children report why."""
        now = asyncio.get_running_loop().time()
        marks_in = await put_marks_back(self._client, self._store, hub, state, memory.execute, now, steps)
        state.dirty |= state.by_id.keys()  # their statuses change once the hub is accepted
        owned = self._owned(hub, memory)
        note_refused(steps, await owned.keep_last(now))
        wait = self.reporter.refuse(hub, state, memory.report, refusal)
        again = 1.0 if wait is not None or refusal.reason is Reason.NAME_CONFLICT else None
        return _soonest(again, marks_in, owned.retry_in)

    async def _round(self, hub: Hub, state: HubState, memory: HubMemory, steps: Steps) -> float | None:
        # What changes from here on may not be in this round's observation: it is reported after the next one.
        dirty, state.dirty = state.dirty, set()
        try:
            return await self._observe_and_act(hub, state, memory, steps, dirty)
        except BaseException:
            state.dirty |= dirty
            raise

    async def _observe_and_act(
        self, hub: Hub, state: HubState, memory: HubMemory, steps: Steps, dirty: set[str]
    ) -> float | None:
        loop = asyncio.get_running_loop()
        pods = PodChildren(self._client, self._store, hub, state, memory.observe, memory.execute, steps)
        await pods.confirm_pods()
        writer = SliceWriter(self._client, self._store, hub, state, memory.observe, memory.execute, self._term)
        executor = Executor(self._client, self._store, state, writer, steps, self._term)
        look = partial(self._members, hub, state, memory.observe)
        members = await proven_members(lambda: look(loop.time()), executor.confirm_gone, copies=hub.spec.keeps_copies)
        observation, plan = self._plan(hub, state, memory, members)
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
        lifetimes = Lifetimes(self._client, state, memory.execute, memory.report, steps)
        await lifetimes.delete_expired(observation, loop.time())
        await retire(self._client, state, memory.execute, members, writer, steps)
        await end_quorum_reset(self._client, self._store, hub, memory.observe.quorum, steps)
        owned = self._owned(hub, memory)
        replicas = replicas_of(hub, observation, plan)
        refused = await keep_members(hub, self._settings, memory.execute.template, owned, replicas, steps)
        await label_pods(self._client, self._store, members.values(), steps)
        marks_in = await put_marks_back(self._client, self._store, hub, state, memory.execute, loop.time(), steps)
        refusal = memory.refused_edit or refused
        report_in = self._report(hub, state, memory, observation, plan, dirty, refusal, steps.trouble())
        return _soonest(
            0.0 if executed.came_back else None,
            writer.retry_in,
            pods.retry_in,
            move_results_in,
            lifetimes.next_in,
            owned.retry_in,
            marks_in,
            report_in,
            0.05 if memory.observe.rebalance_target else None,
            _MOVING_SECONDS if plan.moving else None,
            0.2 if plan.pending_moves or plan.pending_restarts else None,
            formation_wait(hub, memory.observe.formation, loop.time()),
            memory.observe.deferred_moves.wait(loop.time()),
            *(member.judgement.recheck_seconds for member in members.values()),
        )

    def _report(
        self,
        hub: Hub,
        state: HubState,
        memory: HubMemory,
        observation: Observation,
        plan: Plan,
        dirty: set[str],
        refusal: Refusal | None,
        trouble: tuple[str, str] | None,
    ) -> float | None:
        """Report the round by Events, hooks and statuses; the seconds until a write that waits."""
        members = self._members(hub, state, memory.observe, asyncio.get_running_loop().time())
        quorum, followed = memory.observe.quorum, (memory.accepted or hub).metadata.generation
        fresh = self.reporter.round_ended(hub, state, memory.report, observation, plan, members, quorum, dirty)
        self.hooks.after_round(hub, fresh, plan, dirty)
        hub_in = self.reporter.report_hub(hub, memory.report, plan, refusal, trouble, followed)
        return _soonest(hub_in, self.reporter.report_sets(hub.metadata.key, plan))

    def _plan(
        self, hub: Hub, state: HubState, memory: HubMemory, members: dict[str, Member]
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
        self.reporter.throttle(hub.metadata.key, memory.report.many_changes)
        kept.epochs.next = plan.next_epoch
        kept.moves.spend(plan.planned_moves)
        emit_strategy_failure(self.events, hub, memory.report, strategy, migration, rules)
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

    async def _without_hub(self, key: HubKey, state: HubState) -> float | None:
        """The Hub does not exist (any more), or was never read: its Children report that. What is left goes with it."""
        wait = self.reporter.report_no_hub(key, state)
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
