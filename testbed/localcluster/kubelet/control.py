"""The kubelet's control channel: a Unix socket in its root that takes and returns JSON objects, one in each line.

``{"do": "kill", "pod": "ns/name"}``, ``{"do": "cut", "node": "node-1", "mode": "reset"}``, ``{"do": "list"}``; the
response has ``ok`` or ``error``.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from localcluster.kubelet.environment import Json
from localcluster.kubelet.service import FaultError, Kubelet

SOCKET = "control.sock"


async def serve(kubelet: Kubelet, root: Path) -> asyncio.Server:
    """Listen on a socket that only this user can use."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    (root / SOCKET).unlink(missing_ok=True)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(kubelet, line)).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    before = os.umask(0o177)
    try:
        # Through the folder's descriptor: a socket's path may have 108 bytes at most.
        return await asyncio.start_unix_server(talk, f"/proc/self/fd/{folder}/{SOCKET}")
    finally:
        os.umask(before)
        os.close(folder)


async def _answer(kubelet: Kubelet, line: bytes) -> Json:
    try:
        return {"ok": await _do(kubelet, json.loads(line))}
    except (FaultError, ValueError, KeyError) as error:
        return {"error": str(error) or type(error).__name__}


async def _do(kubelet: Kubelet, request: Json) -> Any:
    what = request["do"]
    if what == "list":
        return _listing(kubelet)
    if "pod" in request:
        return await _pod_fault(kubelet, what, request)
    if "node" in request:
        return await _node_fault(kubelet, what, request)
    raise FaultError("name a pod or a node")


async def _pod_fault(kubelet: Kubelet, what: str, request: Json) -> Any:
    worker, container = kubelet.pod(request["pod"]), request.get("container")
    match what:
        case "kill":
            return {"pids": kubelet.kill_pod(worker, container)}
        case "pause":
            return {"pids": await kubelet.pause_pod(worker, container)}
        case "resume":
            return kubelet.resume_pod(worker, container)
        case "cut":
            return kubelet.cut_pod(worker, request.get("mode", "drop"))
        case "heal":
            return kubelet.heal_pod(worker)
    raise FaultError(f"there is no fault {what}")


async def _node_fault(kubelet: Kubelet, what: str, request: Json) -> Any:
    node = kubelet.node(request["node"])
    match what:
        case "kill":
            return await kubelet.kill_node(node)
        case "pause":
            return await kubelet.pause_node(node)
        case "cut":
            return kubelet.cut_node(node, request.get("mode", "drop"))
        case "heal" | "resume":
            return kubelet.heal_node(node)
    raise FaultError(f"there is no fault {what}")


def _listing(kubelet: Kubelet) -> list[Json]:
    listing = []
    for worker in kubelet.workers.values():
        runs = {name: supervisor.run for name, supervisor in worker.supervisors.items()}
        listing.append(
            {
                "pod": worker.name,
                "uid": worker.uid,
                "node": worker.node.name,
                "ip": worker.sandbox.place.pod_ip if worker.sandbox else None,
                "folder": str(worker.sandbox.folder) if worker.sandbox else None,
                "containers": {
                    name: {"pid": run.pid, "pids": run.processes()} for name, run in runs.items() if run and run.alive
                },
            }
        )
    return listing
