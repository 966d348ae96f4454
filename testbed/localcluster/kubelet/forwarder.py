"""A pod's own way to the API server, a TCP forwarder that can be cut.

It listens on 127.0.0.1, which the API server's certificate names, so in-cluster clients need no special settings.
"""

from __future__ import annotations

import asyncio
from typing import Literal, cast

Mode = Literal["drop", "reset"]


class Forwarder:
    """Forwards connections to the API server until it is cut.

    ``drop`` loses packets: open connections stall and continue when healed, new ones get no response. ``reset`` closes
    open connections and refuses new ones.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.cut_mode: Mode | None = None
        self.port = 0

    async def start(self) -> None:
        """Start to listen; ``port`` is known afterwards."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self, None), "127.0.0.1", self.port, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close all connections and the listener."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.abort()

    def cut(self, mode: Mode) -> None:
        """Stop all traffic; later connections get no response or are refused."""
        self.cut_mode = mode
        for link in list(self._links):
            link.hold() if mode == "drop" else link.abort()

    def heal(self) -> None:
        """Resume the traffic, also that of stalled connections."""
        self.cut_mode = None
        for link in list(self._links):
            link.release()

    def admit(self, link: _Link) -> bool:
        """Accept a new connection; False if it is to be refused."""
        if self.cut_mode == "reset" or self._server is None:
            return False
        self._links.add(link)
        return True

    def drop(self, link: _Link) -> None:
        """Forget a connection that has ended."""
        self._links.discard(link)

    async def dial(self, client: _Link) -> None:
        """Connect a client's link to the API server."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Link(self, client), *self._target)
        except OSError:
            client.abort()


class _Link(asyncio.Protocol):
    """One side of a forwarded connection; ``peer`` is the other side."""

    def __init__(self, owner: Forwarder, peer: _Link | None) -> None:
        self._owner, self._peer, self._accepted = owner, peer, peer is None
        self._transport: asyncio.Transport | None = None
        self._held = owner.cut_mode == "drop"
        self._choked = False  # the peer can't take more data for now
        self._ending = False  # the peer has ended during a cut
        self._waiting: list[bytes] = []
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        self._transport = transport
        if not self._owner.admit(self):
            transport.abort()
        elif self._peer is None:
            transport.pause_reading()
            if not self._held:
                self._dial()
        else:
            self._peer.joined(self)

    def joined(self, peer: _Link) -> None:
        """Start to read, because the other side is connected."""
        self._peer = peer
        self._read_if_free()
        peer._read_if_free()

    def hold(self) -> None:
        """Stall this side."""
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def release(self) -> None:
        """Resume this side."""
        self._held = False
        if self._peer is None and self._accepted and self._dialling is None:
            self._dial()
        self._read_if_free()
        if self._ending and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close without waiting for unsent data."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        # Before the peer is connected, or after a cut, data may still arrive: uvloop reads once more after a pause.
        self._waiting.append(data)
        self._flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer._choked = True
            if self._peer._transport is not None:
                self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer._choked = False
            self._peer._read_if_free()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.drop(self)
        if self._peer is not None and self._peer._transport is not None:
            if self._peer._held:
                self._peer._ending = True  # a cut loses the end of the connection as well
            else:
                self._peer._transport.close()

    def _dial(self) -> None:
        self._dialling = asyncio.get_running_loop().create_task(self._owner.dial(self))

    def _read_if_free(self) -> None:
        if self._transport is None or self._peer is None or self._transport.is_closing():
            return
        if not self._held and not self._choked:
            self._flush()
            self._transport.resume_reading()

    def _flush(self) -> None:
        if not self._held and self._peer is not None and self._peer._transport is not None:
            self._peer._transport.writelines(self._waiting)
            self._waiting.clear()
