"""Asks the Pre hooks of one event, one after the other. Each sees the changes of those before it.

A hook that hangs must not hold up thousands of children, a few at a time, for its whole time limit each. Once it has
been silent several times in a row, only one question in some seconds waits for it. That question finds out whether it
answers again; all others go on without it, if they may.
"""

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
from processhub.controller.hooks.silence import Silence
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


class _HookTrouble(msgspec.Struct):
    """A hook that gave no answer last time. ``why``: the text of its last Event."""

    why: str = ""
    silence: Silence = msgspec.field(default_factory=Silence)


class Asker:
    """Asks one hub's Pre hooks. ``call`` makes one attempt and raises HookError."""

    def __init__(self, hub: Hub, call: Call, events: EventRecorder) -> None:
        self.hub, self._call, self._events = hub, call, events
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._failing: dict[str, _HookTrouble] = {}  # by hook

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
                if self._goes_on_without(hook):
                    continue
                began = asyncio.get_running_loop().time()
                so_far = {**data, "changes": msgspec.to_builtins(verdict)} if verdict.changes else data
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
                    self._report_failure(hook, why, began)
                    if hook.receiver.failure_policy == "Fail":
                        raise Unanswered(f"hook {hook.name} gave no answer: {why}") from error
                    continue
                metrics.HOOK_EVENTS.labels("delivered").inc()
                self._failing.pop(hook.name, None)
                if not answer.allow:
                    return HookVerdict(allow=False, reason=f"hook {hook.name}: {answer.reason or 'no reason given'}")
                verdict = verdict.then(answer)
        return verdict

    async def _attempt(self, hook: Hook, event: CloudEventText) -> Any:
        # A hook that gave no answer last time gets one attempt only, and so does one that may not deny.
        once = hook.name in self._failing or hook.event == HookEvent.PRE_CHILD_STOP
        for wait in () if once else _WAITS:
            try:
                return await self._call(hook, event)
            except HookError as error:
                if not error.retry:
                    raise
                log.info("hook %s, event %s, again: %s", hook.name, event.id, error)
                await asyncio.sleep(max(wait, min(error.after, 2.0)))
        return await self._call(hook, event)

    def _goes_on_without(self, hook: Hook) -> bool:
        """Whether a question does not wait for this hook, as it hangs, and its answer is not required."""
        failing = self._failing.get(hook.name)
        if failing is None or not failing.silence.hangs or _is_required(hook):
            return False
        return not failing.silence.probes(asyncio.get_running_loop().time())

    def _report_failure(self, hook: Hook, why: str, began: float) -> None:
        metrics.HOOK_EVENTS.labels("failed").inc()
        log.warning("hub %s/%s, hook %s: %s", *self.hub.metadata.key, hook.name, why)
        failing = self._failing.setdefault(hook.name, _HookTrouble())
        failing.silence.note(began, asyncio.get_running_loop().time())
        if failing.why == why:
            return  # the Event was posted already; another is posted after the hook has worked again
        failing.why = why
        message = f"hook {hook.name} ({hook.event}) gave no answer: {why}"
        self._events.about_hub(self.hub, EventReason.HOOK_FAILED, message, warning=True)


def _is_required(hook: Hook) -> bool:
    """Whether what was asked about can't go on without the hook's answer. A child that is stopped always can."""
    return hook.event != HookEvent.PRE_CHILD_STOP and hook.receiver.failure_policy == "Fail"
