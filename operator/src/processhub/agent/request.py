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


class WithdrawnError(Exception):
    """The sender of a forwarded request has gone before it sent the body, so there is nothing to hand over."""


async def _nothing() -> bytes:
    raise AssertionError("the body is there")


@dataclass(eq=False, slots=True)
class Request:
    """A call or a cast.

    ``fetch`` gets the body of a forwarded request, which has ``length`` bytes. It is called when the request's turn has
    come and the child takes it, because from then on the sender counts the request as one that may have run.
    """

    kind: str  # call or cast
    body: bytes | None
    content_type: str = JSON
    key: str = ""  # the caller's Idempotency-Key
    fetch: Callable[[], Awaitable[bytes]] = _nothing
    length: int = 0
    handed_over: asyncio.Event = field(default_factory=asyncio.Event)  # set when the request may have run
    obstacle: str = ""  # why the child, whose turn it is, does not take the request, as a clause
    _fetching: asyncio.Future[bytes] | None = None

    async def content(self) -> bytes:
        """The body. It is fetched once, also if a call is cancelled. Raises WithdrawnError if its sender has gone."""
        if self.body is None:
            if self._fetching is None:
                self._fetching = asyncio.ensure_future(self.fetch())
                self._fetching.add_done_callback(_settled)
            try:
                self.body = await asyncio.shield(self._fetching)
            except OSError as error:
                raise WithdrawnError(str(error) or type(error).__name__) from error
        return self.body

    @property
    def size(self) -> int:
        """The number of bytes of the body, known before it is fetched."""
        return self.length if self.body is None else len(self.body)

    @property
    def begun(self) -> bool:
        """Whether the request was handed to the child."""
        return self.handed_over.is_set()


def _settled(fetching: asyncio.Future[bytes]) -> None:
    """Retrieve the exception of a fetch that nobody waits for any more."""
    if not fetching.cancelled():
        fetching.exception()
