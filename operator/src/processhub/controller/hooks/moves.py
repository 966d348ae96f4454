"""PreRedistribution: planned moves begin when the hooks allow it. After a denial the hooks are asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from processhub.api.hooks import HookEvent
from processhub.controller.hooks.asking import Asker, Unanswered
from processhub.controller.hooks.hubevent import HubEvent
from processhub.controller.observe.members import Member
from processhub.core.model.plan import Plan

AGAIN_SECONDS = 15.0  # time between a denial and the next question


class MoveAdmission:
    """The admission of one hub's moves. ``open``: they may begin now.

    ``post`` queues events for the hub's hooks, ``wake`` requeues the hub.
    """

    def __init__(self, asker: Asker, post: Callable[[list[HubEvent]], None], wake: Callable[[], None]) -> None:
        self._asker, self._post, self._wake = asker, post, wake
        self._task: asyncio.Task[None] | None = None
        self.open = False

    def follow(self, plan: Plan, members: Iterable[Member]) -> None:
        """Take a round's plan: ask the hooks if moves are due. Their permission ends with the last of the moves."""
        pending = plan.pending_moves + plan.pending_restarts  # the same budget paces both
        if not pending and not plan.moving:
            self.reset()
            return
        if self.open or self._task is not None or not pending:
            return
        named = list(members)
        data = {
            "pending": pending,
            "joining": [member.name for member in named if member.joining],
            "leaving": [member.name for member in named if member.judgement.draining or not member.wanted],
        }
        self._task = asyncio.create_task(self._ask(data), name="PreRedistribution")

    def reset(self) -> None:
        """Discard the permission and the question: the next moves are a new question."""
        self.open = False
        self.close()

    def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self, data: dict[str, Any]) -> None:
        while True:
            try:
                answer = await self._asker.ask(HookEvent.PRE_REDISTRIBUTION, "", data)
                allowed, reason = answer.allow, answer.reason
            except Unanswered as error:
                allowed, reason = False, str(error)
            if allowed:
                break
            details = {"count": data["pending"], "reason": "HookDenied", "message": reason}
            self._post([HubEvent(HookEvent.MIGRATION_DEFERRED, "", details)])
            await asyncio.sleep(AGAIN_SECONDS)
        self.open, self._task = True, None
        self._wake()
