"""The receivers of hooks: webhooks over HTTP, Python handlers in threads of this process."""

from __future__ import annotations

from typing import Any

import aiohttp

from processhub.api.hooks import Hook, Webhook
from processhub.api.hub import HubSpec
from processhub.controller.hooks.handlers import Handlers
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.webhook import new_session, post
from processhub.controller.store.hubstate import HubKey
from processhub.core.acceptance import Refusal


class HookReceivers:
    """The receivers that Hubs name. The connections are opened when the first webhook is called."""

    def __init__(self) -> None:
        self._handlers = Handlers()
        self._session: aiohttp.ClientSession | None = None

    def refusal(self, spec: HubSpec) -> Refusal | None:
        """Why a hub with these hooks is not accepted; None if it is."""
        return self._handlers.refusal(spec)

    async def call(self, hub: HubKey, hook: Hook, event: CloudEventText) -> Any:
        """Make one attempt; returns the webhook's body, or the handler's result. Raises HookError."""
        receiver = hook.receiver
        if not isinstance(receiver, Webhook):
            return await self._handlers.call(hub, receiver, event)
        if self._session is None:
            self._session = new_session()
        return await post(self._session, receiver, event)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
