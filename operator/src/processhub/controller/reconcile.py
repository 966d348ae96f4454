"""The rounds of a hub: learn, observe, plan, execute, report. This is the only module in which the stages meet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from processhub.api.hub import Hub
from processhub.api.reasons import EventReason, Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import NamespaceTerminatingError
from processhub.controller import metrics
from processhub.controller.errors import DeposedError
from processhub.controller.execute.callrights import CallRights, used_accounts, wanted_accounts
from processhub.controller.execute.earlierhubs import remove_leftovers
from processhub.controller.execute.endedorders import (
    end_quorum_reset,
    remove_ended_cancellations,
    remove_ended_moves,
    remove_ended_stops,
)
from processhub.controller.execute.executor import Executor, confirm_gone, workload_texts
from processhub.controller.execute.lifetimes import Lifetimes
from processhub.controller.execute.marks import label_pods, put_marks_back
from processhub.controller.execute.memberleases import make_leases, retire
from processhub.controller.execute.membertls import HubTls, renew_certificates
from processhub.controller.execute.membertroubles import member_troubles
from processhub.controller.execute.memberworkload import keep_last_members, keep_members, replicas_of
from processhub.controller.execute.moverequests import MoveRequests
from processhub.controller.execute.podchildren import PodChildren
from processhub.controller.execute.podends import delete_all
from processhub.controller.execute.podtemplates import ask_about_templates, take_verdicts
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.execute.staticchildren import sync_static_children
from processhub.controller.hooks.hubhooks import Hooks, Receivers
from processhub.controller.hubacceptance import HubAcceptance
from processhub.controller.lead.installedcrds import InstalledCRDs
from processhub.controller.lead.notedterm import note_term
from processhub.controller.lead.takeover import Takeover
from processhub.controller.memory import HubMemory, LastRound, Memories
from processhub.controller.observe.admission import admit_starts
from processhub.controller.observe.customrules import CustomRules
from processhub.controller.observe.facts import counts_for_quorum, learn, may_run_unseen, members_now
from processhub.controller.observe.lookagain import judge_again, look_again
from processhub.controller.observe.members import Member, proven_members
from processhub.controller.observe.observation import Observation, observe
from processhub.controller.observe.views import ViewOrders, has_views, must_close, orders_for
from processhub.controller.quietrounds import is_at_rest, next_plan, still_holds
from processhub.controller.report.eventrules import emit_changed_pods, emit_strategy_failure
from processhub.controller.report.pauses import Pauses
from processhub.controller.report.reporter import Reporter
from processhub.controller.report.statusrate import many_changes
from processhub.controller.report.waiting import with_troubles
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.round import Requeue, Round, begin_round
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.controller.store.informers import Store
from processhub.core.acceptance import Refusal, unreadable
from processhub.core.model.plan import Plan
from processhub.core.planning.planner import plan as make_plan
from processhub.core.planning.underview import under_view, with_pods, with_recorded
from processhub.core.strategies import strategy_of
from processhub.core.strategies.migration import migration_of
from processhub.extensions import own_strategies

if TYPE_CHECKING:
    from processhub.controller.authority.keeper import AuthorityKeeper

_CONFLICT_SECONDS = 1.0  # Until the round that checks whether a name that is taken has become free.
_NAMESPACE_GOES_SECONDS = 10.0  # Until the round that checks whether a terminating namespace is gone.
log = logging.getLogger(__name__)


class Reconciler:
    """The leader's rounds. ``reconcile`` is the work of a queue keyed by hub.

    ``wake(key)`` queues a round that plans, ``report_again(key)`` one that may only report.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        settings: OperatorSettings,
        term: int,
        wake: Callable[[HubKey], None],
        receivers: Receivers,
        *,
        report_again: Callable[[HubKey], None] | None = None,
        keeper: AuthorityKeeper | None = None,
    ) -> None:
        self._keeper = keeper
        self._client, self._store, self._settings, self._term = client, store, settings, term
        self._custom = own_strategies()
        self.takeover = Takeover()
        self._memories = Memories(term, self.takeover.generations)
        self.events = EventRecorder(client, settings.pod_name)
        self._pauses = Pauses(self.events)
        self.rights = CallRights(
            client, settings.namespaces, partial(wanted_accounts, store), partial(used_accounts, store)
        )
        self.hooks = Hooks(self.events, receivers, term, settings.pod_name, store.hubs.values(), wake)
        self._acceptance = HubAcceptance(store, self._custom, receivers)
        self.crds = InstalledCRDs(client, store.wake_all)
        self.reporter = Reporter(
            client, store, report_again or wake, self._acceptance.refusal_of_spec, lambda: self.crds.outdated
        )

    async def reconcile(self, key: HubKey) -> float | None:
        """Run one round; returns the seconds until the next one is due without any event, or None."""
        self.rights.look()
        hub = self._store.hubs.get(key)
        if hub is None or hub.metadata.deletion_timestamp is not None:
            return await self._without_hub(key)
        if self._pauses.is_paused(hub):
            return None
        memory = self._memories.of(hub, self._store.state(key))
        failures, unanswered = memory.execute.failures, memory.execute.unanswered
        round = begin_round(self._client, self._store, hub, self._term, self.events, failures, unanswered)
        if (last := memory.last) is not None and not round.state.plan_due:
            members = self._members(round, memory)
            if still_holds(last, members, round.now()):
                return self._report_quietly(round, memory, last, members)
        memory.last = None
        try:
            await self._reconcile(round, memory)
        except NamespaceTerminatingError:
            log.info("hub %s/%s goes with its namespace", *key)
            return _NAMESPACE_GOES_SECONDS
        round.steps.end()
        return round.requeue.after

    async def close(self) -> None:
        """Stop what runs beside the rounds. No round may begin after this."""
        self._memories.close()
        await self.rights.close()
        await self.crds.close()
        await self.reporter.close()
        await self.hooks.close()

    async def _reconcile(self, round: Round, memory: HubMemory) -> None:
        if not await self.takeover.catch_up(round):
            self.reporter.report_stalled(round, memory.report)
            return
        if memory.observe.epochs.used_up:
            name = "/".join(round.hub.metadata.key)
            raise DeposedError(f"hub {name} has used the epochs of term {self._term}: another leader begins")
        round = await note_term(round, memory.noted)
        admitted = self._acceptance.admit(round.hub, round.state, memory)
        if isinstance(admitted, Refusal):
            await self._refuse(round, memory, admitted)
            return
        # Changes from here on may be missing in this round's observation. They are reported after the next round.
        with _changes_of(round.state) as changed, metrics.ROUND_SECONDS.time():
            round.state.plan_due = False
            await self._round(msgspec.structs.replace(round, hub=admitted, changed=changed), memory)

    def _report_quietly(
        self, round: Round, memory: HubMemory, last: LastRound, members: dict[str, Member]
    ) -> float | None:
        """Report the restarts that have followed the last round; returns the seconds until the next round."""
        hub = msgspec.structs.replace(round.hub, spec=last.hub.spec)
        with _changes_of(round.state) as changed:
            round = msgspec.structs.replace(round, hub=hub, changed=changed)
            self._report(round, memory, last.observation, last.plan, last.refusal, members)
        round.steps.end()
        round.again_in(last.due - round.now())
        judge_again(round, members.values())
        return round.requeue.after

    def _members(self, round: Round, memory: HubMemory) -> dict[str, Member]:
        return members_now(round, memory.observe, memory.execute.template.last_good)

    async def _refuse(self, round: Round, memory: HubMemory, refusal: Refusal) -> None:
        """The round of a Hub that is not accepted: its objects are kept, and its Children report why."""
        await remove_leftovers(round)
        await put_marks_back(round, memory.execute)
        round.state.dirty |= round.state.children.by_id.keys()  # Their statuses change when the Hub is accepted.
        await keep_last_members(round, memory.execute)
        if self._keeper is not None:
            members = self._members(round, memory)
            memory.report.tls = await renew_certificates(round, memory.execute, self._keeper, members)
        self.reporter.refuse(round, memory.report, refusal)
        if refusal.reason is Reason.NAME_CONFLICT:
            round.again_in(_CONFLICT_SECONDS)

    async def _round(self, round: Round, memory: HubMemory) -> None:
        asked = await ask_about_templates(round, memory.execute)
        pods = PodChildren(round, memory.execute)
        await pods.confirm_pods()

        def look() -> dict[str, Member]:
            return self._members(round, memory)

        # Between this and the plan nothing is awaited: what it proves is of that moment.
        members = await proven_members(
            look,
            lambda member: confirm_gone(round, member),
            lambda member: (
                may_run_unseen(member, round.state, memory.observe)
                or counts_for_quorum(member, round.hub, memory.observe)
            ),
            copies=round.hub.spec.keeps_copies,
        )
        take_verdicts(round, memory.execute, asked)
        observation, plan, views = self._plan(round, memory, members)
        plan = await self._execute(round, memory, pods, observation, plan, views)
        replicas = replicas_of(round.hub, observation, plan)
        await self._deal_with_orders(round, memory, observation, plan, replicas)
        plan, refused = await self._keep_objects(round, memory, observation, plan, replicas)
        refusal = memory.refused_edit or refused
        reporting = msgspec.structs.replace(round, requeue=Requeue())
        self._report(reporting, memory, observation, plan, refusal, look())
        look_again(round, memory.observe, plan)
        if views.settled:
            self._rest(round, memory, observation, plan, refusal)
        judge_again(round, members.values())
        if reporting.requeue.after is not None:
            round.again_in(reporting.requeue.after)

    async def _execute(
        self,
        round: Round,
        memory: HubMemory,
        pods: PodChildren,
        observation: Observation,
        plan: Plan,
        views: ViewOrders,
    ) -> Plan:
        """Write the slices, and have the Pods of pod children follow them; returns what of the plan is on record."""
        members, partitioned = observation.members, observation.quorum.partitioned
        await make_leases(round, members)
        tls = HubTls(round, self._keeper, members)
        memory.execute.tls_required, memory.report.tls = tls.required, tls.status
        writer = SliceWriter(
            round,
            memory.execute,
            fingerprint=observation.fingerprint,
            partitioned=partitioned,
            tls=tls.of,
            orders=views.orders,
        )
        executed = await Executor(round, writer).execute(observation, plan, workload_texts(observation))
        await pods.follow(members, observation.owner, partitioned=partitioned)
        emit_changed_pods(round, observation, pods.changed)
        # Children made here are placed in the next round: a slow API server must not delay a failover.
        await sync_static_children(round)
        unplaced = {**plan.unplaced, **executed.unplaced, **pods.unplaced(), **observation.held}
        return msgspec.structs.replace(executed.plan, unplaced=unplaced)

    async def _deal_with_orders(
        self, round: Round, memory: HubMemory, observation: Observation, plan: Plan, replicas: int
    ) -> None:
        """Answer users' orders, and end what is over."""
        await MoveRequests(round, memory.observe.sets.applied_moves).record_results(observation, plan.move_results)
        await remove_ended_moves(round)
        await remove_ended_cancellations(round, memory.accepted)
        await remove_ended_stops(round)
        await Lifetimes(round, memory.execute, memory.report).delete_expired(observation)
        await retire(round, memory.execute, observation.members, replicas)
        await end_quorum_reset(round, memory.observe.quorum)

    async def _keep_objects(
        self, round: Round, memory: HubMemory, observation: Observation, plan: Plan, replicas: int
    ) -> tuple[Plan, Refusal | None]:
        """Keep the objects that the hub owns; returns the plan with the members' troubles, and what is refused."""
        authorities = self._keeper.trusted if self._keeper is not None else ""
        refused = await keep_members(round, self._settings, memory.execute, replicas, authorities)
        troubles = await member_troubles(round, memory.execute.looks, self._members(round, memory))
        unmade = round.steps.trouble() if not round.state.pods else None
        unplaced = with_troubles(plan.unplaced, troubles, unmade[0] if unmade else "")
        await label_pods(round, observation.members.values())
        await put_marks_back(round, memory.execute)
        await remove_leftovers(round)
        memory.report.template = memory.execute.template.digest_for(round.hub.metadata.generation)
        memory.report.take_troubles(troubles)
        memory.report.unknown.look(round, observation.members, memory.execute.template.last_good)
        return msgspec.structs.replace(plan, unplaced=unplaced), refused

    def _rest(
        self, round: Round, memory: HubMemory, observation: Observation, plan: Plan, refusal: Refusal | None
    ) -> None:
        """Keep the round if it has left nothing to do."""
        if not is_at_rest(round, memory, observation, plan):
            return
        spec = round.hub.spec
        custom = spec.partition_tolerance.strategy in self._custom.partition
        if custom or strategy_of(spec.distribution.strategy, self._custom.distribution).by_usage:
            # A renewal of a Lease may change the plan, by what it says of use, or by what a user's code says of it.
            judge_again(round, observation.members.values())
        memory.last = LastRound(
            hub=round.hub,
            observation=observation,
            plan=plan,
            refusal=refusal,
            quorum=None if custom else memory.observe.quorum,
            due=next_plan(round.now(), round.requeue.after),
        )

    def _plan(
        self, round: Round, memory: HubMemory, members: dict[str, Member]
    ) -> tuple[Observation, Plan, ViewOrders]:
        """Observe the hub and make a plan. ``memory`` keeps what later rounds need of both."""
        hub, now = round.hub, round.now()
        strategy = strategy_of(hub.spec.distribution.strategy, self._custom.distribution)
        migration = migration_of(hub.spec.migration.strategy, self._custom.migration)
        rules = CustomRules(hub, members, self._custom.redundancy, self._custom.partition, memory.observe.copies)
        facts = learn(round, memory.observe, members, strategy, rules)
        observation = observe(facts)
        if (admission := self.hooks.admission(hub, round.state)) is not None:
            observation = admit_starts(observation, admission, hub)
        observation = self.hooks.before_plan(hub, observation)
        with metrics.PLAN_SECONDS.time():
            made = make_plan(observation.snapshot, strategy, migration, memory.steady)
            plan = self.hooks.before_execution(hub, observation, made)
        views, snapshot = facts.views, observation.snapshot
        if snapshot.pods and facts.demand is not None and has_views(hub):
            plan = with_pods(snapshot, plan, views.not_closed, facts.demand.digest)
        left = under_view(snapshot, plan, views.not_closed)
        plan = with_recorded(left.plan, views.recorded, snapshot.record)
        observation = msgspec.structs.replace(observation, workloads={**observation.workloads, **views.workloads})
        orders = orders_for(
            hub,
            members,
            snapshot,
            plan,
            views,
            left.grants,
            close=left.close or must_close(views, members, round.state.slices),
        )
        plan = msgspec.structs.replace(plan, next_epoch=orders.next_epoch)
        memory.report.many_changes = many_changes(plan, members)
        self.reporter.throttle(hub.metadata.key, memory.report.many_changes)
        emit_strategy_failure(round, memory.report, strategy, migration, rules)
        memory.observe.remember(plan, now)
        return observation, plan, orders

    def _report(
        self,
        round: Round,
        memory: HubMemory,
        observation: Observation,
        plan: Plan,
        refusal: Refusal | None,
        members: dict[str, Member],
    ) -> None:
        """Report the round by Events, hooks and statuses. ``members``: as they are judged now."""
        quorum, followed = memory.observe.quorum, (memory.accepted or round.hub).metadata.generation
        fresh = self.reporter.round_ended(round, memory.report, observation, plan, members, quorum)
        self.hooks.after_round(round.hub, fresh, plan, round.changed)
        self.reporter.report_hub(round, memory.report, plan, refusal, followed)
        self.reporter.report_sets(round, plan)

    async def _without_hub(self, key: HubKey) -> float | None:
        """The round of a Hub that does not exist or can't be read: its Children report that."""
        state, requeue = self._store.state(key), Requeue()
        self.reporter.report_no_hub(key, state, requeue)
        state.dirty.clear()
        if why := self._store.unread_hub(key):
            unread = Hub(metadata=self._store.broken_hubs[key][0])
            message = f"{Reason.INVALID}: {unreadable(why).message}"
            self.events.about_child(unread, unread, EventReason.REJECTED, message, warning=True)
            return requeue.after  # The Hub exists, so its objects stay.
        await delete_all(self._client, self._store, state, requeue)
        if self._store.hubs.get(key) is None:
            self._memories.forget(key)
            self.hooks.forget(key)
            metrics.forget(key)
            if state.empty:
                self._store.forget(key)
        return requeue.after


@contextmanager
def _changes_of(state: HubState) -> Iterator[set[str]]:
    """The ids of the children that have changed. If the round fails, the next one takes them again, and plans."""
    changed, state.dirty = state.dirty, set()
    try:
        yield changed
    except BaseException:
        state.dirty |= changed
        state.plan_due = True
        raise
