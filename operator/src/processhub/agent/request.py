"""A request to a child, and its possible outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from processhub.agent.listeners import Signal

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
    """The body of a forwarded request did not come: the member that forwarded it has withdrawn it."""


async def _nothing() -> bytes:
    raise AssertionError("the body is there")


def _no_sender() -> None:
    """Do nothing: no other member forwarded the request."""


@dataclass(eq=False, slots=True)
class Request:
    """A call or a cast. ``fetch`` gets the body of a forwarded request when the child can take it.

    ``put_off()`` is called if the child can't take the request at once. ``obstacle`` says why it could not at the last
    try.
    """

    kind: str  # call or cast
    body: bytes | None
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)  # those that are passed on to the child, in lower case
    fetch: Callable[[], Awaitable[bytes]] = _nothing
    handed_over: Signal = field(default_factory=Signal)  # set when the request may have run
    put_off: Callable[[], None] = _no_sender
    obstacle: str = ""
    _fetching: asyncio.Future[bytes] | None = None

    async def content(self) -> bytes:
        """The body. The fetch continues if the call is cancelled, as a body is sent once. Raises WithdrawnError."""
        if self.body is None:
            if self._fetching is None:
                self._fetching = asyncio.ensure_future(self.fetch())
                # Nobody may wait any more when it fails, which asyncio would log as an error.
                self._fetching.add_done_callback(lambda body: body.cancelled() or body.exception())
            try:
                self.body = await asyncio.shield(self._fetching)
            except (OSError, TimeoutError) as error:
                raise WithdrawnError(str(error) or type(error).__name__) from error
        return self.body

    def copy(self) -> Request:
        """A request of the same content that was not begun yet, for another copy of the child."""
        return Request(self.kind, self.body, self.content_type, self.headers)

    @property
    def begun(self) -> bool:
        """Whether the request was handed to the child."""
        return self.handed_over.is_set()
