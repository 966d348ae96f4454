"""Forwards a local port to a port of a pod, through the API server and the kubelet, as kubectl port-forward does.

It uses the WebSocket form of the protocol (v4.channel.k8s.io), which aiohttp supports. The official client needs
threads, and certificates in files, which are not always available here.
"""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import PODS
from processhub.cluster.tasks import cancel_all

_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1  # channels: the first byte of each message
_CHUNK = 64 * 1024
_OPEN_SECONDS = 10.0


class PortForward:
    """A local port that is forwarded to one pod's port. Call ``open`` first and ``close`` last."""

    def __init__(self, client: Client, namespace: str, pod: str, port: int) -> None:
        self._client, self.pod, self._port = client, pod, port
        self._path = PODS.path(namespace, pod, "portforward")
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Open the port; returns its base URL. Raises ApiError if the pod can't be reached this way."""
        async with self._socket() as socket:  # fails at once if the account may not do this, or there is no such pod
            await asyncio.wait_for(self._begin(socket), _OPEN_SECONDS)
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def busy(self) -> bool:
        """Whether a connection through the port is open."""
        return bool(self._links)

    def retire(self) -> None:
        """Close the port, and leave the connections through it open."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Close the port and all connections through it."""
        self.retire()
        await cancel_all(self._links)

    def _socket(self) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        return self._client.websocket(self._path, {"ports": str(self._port)}, _PROTOCOL)

    async def _begin(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Read the first message of both channels, which contains the port's number."""
        seen: set[int] = set()
        while seen != {_DATA, _ERROR}:
            message = await socket.receive_bytes()
            seen.add(message[0])

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            async with self._socket() as socket:
                await self._begin(socket)
                up = asyncio.create_task(_send(reader, socket))
                try:
                    await _receive(socket, writer)
                finally:
                    up.cancel()
        except (ApiError, aiohttp.ClientError, TypeError, OSError):
            writer.transport.abort()  # so that the user of the port sees a broken connection
        except asyncio.CancelledError:
            pass  # it is closed; asyncio of Python 3.11 logs an error if the task of a connection ends as cancelled
        finally:
            writer.close()
            self._links.discard(task)


async def _send(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    while chunk := await reader.read(_CHUNK):
        await socket.send_bytes(bytes([_DATA]) + chunk)
    await socket.close()


async def _receive(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        if message.data[0] == _ERROR:
            raise OSError(message.data[1:].decode(errors="replace"))
        writer.write(message.data[1:])
        await writer.drain()
