"""A listening port of the member: plain HTTP, and from when the member has a certificate also TLS, on the same port.

The first byte of a connection says which of both it is: a TLS record of a handshake begins with 0x16, and no HTTP
request does. So TLS can be turned on in a running hub, while its members and their callers change one after the other,
and the probes of the kubelet need no certificate.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from processhub.agent import web
from processhub.agent.problems import Problem
from processhub.agent.tls.identity import MemberTls

log = logging.getLogger(__name__)
_HANDSHAKE = b"\x16"
_BACKLOG = 128
_FIRST_BYTE_SECONDS = 60.0
_HANDSHAKE_SECONDS = 10.0
_ANSWER_SECONDS = 1.0  # in which requests are still answered when all connections are closed
_RETRY_SECONDS = 1.0  # after a connection could not be accepted, as without free file descriptors


class Listener:
    """One listening port. Call ``start`` first and ``stop`` last, before the server is shut down."""

    def __init__(self, server: web.Server, tls: MemberTls, address: str, port: int) -> None:
        self._server, self._tls, self._address, self._port = server, tls, address, port
        self._socket: socket.socket | None = None
        self._plain: asyncio.Server | None = None  # accepts the connections as long as TLS is not accepted
        self._detecting = False
        self._opening: set[asyncio.Task[None]] = set()  # connections whose first byte is awaited, or whose handshake

    async def start(self) -> None:
        """Listen. Raises OSError if the address is in use."""
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((self._address, self._port))
            made.listen(_BACKLOG)
        except OSError:
            made.close()
            raise
        self._socket = made
        # It closes its socket when it stops. The port stays open by this one.
        loop = asyncio.get_running_loop()
        self._plain = await loop.create_server(self._server, sock=made.dup(), backlog=_BACKLOG)
        self.look()

    def look(self) -> None:
        """Accept TLS too, from when the member has a certificate. No connection is refused meanwhile."""
        if self._detecting or self._socket is None or self._tls.server is None:
            return
        self._detecting = True
        self._stop_plain()
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def stop(self) -> None:
        """Accept no more connections."""
        self._stop_plain()
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        for task in self._opening:
            task.cancel()

    def _stop_plain(self) -> None:
        if self._plain is not None:
            self._plain.close()
            self._plain = None

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_BACKLOG):
            if self._socket is None:
                return
            try:
                accepted, _peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("no connection can be accepted now: %s", error)
                loop.remove_reader(self._socket)
                loop.call_later(_RETRY_SECONDS, self._resume)
                return
            accepted.setblocking(False)
            task = loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _resume(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def _open(self, accepted: socket.socket) -> None:
        """Find out what the connection is, and hand it to the server."""
        loop, server = asyncio.get_running_loop(), self._server
        try:
            first = await _first_byte(accepted)
            if not first:
                accepted.close()
                return
            if first == _HANDSHAKE:
                await loop.connect_accepted_socket(
                    server, accepted, ssl=self._tls.server, ssl_handshake_timeout=_HANDSHAKE_SECONDS
                )
            else:
                await loop.connect_accepted_socket(server, accepted)
        except asyncio.CancelledError:
            accepted.close()
            raise
        except (OSError, TimeoutError) as error:  # such as a handshake with a caller that does not trust the authority
            log.debug("a connection was not opened: %s", error)
            accepted.close()


async def _first_byte(accepted: socket.socket) -> bytes:
    """The first byte that came, which stays to be read; b"" if the other end has closed.

    Raises TimeoutError, OSError.
    """
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(accepted, came.set)
    try:
        async with asyncio.timeout(_FIRST_BYTE_SECONDS):
            await came.wait()
    finally:
        loop.remove_reader(accepted)
    return accepted.recv(1, socket.MSG_PEEK)


class Ports:
    """All listening ports of a member. They accept TLS from when ``tls`` has a certificate."""

    def __init__(self, server: web.Server, tls: MemberTls, port: int) -> None:
        self._server, self._tls, self._port = server, tls, port
        self._listeners: list[Listener] = []
        tls.changed.listen(self._look)

    async def listen(self, address: str) -> None:
        """Listen on this address. Raises OSError if it is in use."""
        listener = Listener(self._server, self._tls, address, self._port)
        await listener.start()
        self._listeners.append(listener)

    async def close(self) -> None:
        """Accept no more connections, and close all."""
        for listener in self._listeners:
            listener.stop()
        await asyncio.sleep(0)  # what has come before is handled, and so its connection is not idle
        self._server.pre_shutdown()
        await self._server.shutdown(_ANSWER_SECONDS)

    def check_encrypted(self, request: web.BaseRequest, hub: str) -> None:
        """Raise Problem if the request came without TLS, and the hub requires it of others than the own pod."""
        transport = request.transport
        if not self._tls.required or of_own_pod(transport):
            return
        if transport is None or transport.get_extra_info("ssl_object") is None:
            raise Problem(
                426,
                "tls_required",
                f"hub {hub} accepts requests over TLS only: use https:// and verify the name {self._tls.server_name} by"
                " the certificates in status.tls.authorities of the Hub",
            )

    def _look(self) -> None:
        for listener in self._listeners:
            listener.look()


def of_own_pod(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a connection comes from the member's own pod: it does not leave the machine, and nobody can listen to it.

    Processes of the pod that connect to the pod's address have that address themselves.
    """
    if transport is None:
        return False
    peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return bool(peer) and bool(local) and peer[0] == local[0]
