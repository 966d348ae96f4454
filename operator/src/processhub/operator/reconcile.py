"""One round for one hub: observe, plan, execute, tell. The only place where the stages meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from processhub.api.child import Child, ChildStatus
from processhub.api.hub import Hub, HubStatus
from processhub.api.kubernetes import Lease
from processhub.api.naming import (
    ANNOTATION_FORCE_SCALE_DOWN,
    ANNOTATION_PAUSED,
    LABEL_HUB_UID,
    lease_name,
    member_ordinal,
)
from processhub.api.reasons import Reason
from processhub.cluster.client import Client
from processhub.cluster.errors import (
    AlreadyExistsError,
    ConflictError,
    NamespaceTerminatingError,
    NotFoundError,
)
from processhub.cluster.kinds import LEASES
from processhub.core.acceptance import Refusal, refuse_hub
from processhub.core.membership import Phase
from processhub.core.plan import Plan
from processhub.core.planner import plan as make_plan
from processhub.operator import metrics
from processhub.operator.childstatus import child_status, copies_of
from processhub.operator.events import EventRecorder
from processhub.operator.execute import Executor, workload_texts
from processhub.operator.hubstate import HubKey, HubState
from processhub.operator.hubstatus import hub_status, refused_status
from processhub.operator.members import Member, observe_members
from processhub.operator.memory import HubMemory
from processhub.operator.objects.registry import new_lease
from processhub.operator.observe import Observation, formation_wait, observe
from processhub.operator.ownedobjects import NameConflictError, desired_objects, ensure, fingerprint
from processhub.operator.podchildren import PodChildren, delete_all
from processhub.operator.settings import OperatorSettings
from processhub.operator.slicewriter import SliceWriter
from processhub.operator.staticchildren import sync_static_children
from processhub.operator.statuswriter import ChildKey, StatusWriter, rfc3339
from processhub.operator.store import Store
from processhub.operator.telling import tell

_REAPPLY_SECONDS = 300.0
_MANY = 32  # entries under way, above which it is a storm: Child statuses give way to slices,
_STORM_STATUS_SECONDS = 1.0  # and the Hub's is written so often
_NAMESPACE_GOES_SECONDS = 10.0  # until it is looked again whether it has gone
Told = TypeVar("Told")
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
        self._used_epochs = 0  # by hubs that are gone: one re-created under the name goes on from there (rule 3)
        self.takeover: dict[str, int] = {}  # slice's uid → generation with this leader's term
        self.events = EventRecorder(client, settings.pod_name)
        self.status = StatusWriter(client, store, self._latest_child_status)

    async def reconcile(self, key: HubKey) -> float | None:
        """One round; the seconds until the next one is due without any event."""
        hub, state = self._store.hubs.get(key), self._store.state(key)
        if hub is None or hub.metadata.deletion_timestamp is not None:
            return await self._without_hub(key, state)
        if hub.metadata.annotations.get(ANNOTATION_PAUSED) == "true":
            return None
        memory = self._memory_of(hub, state)
        if refusal := self._refusal(hub, state):
            self._observed.pop(key, None)
            self._mark_children(key, state)
            state.dirty |= state.by_id.keys()  # they will be told otherwise once the hub is accepted
            wait = self._write_hub(hub, memory, lambda: refused_status(hub, refusal, rfc3339()))
            return 1.0 if wait is not None or refusal.reason is Reason.NAME_CONFLICT else None
        # What changes from here on may not be in this round's observation: it is told after the next one.
        dirty, state.dirty = state.dirty, set()
        try:
            with metrics.ROUND_SECONDS.time():
                return await self._round(key, hub, state, memory, dirty)
        except NamespaceTerminatingError:
            log.info("hub %s/%s goes with its namespace", *key)
            return _NAMESPACE_GOES_SECONDS
        except BaseException:
            state.dirty |= dirty
            raise

    # one round

    async def _round(self, key: HubKey, hub: Hub, state: HubState, memory: HubMemory, dirty: set[str]) -> float | None:
        loop = asyncio.get_running_loop()
        await sync_static_children(self._client, self._store, hub, state)
        pods = PodChildren(self._client, self._store, hub, state, memory)
        await pods.settle_doubts()
        members = self._members(hub, state, memory, loop.time())
        writer = SliceWriter(self._client, self._store, hub, state, memory, self._term)
        executor = Executor(self._client, self._store, writer)
        if await self._doubtful(members, executor):
            members = self._members(hub, state, memory, loop.time())
        observation = observe(hub, state, members, memory, loop.time())
        with metrics.PLAN_SECONDS.time():
            plan = make_plan(observation.snapshot)
        memory.storm = _changes(plan) + _unanswered(members) > _MANY
        self.status.give_way(key, memory.storm)
        memory.next_epoch = plan.next_epoch
        memory.move_tokens -= plan.planned_moves
        await writer.disown_late_slices()
        await self._make_leases(hub, state, members)
        complete = await executor.execute(observation, plan, workload_texts(observation))
        await pods.follow(members, observation.chosen, loop.time())
        plan = msgspec.structs.replace(plan, unplaced={**plan.unplaced, **pods.unplaced()})
        await self._retire(hub, state, members, writer)
        conflict = await self._make_members(hub, memory, observation, plan, loop.time())
        self._after(key, hub, state, memory, observation, plan, dirty)
        if conflict is not None:
            self._write_hub(hub, memory, lambda: refused_status(hub, conflict, rfc3339()))
            return 1.0
        return _soonest(
            0.0 if not complete else None,
            writer.retry_in,
            pods.retry_in,
            self._write_hub(hub, memory, lambda: hub_status(hub, self._observed[key], plan, rfc3339())),
            0.05 if plan.moving else None,
            0.2 if plan.pending_moves else None,
            formation_wait(hub, memory, loop.time()),
            *(member.judgement.recheck_seconds for member in members.values()),
        )

    def _members(self, hub: Hub, state: HubState, memory: HubMemory, now: float) -> dict[str, Member]:
        return observe_members(
            hub, state, self._store.nodes.items, memory, now, leases_observed=self._store.leases_observed(now)
        )

    async def _doubtful(self, members: dict[str, Member], executor: Executor) -> bool:
        """Whether a member that seems gone is, by a live read of its Lease, not: a watch may lag (rules 10, 11).

        Also one whose entries are removed already: a new holder may have read its slices before that.
        """
        silent = [
            member
            for member in members.values()
            if member.phase is Phase.GONE and any(known.assignments or known.unproven for known in member.slices)
        ]
        alive = await asyncio.gather(*(executor.still_gone(member) for member in silent))
        return not all(alive)

    async def _make_leases(self, hub: Hub, state: HubState, members: dict[str, Member]) -> None:
        """A Lease for each member that is wanted, before its pod may need it."""
        for member in members.values():
            if not member.wanted or lease_name(hub.metadata.name, member.name) in state.leases:
                continue
            try:
                lease: Lease = await self._client.create(LEASES, hub.metadata.namespace, new_lease(hub, member.name))
            except AlreadyExistsError:
                lease = await self._client.get(
                    LEASES, hub.metadata.namespace, lease_name(hub.metadata.name, member.name)
                )
            self._store.put("leases", lease)

    async def _make_members(
        self, hub: Hub, memory: HubMemory, observation: Observation, plan: Plan, now: float
    ) -> Refusal | None:
        """Apply the owned objects where they changed or some time passed."""
        replicas = _replicas(hub, observation, plan)
        manifests = desired_objects(hub, self._settings, replicas)
        digest = fingerprint(manifests)
        if digest == memory.applied and now - memory.applied_at < _REAPPLY_SECONDS:
            return None
        try:
            await ensure(self._client, hub, manifests)
        except NameConflictError as error:
            return Refusal(Reason.NAME_CONFLICT, str(error))
        memory.applied, memory.applied_at = digest, now
        return None

    async def _retire(self, hub: Hub, state: HubState, members: dict[str, Member], writer: SliceWriter) -> None:
        """Delete what is left of members that are gone for good, and slices that have become empty."""
        for member in members.values():
            for known in member.slices:
                present = known.present
                empty = not present.spec.entries and not known.unproven
                acknowledged = known.acknowledged_by(member.holder) and not present.status.entries
                retired = not member.wanted and member.phase is Phase.GONE and member.pod is None
                if (retired and not present.spec.entries) or (known.index > 0 and empty and acknowledged):
                    await writer.delete(known)
            gone = not member.wanted and member.pod is None and not member.slices
            lease = state.member_lease(member.name)
            if gone and lease is not None:
                metadata = lease.lease.metadata
                try:
                    await self._client.delete(
                        LEASES,
                        metadata.namespace,
                        metadata.name,
                        uid=metadata.uid,
                        resource_version=metadata.resource_version,
                    )
                except (NotFoundError, ConflictError):
                    log.debug("lease %s is gone already", metadata.name)

    # telling

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
        members = self._members(hub, state, memory, asyncio.get_running_loop().time())
        fresh = msgspec.structs.replace(observation, members=members)
        self._observed[key] = fresh
        changed_phase = {name for name, member in members.items() if memory.phases.get(name) != str(member.phase)}
        for name in changed_phase:
            for known in members[name].slices:
                dirty |= known.assignments.keys()
        dirty |= _differing(plan.unplaced, memory.unplaced)
        tell(self.events, hub, state, fresh, plan, memory)
        names = _differing(observation.refusals, memory.refusals)
        names.update(name for child_id in dirty for name in state.by_id.get(child_id, ()))
        for name in names:
            self.status.mark((key[0], name))
        memory.unplaced, memory.refusals = dict(plan.unplaced), observation.refusals
        memory.phases = {name: str(member.phase) for name, member in members.items()}
        metrics.CHILDREN.labels(*key).set(len(observation.snapshot.children))
        metrics.MEMBERS.labels(*key).set(sum(member.phase is Phase.LIVE for member in members.values()))

    def _latest_child_status(self, key: ChildKey) -> tuple[Child, ChildStatus] | None:
        child = self._store.child(key)
        if child is None or child.metadata.deletion_timestamp is not None:
            return None
        hub_key = (key[0], child.spec.hub)
        hub = self._store.hubs.get(hub_key)
        if hub is None:
            refusal = Refusal(
                Reason.HUB_NOT_FOUND, f"spec.hub: there is no hub {child.spec.hub!r} in namespace {key[0]!r}"
            )
            return child, child_status(child, [], refusal, None, rfc3339())
        observation, memory = self._observed.get(hub_key), self._memory.get(hub_key)
        if observation is None or memory is None:
            refused = refuse_hub(hub.spec)
            if refused is None:
                return None  # the first round has not ended yet
            message = f"the hub is not accepted: {refused.message}"
            return child, child_status(child, [], Refusal(refused.reason, message), None, rfc3339())
        if not observation.has_seen(child):
            return None  # the next round will
        refusal_of_child = observation.refusals.get(child.metadata.name)
        status = child_status(
            child, copies_of(child.id, observation.members), refusal_of_child, memory.unplaced.get(child.id), rfc3339()
        )
        return child, status

    def _write_hub(self, hub: Hub, memory: HubMemory, compute: Callable[[], HubStatus]) -> float | None:
        """Have the Hub's status written where it differs; the seconds to wait where it is not its time yet."""
        current = self._store.hubs.get(hub.metadata.key)
        if current is None or current.metadata.uid != hub.metadata.uid:
            return None  # made anew in the midst of the round: this status is its predecessor's
        now = asyncio.get_running_loop().time()
        wait = memory.status_bucket.wait(now)
        if memory.storm:
            wait = max(wait, memory.status_written_at + _STORM_STATUS_SECONDS - now)
        if wait > 0 or self.status.busy_with(hub):
            return max(0.1, wait)
        status = compute()
        if status != current.status:
            memory.status_bucket.take(now)
            memory.status_written_at = now
            self.status.hub(current, status, lambda: self.wake(hub.metadata.key))
        return None

    # beside a round

    def _memory_of(self, hub: Hub, state: HubState) -> HubMemory:
        key = hub.metadata.key
        memory = self._memory.get(key)
        if memory is None or memory.uid != hub.metadata.uid:
            self._drop_memory(key)
            state.bereft.clear()
            memory = self._memory[key] = HubMemory(hub.metadata.uid, self._term, self._used_epochs)
            memory.takeover = self.takeover
        return memory

    def _refusal(self, hub: Hub, state: HubState) -> Refusal | None:
        if broken := self._store.broken_hubs.get(hub.metadata.key):
            return Refusal(Reason.INVALID, f"the hub can't be read: {broken[1]}")
        if refusal := refuse_hub(hub.spec):
            return refusal
        uid = hub.metadata.uid
        older = [f"registryslice {name}" for name, known in state.slices.items() if known.present.spec.hub_uid != uid]
        older += [
            f"lease {name}"
            for name, known in state.leases.items()
            if known.lease.metadata.labels.get(LABEL_HUB_UID) != uid
        ]
        older += [f"pod {name}" for name, pod in state.pods.items() if pod.metadata.labels.get(LABEL_HUB_UID) != uid]
        if older:
            return Refusal(
                Reason.NAME_CONFLICT,
                f"{older[0]} of an earlier hub of this name is still being deleted; started when it is gone",
            )
        return None

    async def _without_hub(self, key: HubKey, state: HubState) -> float | None:
        """The Hub is not there (any more): its Children say so, its objects go by owner reference."""
        self._observed.pop(key, None)
        self._mark_children(key, state)
        state.dirty.clear()
        if self._store.hubs.get(key) is None:
            self._drop_memory(key)
            metrics.forget(key)
            if state.empty:
                self._store.forget(key)
        await delete_all(self._client, state.child_pods)
        return None

    def _drop_memory(self, key: HubKey) -> None:
        if memory := self._memory.pop(key, None):
            self._used_epochs = max(self._used_epochs, memory.used_epochs)

    def _mark_children(self, key: HubKey, state: HubState) -> None:
        for name in state.children:
            self.status.mark((key[0], name))


def _differing(now: Mapping[str, Told], before: Mapping[str, Told]) -> set[str]:
    """The keys under which the two don't say the same."""
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
        occupied = any(known.assignments for known in member.slices) or view.lingering
        if occupied and not (forced and member.name in plan.stranded):
            replicas = max(replicas, ordinal + 1)
    return replicas
