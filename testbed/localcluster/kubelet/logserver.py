"""The parts of a kubelet's HTTPS interface that logs, port-forwards and commands reach through the API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from localcluster.kubelet import execserver
from localcluster.kubelet.connection import Server
from localcluster.kubelet.node import KUBELET_PORT, Node
from localcluster.kubelet.service import FaultError, Kubelet

_FORWARDING = "v4.channel.k8s.io"
_FOLLOW_SECONDS = 0.1
_CHUNK = 64 * 1024


@contextlib.asynccontextmanager
async def serve(kubelet: Kubelet, nodes: list[Node], server: Server) -> AsyncIterator[None]:
    """Listen on each node's address; only holders of a certificate of the cluster's CA get a response."""

    async def container_logs(request: web.Request) -> web.StreamResponse:
        return await _container_logs(kubelet, request)

    async def port_forward(request: web.Request) -> web.StreamResponse:
        return await _port_forward(kubelet, request)

    application = web.Application(middlewares=[_not_found])
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", container_logs)
    application.router.add_get("/portForward/{namespace}/{pod}", port_forward)
    application.router.add_get("/portForward/{namespace}/{pod}/{uid}", port_forward)
    application.router.add_get("/exec/{namespace}/{pod}/{container}", execserver.handler(kubelet))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    context = server.serving_context()
    try:
        for node in nodes:
            await web.TCPSite(runner, node.ip, KUBELET_PORT, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


@web.middleware
async def _not_found(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer 404 if the pod does not run on this kubelet."""
    try:
        return await handler(request)
    except FaultError as error:
        raise web.HTTPNotFound(text=str(error)) from error


async def _container_logs(kubelet: Kubelet, request: web.Request) -> web.StreamResponse:
    place, query = request.match_info, request.query
    container = place["container"]
    worker = kubelet.pod(f"{place['namespace']}/{place['pod']}")
    supervisor = worker.supervisors.get(container)
    if supervisor is None or worker.sandbox is None:
        raise web.HTTPBadRequest(text=f'container "{container}" in pod "{place["pod"]}" is waiting to start')
    number = supervisor.record.restarts - (1 if query.get("previous") == "true" else 0)
    path = worker.sandbox.log_file(container, number)
    if number > 0 and not path.exists() and query.get("previous") != "true":
        path = worker.sandbox.log_file(container, number - 1)  # between two runs
    if not path.exists():
        raise web.HTTPBadRequest(text=f'container "{container}" in pod "{place["pod"]}" has no such log')
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    offset = _tail_offset(path, int(query["tailLines"])) if "tailLines" in query else 0
    left = int(query["limitBytes"]) if "limitBytes" in query else None
    follow = query.get("follow") == "true"
    with contextlib.suppress(ConnectionResetError):  # the client that followed the log has disconnected
        async for chunk in _chunks(
            path, offset, lambda: follow and supervisor.run is not None and supervisor.run.alive
        ):
            await response.write(chunk[:left])
            if left is not None and (left := left - len(chunk)) <= 0:
                break
    return response


async def _port_forward(kubelet: Kubelet, request: web.Request) -> web.StreamResponse:
    """Forward one port by WebSocket, the form that programs use; kubectl's own, over SPDY, is not served."""
    place = request.match_info
    worker = kubelet.pod(f"{place['namespace']}/{place['pod']}")
    if worker.sandbox is None:
        raise web.HTTPBadRequest(text=f'pod "{place["pod"]}" is not running')
    port = int(request.query["port"])
    socket = web.WebSocketResponse(protocols=(_FORWARDING,), max_msg_size=0)
    await socket.prepare(request)
    for channel in (b"\0", b"\1"):
        await socket.send_bytes(channel + port.to_bytes(2, "little"))
    try:
        reader, writer = await asyncio.open_connection(worker.sandbox.place.pod_ip, port)
    except OSError as error:
        await socket.send_bytes(b"\1" + f"port {port}: {error}".encode())
        return socket
    down = asyncio.create_task(_pass_down(reader, socket))
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data[:1] == b"\0":
                writer.write(message.data[1:])
                await writer.drain()
    except ConnectionError:
        pass  # the pod's side has closed
    finally:
        down.cancel()
        writer.close()
    return socket


async def _pass_down(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK):
            await socket.send_bytes(b"\0" + chunk)
    await socket.close()


async def _chunks(path: Path, offset: int, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The file's content from ``offset``, and the lines that are appended while ``goes_on()``."""
    with open(path, "rb") as file:  # noqa: ASYNC230 - a local file in memory or page cache
        file.seek(offset)
        while True:
            last = not goes_on()  # asked before the read: output from before the end is still read
            if chunk := file.read(_CHUNK):
                yield chunk
            elif last:
                return
            else:
                await asyncio.sleep(_FOLLOW_SECONDS)


def _tail_offset(path: Path, lines: int) -> int:
    """The offset at which the last ``lines`` lines start."""
    data = path.read_bytes()
    if lines <= 0:
        return len(data)
    end = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return end + 1
