"""A request on its way to a child, and what can become of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

JSON = "application/json"


class Response(NamedTuple):
    """A child's own answer."""

    status: int
    body: bytes
    content_type: str = JSON


class OutcomeUnknownError(Exception):
    """The request was handed over and no answer will come; the message says what happened."""


class MovedError(Exception):
    """This member is not, or no longer, the owner, and the request was not handed to the child."""


async def _nothing() -> bytes:
    raise AssertionError("the body is there")


@dataclass(eq=False, slots=True)
class Request:
    """A call or a cast. ``fetch`` gets the body of one that another member forwards, when its turn has come."""

    kind: str  # call or cast
    body: bytes | None
    content_type: str = JSON
    key: str = ""  # the caller's Idempotency-Key
    fetch: Callable[[], Awaitable[bytes]] = _nothing
    handed_over: asyncio.Event = field(default_factory=asyncio.Event)  # from then on it may have run

    async def content(self) -> bytes:
        """The body. Raises OSError where whoever sends it has gone."""
        if self.body is None:
            self.body = await self.fetch()
        return self.body

    @property
    def begun(self) -> bool:
        """Whether it was handed to the child."""
        return self.handed_over.is_set()
