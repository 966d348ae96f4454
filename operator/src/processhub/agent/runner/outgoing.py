"""The requests of one actor to other children, which the agent passes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from typing import Any

from processhub.agent.frames import Message
from processhub.jsontext import json_text
from processhub.requesterrors import request_error


class OutgoingRequests:
    """The requests that wait for their answers, by number. ``send(event)`` sends to the agent."""

    def __init__(self, key: str, child_id: str, send: Callable[[Message], None]) -> None:
        self.handling: asyncio.Task[Any] | None = None  # the task in which the actor handles a message
        self._key, self._child_id, self._send = key, child_id, send
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}

    async def ask(self, operation: str, child_id: str, value: Any, to: str) -> Any:
        """Send a request to another child, and return the answer. It runs in the loop of the caller."""
        if child_id == self._child_id and operation == "call" and asyncio.current_task() is self.handling:
            raise RuntimeError(
                f"child {child_id!r} calls itself while it handles a message: it handles one at a time and would wait"
                " forever"
            )
        payload = json_text(value, default=str).encode()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        number = next(self._numbers)
        self._waiting[number] = (loop, answer)
        self._send(
            {
                "ev": "ask",
                "key": self._key,
                "ask": number,
                "op": operation,
                "id": child_id,
                "to": to,
                "payload": payload,
            }
        )
        try:
            return await answer
        finally:
            if self._waiting.pop(number, None) is not None:
                self._send({"ev": "unask", "key": self._key, "ask": number})

    def answered(self, message: Message) -> None:
        """Complete a request with the answer of the other child. This is called on another thread."""
        loop, answer = self._waiting.pop(message["ask"], (None, None))
        if loop is None or answer is None:
            return
        with contextlib.suppress(RuntimeError):  # that loop is closed, so no task waits any more
            loop.call_soon_threadsafe(_settle, answer, message)


def _settle(answer: asyncio.Future[Any], message: Message) -> None:
    if answer.done():
        return
    if "code" in message:
        answer.set_exception(
            request_error(message["status"], message["code"], message["detail"], message.get("retry_after", 0))
        )
        return
    text = message["payload"].decode(errors="replace")
    try:
        answer.set_result(json.loads(text) if message["json"] else text)
    except (ValueError, RecursionError):  # the other child is a program that answered with something else
        answer.set_result(text)
