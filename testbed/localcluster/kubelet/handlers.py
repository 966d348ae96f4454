"""Runs the handlers of probes and lifecycle hooks: an HTTP request, a connection, a command, a sleep."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp

from localcluster.kubelet.environment import Json
from localcluster.kubelet.runtime import Run
from localcluster.kubelet.shimcode import entry_point
from processhub.api.addresses import url_host


async def carry_out(handler: Json, run: Run, container: Json, pod_ip: str, timeout: float) -> str | None:
    """Run a handler; return None on success, else the reason of the failure."""
    try:
        async with asyncio.timeout(timeout):
            if action := handler.get("httpGet"):
                return await _http(action, container, pod_ip)
            if action := handler.get("tcpSocket"):
                await _tcp(action, container, pod_ip)
                return None
            if action := handler.get("exec"):
                return await _execute(action.get("command") or [], run)
            if action := handler.get("sleep"):
                await asyncio.sleep(float(action["seconds"]))
                return None
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except (OSError, aiohttp.ClientError) as error:
        return str(error) or type(error).__name__
    return f"the process kubelet has no handler for {sorted(handler)}"


async def _http(action: Json, container: Json, pod_ip: str) -> str | None:
    host, port = action.get("host") or pod_ip, _port(action["port"], container)
    url = f"{(action.get('scheme') or 'HTTP').lower()}://{url_host(host)}:{port}{action.get('path') or '/'}"
    headers = {"User-Agent": "kube-probe/1.34"} | {
        entry["name"]: entry.get("value", "") for entry in action.get("httpHeaders") or ()
    }
    # With its own session: a kept connection would hide that the server stopped accepting.
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url, ssl=False, allow_redirects=False) as answer,
    ):
        if 200 <= answer.status < 400:
            return None
        return f"HTTP probe failed with statuscode: {answer.status}"


async def _tcp(action: Json, container: Json, pod_ip: str) -> None:
    _, writer = await asyncio.open_connection(action.get("host") or pod_ip, _port(action["port"], container))
    writer.close()


async def _execute(command: list[str], run: Run) -> str | None:
    process = await asyncio.create_subprocess_exec(
        *entry_point(Path(run.code), "enter"),
        *(str(run.pid), *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode == 0:
        return None
    return f"exit code {process.returncode}: {said[-500:].decode(errors='replace').strip()}"


def _port(port: int | str, container: Json) -> int:
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    if port.isdecimal():
        return int(port)
    raise OSError(f"container {container['name']} has no port named {port}")
