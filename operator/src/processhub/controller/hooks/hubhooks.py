"""The hooks of all hubs. A hub without hooks costs nothing; for others, each part is made when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from processhub.api.hooks import PRE_EVENTS, Hook, HookEvent
from processhub.api.hub import Hub, HubSpec
from processhub.controller.hooks.asking import Asker
from processhub.controller.hooks.derive import Tracker
from processhub.controller.hooks.dispatcher import HookDispatcher
from processhub.controller.hooks.hubevent import CloudEventText, HubEvent
from processhub.controller.hooks.moves import MoveAdmission
from processhub.controller.hooks.starts import StartAdmission
from processhub.controller.hooks.stops import StopAdmission
from processhub.controller.hooks.view import hub_view, ids_on, member_seen
from processhub.controller.observe.observation import Observation
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.core.acceptance import Refusal
from processhub.core.model.plan import Plan

_GRACE_SECONDS = 2.0  # time for queued events when the operator ends


class Receivers(Protocol):
    """The receivers of hooks."""

    def refusal(self, spec: HubSpec) -> Refusal | None:
        """Why a hub with these hooks is not accepted; None if it is."""

    async def call(self, hub: HubKey, hook: Hook, event: CloudEventText) -> Any:
        """Make one attempt; returns the webhook's body, or the handler's result. Raises HookError."""

    async def close(self) -> None:
        """Close all connections."""


class _HubHooks:
    """The parts for one hub with hooks. ``tracker`` is None while no hook takes events."""

    def __init__(self, hub: Hub, state: HubState, hooks: Hooks) -> None:
        key = hub.metadata.key
        self.uid = hub.metadata.uid
        self.tracker: Tracker | None = None

        async def call(hook: Hook, event: CloudEventText) -> Any:
            return await hooks.receivers.call(key, hook, event)

        self.dispatcher = HookDispatcher(hub, call, hooks.events)
        self.asker = Asker(hub, call, hooks.events)
        self.starts = StartAdmission(self.asker, state, lambda: hooks.wake(key))
        self.stops = StopAdmission(self.asker, lambda: hooks.wake(key))
        self.moves = MoveAdmission(self.asker, self.dispatcher.post, lambda: hooks.wake(key))

    def update(self, hub: Hub) -> None:
        self.asker.hub = hub
        self.dispatcher.update(hub)

    async def close(self) -> None:
        for admission in (self.starts, self.stops, self.moves):
            admission.close()
        await self.dispatcher.close(_GRACE_SECONDS)


class Hooks:
    """Delivers events to the hooks of every hub, and asks Pre hooks. ``hubs``: the hubs that this leader found."""

    def __init__(
        self,
        events: EventRecorder,
        receivers: Receivers,
        term: int,
        leader: str,
        hubs: Iterable[Hub],
        wake: Callable[[HubKey], None],
    ) -> None:
        self.events, self.receivers, self.wake, self._term, self._leader = events, receivers, wake, term, leader
        self._of: dict[HubKey, _HubHooks] = {}
        # The hubs that another leader reconciled before. What happened between the two is unknown.
        self._taken_over = {hub.metadata.uid for hub in hubs if hub.status.conditions}
        self._closing: set[asyncio.Task[None]] = set()

    def admission(self, hub: Hub, state: HubState) -> StartAdmission | None:
        """The admission of starts of the hub's children; None if no hook has to be asked."""
        key = hub.metadata.key
        changed = any(known.asked for known in state.slices.values())
        own = self._of.get(key)
        if own is not None and own.uid != hub.metadata.uid:
            self.forget(key)
            own = None
        if not hub.spec.hooks and not changed:
            self.forget(key)
            return None
        if own is None:
            own = self._of[key] = _HubHooks(hub, state, self)
        own.update(hub)
        return own.starts if own.starts.begin_round(hub.spec.hooks) else None

    def before_plan(self, hub: Hub, observation: Observation) -> Observation:
        """Look at a hub before its round changes anything, so that what is found first is no event.

        Without the permission of its hooks, the hub's budget for moves is set to 0.
        """
        own, taken_over = self._of.get(hub.metadata.key), hub.metadata.uid in self._taken_over
        self._taken_over.discard(hub.metadata.uid)
        if own is None:
            return observation
        if not any(hook.event not in PRE_EVENTS for hook in hub.spec.hooks):
            own.tracker = None
        elif own.tracker is None:
            own.tracker = Tracker()
            own.tracker.advance(hub_view(observation))
            if taken_over:
                leader = {"term": self._term, "leader": self._leader}
                own.dispatcher.post([HubEvent(HookEvent.LEADERSHIP_CHANGED, "", leader)])
        if own.moves.open or not _has(hub, HookEvent.PRE_REDISTRIBUTION):
            return observation
        return msgspec.structs.replace(
            observation, snapshot=msgspec.structs.replace(observation.snapshot, move_budget=0)
        )

    def before_execution(self, hub: Hub, observation: Observation, plan: Plan) -> Plan:
        """The plan without the stops that have to wait for a hook."""
        own = self._of.get(hub.metadata.key)
        if own is None:
            return plan
        if _has(hub, HookEvent.PRE_REDISTRIBUTION):
            own.moves.follow(plan, observation.members.values())
        else:
            own.moves.reset()  # the permission does not cover later moves
        if _has(hub, HookEvent.PRE_CHILD_STOP):
            plan = own.stops.hold(plan, observation)
        return plan

    def after_round(self, hub: Hub, observation: Observation, plan: Plan, changed: set[str]) -> None:
        """Queue a round's events; ``changed``: ids whose entries, reports or Child changed since the last round."""
        own = self._of.get(hub.metadata.key)
        if own is None or own.tracker is None:
            return
        members = observation.members
        seen = {name: member_seen(member) for name, member in members.items()}
        ids = changed.union(*(ids_on(members[name]) for name in own.tracker.changed_members(seen)))
        own.dispatcher.post(own.tracker.advance(hub_view(observation, plan, ids)))

    def forget(self, key: HubKey) -> None:
        """Remove a hub that is gone or has no hooks any more. Queued events are still delivered."""
        own = self._of.pop(key, None)
        if own is not None:
            task = asyncio.create_task(own.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Deliver what can be delivered at once, and stop."""
        for key in list(self._of):
            self.forget(key)
        await asyncio.gather(*self._closing)
        await self.receivers.close()


def _has(hub: Hub, event: HookEvent) -> bool:
    return any(hook.event == event for hook in hub.spec.hooks)
