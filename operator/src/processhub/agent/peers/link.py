"""The requests of an agent to other members, and the protocol of what sends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from processhub.agent.listeners import Signal
from processhub.agent.peers.statesender import Batch, Outgoing, Receipt
from processhub.agent.registry.lookup import RoutedCopy
from processhub.agent.request import Request, Response


class UnreachableError(Exception):
    """A member did not accept the connection. Nothing was sent. The message is a sentence that names the member."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A request on its way to the child's owner, another member.

    ``seconds`` limits the time from when the child may have the request. ``changed`` is set when the registry has
    changed; ``stands()`` then says whether the owner is still the owner.
    """

    owner: RoutedCopy
    child_id: str
    request: Request
    seconds: float
    changed: Signal
    stands: Callable[[], bool]


class PeerLink(Protocol):
    """The other members of the hub."""

    async def forward(self, what: Forwarding) -> Response | None:
        """Send a request to the owner; returns its answer, or None if it was not sent and must be routed again.

        Raises Problem, and UnreachableError if it was not sent because the owner can't be reached.
        """

    async def send_state(self, address: str, state: Outgoing) -> Receipt:
        """Send a child's state for its entry that waits at the address, in a stream."""

    async def send_states(self, address: str, batch: Batch) -> tuple[Receipt, ...]:
        """Send small states for entries that wait at the address; returns the result for each, in order."""

    def connected(self, address: str) -> bool:
        """Whether a connection to the member at the address is open, on which requests are forwarded."""

    async def answers(self, address: str) -> bool:
        """Whether the member at the address answers at all."""

    def token(self) -> str:
        """This member's own token, or "" if there is none."""

    async def close(self) -> None:
        """Close all connections."""
