"""Commands in containers by WebSocket, the form that programs use; kubectl's own, over SPDY, is not served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from localcluster.kubelet.service import Kubelet
from localcluster.kubelet.shimcode import entry_point

_PROTOCOL = "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS = 0, 1, 2, 3  # channels: the first byte of each message
_CHUNK = 32 * 1024


def handler(kubelet: Kubelet) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler of ``/exec/{namespace}/{pod}/{container}``."""

    async def run_command(request: web.Request) -> web.StreamResponse:
        return await _run_command(kubelet, request)

    return run_command


async def _run_command(kubelet: Kubelet, request: web.Request) -> web.StreamResponse:
    place = request.match_info
    worker = kubelet.pod(f"{place['namespace']}/{place['pod']}")
    supervisor = worker.supervisors.get(place["container"])
    run = supervisor.run if supervisor is not None else None
    if run is None or not run.alive or not run.pid:
        raise web.HTTPBadRequest(text=f'container "{place["container"]}" in pod "{place["pod"]}" is not running')
    socket = web.WebSocketResponse(protocols=(_PROTOCOL,), max_msg_size=0)
    await socket.prepare(request)
    process = await asyncio.create_subprocess_exec(
        *entry_point(Path(run.code), "enter"),
        *(str(run.pid), *request.query.getall("command")),
        stdin=asyncio.subprocess.PIPE if request.query.get("input") == "1" else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        feeding = asyncio.create_task(_feed(socket, process))
        await asyncio.gather(
            _pass_on(process.stdout, socket, _STDOUT), _pass_on(process.stderr, socket, _STDERR), process.wait()
        )
        feeding.cancel()
        await socket.send_bytes(bytes([_STATUS]) + json.dumps(_status(process.returncode or 0)).encode())
        await socket.close()
    except ConnectionError:
        pass  # the caller has disconnected
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return socket


def _status(code: int) -> dict[str, Any]:
    """The Status object with which a kubelet ends."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    exit_code = code if code > 0 else 128 - code
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {exit_code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    async for message in socket:
        if process.stdin and message.type is WSMsgType.BINARY and message.data[:1] == bytes([_STDIN]):
            process.stdin.write(message.data[1:])
            await process.stdin.drain()


async def _pass_on(reader: asyncio.StreamReader | None, socket: web.WebSocketResponse, channel: int) -> None:
    assert reader is not None
    while chunk := await reader.read(_CHUNK):
        await socket.send_bytes(bytes([channel]) + chunk)
