"""Asks the Pre hooks of one event, one after the other. Each sees the changes of those before it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from processhub.api.hooks import Hook, HookEvent, in_order
from processhub.api.hub import Hub
from processhub.api.meta import brief
from processhub.api.reasons import EventReason
from processhub.controller import metrics
from processhub.controller.hooks.hubevent import CloudEventText, Delivery, HubEvent, cloud_event
from processhub.controller.hooks.verdicts import HookVerdict, parse_answer
from processhub.controller.hooks.webhook import TEXT_BYTES, HookError
from processhub.controller.rounds.events import EventRecorder

AT_ONCE = 32  # questions of one hub that are under way at once
# Seconds between the attempts of one question; they are short, because something waits for the answer.
_WAITS = (0.2, 0.6)
Call = Callable[[Hook, CloudEventText], Awaitable[Any]]
log = logging.getLogger(__name__)


class Unanswered(Exception):  # noqa: N818 it says what happened
    """A hook with failurePolicy Fail gave no answer. The message names it."""


class Asker:
    """Asks one hub's Pre hooks. ``call`` makes one attempt and raises HookError."""

    def __init__(self, hub: Hub, call: Call, events: EventRecorder) -> None:
        self.hub, self._call, self._events = hub, call, events
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._reported: dict[str, str] = {}  # by hook: the text of its last Event

    async def ask(
        self,
        event: HookEvent,
        subject: str,
        data: Mapping[str, Any],
        check: Callable[[HookVerdict], object] | None = None,
    ) -> HookVerdict:
        """Ask all hooks; returns their joint verdict, or the first denial, with the hook's name. Raises Unanswered.

        ``check`` raises HookError if an answer can't be applied. The hook then counts as one that gave no answer.
        """
        verdict = HookVerdict()
        async with self._limit:
            for hook in in_order(self.hub.spec.hooks, event):
                so_far = {**data, **_changes_so_far(verdict)}
                delivery = Delivery.about(HubEvent(event, subject, so_far))
                try:
                    answer = parse_answer(await self._attempt(hook, cloud_event(delivery, self.hub.metadata.key)))
                    if answer.allow and check is not None:
                        check(verdict.then(answer))
                except Exception as error:
                    # Any error is handled here, because a round waits for the outcome of this question.
                    if not isinstance(error, HookError):
                        log.exception("hub %s/%s, hook %s", *self.hub.metadata.key, hook.name)
                    why = brief(str(error), TEXT_BYTES) or type(error).__name__
                    self._report_failure(hook, why)
                    if hook.receiver.failure_policy == "Fail":
                        raise Unanswered(f"hook {hook.name} gave no answer: {why}") from error
                    continue
                metrics.HOOK_EVENTS.labels("delivered").inc()
                self._reported.pop(hook.name, None)
                if not answer.allow:
                    return HookVerdict(allow=False, reason=f"hook {hook.name}: {answer.reason or 'no reason given'}")
                verdict = verdict.then(answer)
        return verdict

    async def _attempt(self, hook: Hook, event: CloudEventText) -> Any:
        # A hook that gave no answer last time gets one attempt only, and so does one that may not deny.
        once = hook.name in self._reported or hook.event == HookEvent.PRE_CHILD_STOP
        for wait in () if once else _WAITS:
            try:
                return await self._call(hook, event)
            except HookError as error:
                if not error.retry:
                    raise
                log.info("hook %s, event %s, again: %s", hook.name, event.id, error)
                await asyncio.sleep(max(wait, min(error.after, 2.0)))
        return await self._call(hook, event)

    def _report_failure(self, hook: Hook, why: str) -> None:
        metrics.HOOK_EVENTS.labels("failed").inc()
        log.warning("hub %s/%s, hook %s: %s", *self.hub.metadata.key, hook.name, why)
        if self._reported.get(hook.name) == why:
            return  # the Event was posted already; another is posted after the hook has worked again
        self._reported[hook.name] = why
        message = f"hook {hook.name} ({hook.event}) gave no answer: {why}"
        self._events.about_hub(self.hub, EventReason.HOOK_FAILED, message, warning=True)


def _changes_so_far(answer: HookVerdict) -> dict[str, Any]:
    """The changes of the hooks that were asked before, as the next hook gets them."""
    return {"changes": msgspec.to_builtins(answer)} if answer.changes else {}
