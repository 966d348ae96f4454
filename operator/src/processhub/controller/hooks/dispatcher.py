"""The queue of one hub's events, and the worker that delivers them one after the other, in order.

Delivery is at least once while this operator leads. An event is retried with back-off, under the same id. After a
bounded time it is given up, which an Event on the Hub reports. A hook that hangs is called once in some seconds, and
misses the other events. Events that are queued when leadership ends are lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from processhub.api.hooks import PRE_EVENTS, Hook, HookEvent, in_order
from processhub.api.hub import Hub
from processhub.api.reasons import EventReason
from processhub.controller import metrics
from processhub.controller.hooks.hubevent import CloudEventText, Delivery, HubEvent, cloud_event
from processhub.controller.hooks.silence import Silence
from processhub.controller.hooks.webhook import HookError
from processhub.controller.rounds.events import EventRecorder
from processhub.core.listing import counted

QUEUE = 20_000  # the most events of one hub that wait
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between the attempts for one event
ANNOUNCE_SECONDS = 60.0  # between two Events about one hook
Call = Callable[[Hook, CloudEventText], Awaitable[object]]
log = logging.getLogger(__name__)


class _Failing(msgspec.Struct):
    """A hook whose last event was given up.

    ``lost``: how many events. ``unannounced``: those of them without an Event yet. ``announced_at``: the time of the
    last Event. ``why``: the last failure.
    """

    lost: int = 0
    unannounced: int = 0
    announced_at: float = float("-inf")
    why: str = ""
    silence: Silence = msgspec.field(default_factory=Silence)


class HookDispatcher:
    """Delivers one hub's events. ``call`` makes one attempt and raises HookError."""

    def __init__(self, hub: Hub, call: Call, events: EventRecorder) -> None:
        self._hub, self._call, self._events = hub, call, events
        self._order: dict[HookEvent, list[Hook]] = {}
        self._queue: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failing: dict[str, _Failing] = {}
        self._dropped = 0
        self._take(hub)
        self._worker = asyncio.create_task(self._work(), name=f"hooks {hub.metadata.name}")

    def update(self, hub: Hub) -> None:
        """Use the hooks that the Hub has now."""
        if hub is not self._hub:
            self._take(hub)

    def post(self, events: Iterable[HubEvent]) -> None:
        """Queue the events for which there is a hook."""
        for event in events:
            if event.kind not in self._order:
                continue
            if len(self._queue) < QUEUE:
                self._queue.append(Delivery.about(event))
                continue
            if not self._dropped:
                log.error("hub %s: %d events wait for its hooks; new ones are dropped", self._name, QUEUE)
            self._dropped += 1
            metrics.HOOK_EVENTS.labels("dropped").inc()
        if self._queue:
            self._idle.clear()
            self._arrived.set()

    async def close(self, grace: float = 0.0) -> None:
        """Stop delivering. Queued events have ``grace`` seconds to be delivered."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            log.warning("hub %s: %d events were not delivered to its hooks", self._name, len(self._queue))
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    @property
    def _name(self) -> str:
        return f"{self._hub.metadata.namespace}/{self._hub.metadata.name}"

    def _take(self, hub: Hub) -> None:
        if hub.spec.hooks is not self._hub.spec.hooks or not self._order:
            kinds = {hook.event for hook in hub.spec.hooks} - PRE_EVENTS
            self._order = {kind: in_order(hub.spec.hooks, kind) for kind in kinds}
            names = {hook.name for hook in hub.spec.hooks}
            self._failing = {name: failing for name, failing in self._failing.items() if name in names}
        self._hub = hub

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            while self._queue:
                await self._deliver(self._queue[0])
                self._queue.popleft()
                if self._dropped and len(self._queue) < QUEUE // 2:
                    dropped = counted(self._dropped, "event was", "events were")
                    message = f"{dropped} dropped: the hooks accept them too slowly"
                    self._events.about_hub(self._hub, EventReason.HOOK_FAILED, message, warning=True)
                    self._dropped = 0
            self._arrived.clear()
            self._idle.set()

    async def _deliver(self, delivery: Delivery) -> None:
        """Call all hooks of this event, by priority. A hook that fails does not stop the others."""
        hooks = self._order.get(delivery.event.kind, [])
        if not hooks:
            return  # the hooks were cancelled meanwhile
        try:
            event = cloud_event(delivery, self._hub.metadata.key)
        except Exception:
            log.exception("hub %s: an event could not be made of %s", self._name, delivery.event)
            return
        clock = asyncio.get_running_loop().time
        for hook in hooks:
            known = self._failing.get(hook.name)
            if known is not None and known.silence.hangs and not known.silence.probes(clock()):
                self._lose(hook, known)  # Each event would take its time limit, and all others wait behind it.
                continue
            began = clock()
            try:
                await self._attempt(hook, event)
            except HookError as error:
                self._gave_up(hook, event, str(error), began)
            except Exception as error:
                log.exception("hub %s, hook %s", self._name, hook.name)
                self._gave_up(hook, event, f"{type(error).__name__}: {error}", began)
            else:
                metrics.HOOK_EVENTS.labels("delivered").inc()
                if failing := self._failing.pop(hook.name, None):
                    log.info("hub %s: hook %s works again; %d events were lost", self._name, hook.name, failing.lost)

    async def _attempt(self, hook: Hook, event: CloudEventText) -> None:
        # A hook whose last event was given up gets one attempt, because other events wait behind this one.
        waits = () if hook.name in self._failing else WAITS
        for wait in waits:
            try:
                await self._call(hook, event)
            except HookError as error:
                if not error.retry:
                    raise
                log.info("hub %s, hook %s, event %s, again: %s", self._name, hook.name, event.id, error)
                await asyncio.sleep(max(error.after, wait * random.uniform(0.8, 1.2)))  # noqa: S311 no secret
            else:
                return
        await self._call(hook, event)

    def _gave_up(self, hook: Hook, event: CloudEventText, why: str, began: float) -> None:
        log.warning("hub %s, hook %s, event %s given up: %s", self._name, hook.name, event.id, why)
        failing = self._failing.setdefault(hook.name, _Failing())
        failing.why = why
        failing.silence.note(began, asyncio.get_running_loop().time())
        self._lose(hook, failing)

    def _lose(self, hook: Hook, failing: _Failing) -> None:
        """Count an event that the hook does not get, and report such events from time to time."""
        metrics.HOOK_EVENTS.labels("failed").inc()
        failing.lost += 1
        failing.unannounced += 1
        now = asyncio.get_running_loop().time()
        if now - failing.announced_at < ANNOUNCE_SECONDS:
            return
        missed = counted(failing.unannounced, f"{hook.event} event", f"{hook.event} events")
        message = f"hook {hook.name} missed {missed}: {failing.why}"
        self._events.about_hub(self._hub, EventReason.HOOK_FAILED, message, warning=True)
        failing.unannounced, failing.announced_at = 0, now
