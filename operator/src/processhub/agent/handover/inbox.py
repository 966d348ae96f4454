"""States that other members send to this one, each assigned to its child."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from processhub.agent.children.child import Child
from processhub.agent.handover.transfer import Handovers
from processhub.agent.peers.statesender import Batch, Receipt


class HandoverInbox:
    """Receives states over HTTP for ``children``, by id."""

    def __init__(self, handovers: Handovers, children: Mapping[str, Child]) -> None:
        self._handovers, self._children = handovers, children

    async def receive(self, child_id: str, uid: str, epoch: int, checksum: str, body: AsyncIterator[bytes]) -> None:
        """Receive a state as a stream. Raises Problem."""
        await self._handovers.receive(self._children.get(child_id), uid, epoch, checksum, body)

    def take(self, batch: Batch) -> tuple[Receipt, ...]:
        """Receive a batch of small states; returns a receipt for each, in order."""
        receipts = tuple(self._handovers.take(self._children.get(state.id), state) for state in batch.states)
        self._handovers.expect(batch.more)
        return receipts
