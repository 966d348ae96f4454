"""The connections between two members: in both directions messages arrive in order, or the connection breaks."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import WSMsgType

if TYPE_CHECKING:
    from .kubelet import Container
    from .network import Network

_CUT_OFF_SECONDS = 10.0  # after which a connection is broken whose other end acknowledges nothing
_LOOK_SECONDS = 1.0
PATH = "/v1/requests"


class _Message(NamedTuple):
    data: bytes
    type: WSMsgType = WSMsgType.BINARY


class Socket:
    """One end of a connection, as the agent of its container sees it."""

    def __init__(self, network: Network, own: Container) -> None:
        self.network, self.own = network, own
        self.other: Socket
        self.closed = False
        self._sent: deque[bytes] = deque()
        self._received: deque[bytes] = deque()
        self._wake = network.loop.create_future()
        self._carrying = False
        own.sockets[self] = None

    # For the agent.

    async def send_bytes(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        self._sent.append(data)
        if not self._carrying:
            self._carrying = True
            self.network.loop.apart(self._carry())

    def __aiter__(self) -> Socket:
        return self

    async def __anext__(self) -> _Message:
        while not self._received:
            if self.closed:
                raise StopAsyncIteration
            if self._wake.done():
                self._wake = self.network.loop.create_future()
            await asyncio.wait((self._wake,))
        return _Message(self._received.popleft())

    async def close(self) -> None:
        self.shut()

    # What happens on the way.

    def shut(self) -> None:
        """Close this end; the other end learns of it, unless they are cut off from each other."""
        self._break()
        if not self.network.loop.is_closed():  # else the run is over, and its remaining objects are collected
            self.network.loop.apart(self._tell())

    def _break(self) -> None:
        self.closed = True
        self.own.sockets.pop(self, None)
        if not self._wake.done():
            self._wake.set_result(None)

    async def _tell(self) -> None:
        while self._carrying:  # noqa: ASYNC110 what was sent before arrives before the end
            await asyncio.sleep(0.1)
        await self.network.travel()
        if self._connected:
            self.other._break()

    @property
    def _connected(self) -> bool:
        return self.network.connects(self.own, self.other.own)

    async def _carry(self) -> None:
        network = self.network
        while self._sent:
            if network.meets_fault(self.own.process.name, "write", PATH):
                network.trace.fault(self.own.process.name, f"its connection to {self.other.own.process.name} breaks")
                self._sent.clear()
                for end in (self, self.other):
                    end._break()
                break
            await network.travel()
            while not self._connected and not (self.closed and self.other.closed):  # noqa: ASYNC110 it ends by itself
                await asyncio.sleep(0.1)
            if self.other.closed:
                self._sent.clear()
                break
            self.other._received.append(self._sent.popleft())
            if not self.other._wake.done():
                self.other._wake.set_result(None)
        self._carrying = False

    async def watch(self) -> None:
        """Break the connection once its ends were cut off from each other for some time."""
        silent = 0.0
        while not (self.closed and self.other.closed):
            await asyncio.sleep(_LOOK_SECONDS)
            silent = 0.0 if self._connected else silent + _LOOK_SECONDS
            if silent >= _CUT_OFF_SECONDS or (self._connected and (self.closed or self.other.closed)):
                self._break()
                self.other._break()


def connect(network: Network, own: Container, target: Container) -> Socket:
    """Return the own end of a new connection; the other end is the target's."""
    here, there = Socket(network, own), Socket(network, target)
    here.other, there.other = there, here
    network.loop.apart(here.watch())
    target.process.call(target.accept, there)
    return here
