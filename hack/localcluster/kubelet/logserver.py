"""The part of a kubelet's HTTPS interface that ``kubectl logs`` reaches through the API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from localcluster.kubelet.connection import Server
from localcluster.kubelet.node import KUBELET_PORT, Node
from localcluster.kubelet.service import FaultError, Kubelet

_FOLLOW_SECONDS = 0.1
_CHUNK = 64 * 1024


@contextlib.asynccontextmanager
async def serve(kubelet: Kubelet, nodes: list[Node], server: Server) -> AsyncIterator[None]:
    """Listen on each node's address; only holders of a certificate of the cluster's CA get an answer."""

    async def container_logs(request: web.Request) -> web.StreamResponse:
        return await _container_logs(kubelet, request)

    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", container_logs)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    context = server.serving_context()
    try:
        for node in nodes:
            await web.TCPSite(runner, node.ip, KUBELET_PORT, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


async def _container_logs(kubelet: Kubelet, request: web.Request) -> web.StreamResponse:
    place, query = request.match_info, request.query
    container = place["container"]
    try:
        worker = kubelet.pod(f"{place['namespace']}/{place['pod']}")
    except FaultError as error:
        raise web.HTTPNotFound(text=str(error)) from error
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
    with contextlib.suppress(ConnectionResetError):  # who followed the log has gone
        async for chunk in _chunks(
            path, offset, lambda: follow and supervisor.run is not None and supervisor.run.alive
        ):
            await response.write(chunk[:left])
            if left is not None and (left := left - len(chunk)) <= 0:
                break
    return response


async def _chunks(path: Path, offset: int, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The file's content from ``offset``, and what is appended to it while ``goes_on()``."""
    with open(path, "rb") as file:  # noqa: ASYNC230 - a local file in memory or page cache
        file.seek(offset)
        while True:
            last = not goes_on()  # asked before the read: what was written before the end is still read
            if chunk := file.read(_CHUNK):
                yield chunk
            elif last:
                return
            else:
                await asyncio.sleep(_FOLLOW_SECONDS)


def _tail_offset(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines begin."""
    data = path.read_bytes()
    if lines <= 0:
        return len(data)
    end = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return end + 1
