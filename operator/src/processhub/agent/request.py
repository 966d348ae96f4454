"""A request to a child, and its possible outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

JSON = "application/json"


class Response(NamedTuple):
    """The answer of a child."""

    status: int
    body: bytes
    content_type: str = JSON


class OutcomeUnknownError(Exception):
    """The request was handed to the child, and no answer will come. The message says what happened."""


class MovedError(Exception):
    """This member does not own the child (any more), and the request was not handed to the child."""


async def _nothing() -> bytes:
    raise AssertionError("the body is there")


@dataclass(eq=False, slots=True)
class Request:
    """A call or a cast. ``fetch`` gets the body of a forwarded request when its turn has come."""

    kind: str  # call or cast
    body: bytes | None
    content_type: str = JSON
    key: str = ""  # the caller's Idempotency-Key
    fetch: Callable[[], Awaitable[bytes]] = _nothing
    handed_over: asyncio.Event = field(default_factory=asyncio.Event)  # set when the request may have run

    async def content(self) -> bytes:
        """The body. Raises OSError if its sender has gone."""
        if self.body is None:
            self.body = await self.fetch()
        return self.body

    @property
    def begun(self) -> bool:
        """Whether the request was handed to the child."""
        return self.handed_over.is_set()
