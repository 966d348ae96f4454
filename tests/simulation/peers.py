"""Requests of members to each other: those of callers, and the states of children that move."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from processhub.agent.env import Environment
from processhub.agent.peers import client
from processhub.agent.peers.connections import PeerConnections, Way
from processhub.agent.peers.statesender import Batch, Receipt
from processhub.agent.tls.identity import MemberTls

from .sockets import connect

if TYPE_CHECKING:
    from .kubelet import Container
    from .world import World

_NEVER = 3600.0  # longer than any sender waits
_CONNECT_SECONDS = 2.0


class Peers(client.Peers):
    """The other members, as one member reaches them: the product's, without HTTP."""

    def __init__(self, world: World, own: Container, env: Environment, tls: MemberTls) -> None:
        self._world, self._own = world, own
        self._member, self._tls = env.member, tls
        self._token, self._read_at = "", float("inf")  # nobody checks a token
        self._connections = PeerConnections(env.member, self._way, self._connect)

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def answers(self, address: str) -> bool:
        """Return whether the member at the address responds at all."""
        target = self._world.container_at(address)
        return target is not None and target.process.runs and self._connected(target)

    async def _connect(self, way: Way) -> Any:
        network = self._world.network
        await network.travel()
        target = self._world.container_at(way.base.removeprefix("http://"))
        if target is None or target.process.dead or not target.listens:
            raise ConnectionRefusedError("connection refused")
        if not self._connected(target):
            await asyncio.sleep(_CONNECT_SECONDS)
            raise TimeoutError("no answer")
        return connect(network, self._own, target)

    async def send_states(self, address: str, batch: Batch) -> tuple[Receipt, ...]:
        """Send small states; the response may be lost, or may never come."""
        network, name = self._world.network, self._own.process.name
        none = (Receipt(0, "the connection broke"),) * len(batch.states)
        fault = ""
        if network.meets_fault(name, "write", "/v1/handovers"):
            fault = network.rng.choice(("lost", "answer lost"))
            network.trace.fault(name, f"states to {address}: {fault}")
        await network.travel()
        target = self._world.container_at(address)
        if target is None or target.process.dead or fault == "lost":
            return none
        if not self._connected(target):
            await asyncio.sleep(_NEVER)
        answer: asyncio.Future[tuple[Receipt, ...]] = asyncio.get_running_loop().create_future()

        def take() -> None:
            if not answer.done():
                answer.set_result(target.take(batch))

        target.process.call(take)
        receipts = await answer
        await network.travel()
        return none if fault else receipts

    def _connected(self, target: Container) -> bool:
        return self._world.network.connects(self._own, target)
