"""The receivers of a hub's hooks, which may be slow, fail, or deny a move."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from memoryapi import Json

from processhub.api.hooks import Hook, HookEvent, Webhook
from processhub.controller.hooks.webhook import HookError

from .trace import Trace

_EVENTS = ("PreChildStart", "PreChildStop", "PreRedistribution", "ChildStarted", "ChildStopped", "ChildMoved")


def hooked(spec: Json, rng: Random) -> None:
    """Give the hub of this spec some hooks."""
    spec["hooks"] = [
        {
            "name": event.lower(),
            "event": event,
            "webhook": {"url": "http://hooks.example", "failurePolicy": rng.choice(("Ignore", "Fail"))},
        }
        for event in rng.sample(_EVENTS, rng.randint(1, 4))
    ]


class Webhooks:
    """All receivers. ``rate``: how many of the calls fail now."""

    def __init__(self, rng: Random, trace: Trace) -> None:
        self._rng, self._trace, self.rate = rng, trace, 0.0

    def refusal(self, spec: object) -> None:
        """No hub is refused for its hooks."""
        return

    async def call(self, hub: object, hook: Hook, event: object) -> Any:
        """Answer a call; it allows everything, unless it fails."""
        assert isinstance(hook.receiver, Webhook)
        await asyncio.sleep(self._rng.uniform(0.002, 0.1))
        if self._rng.random() >= self.rate:
            return b"{}"
        fault = self._rng.choice(("refused", "error", "never", "late", "denial"))
        self._trace.fault("webhook", f"{hook.name}: {fault}")
        if fault == "denial" and hook.event == HookEvent.PRE_REDISTRIBUTION:
            return b'{"allow": false, "reason": "not now"}'
        if fault == "late":
            await asyncio.sleep(self._rng.uniform(0.0, hook.receiver.timeout_seconds))
            return b"{}"
        if fault == "never":
            await asyncio.sleep(hook.receiver.timeout_seconds)
        raise HookError(fault, retry=fault != "refused")

    async def close(self) -> None:
        """Close nothing: there are no connections."""
