"""Faults on demand: ``python -m localcluster.faults kill|pause|resume|cut|heal pod NAMESPACE/NAME | node NAME``.

- kill: a pod's main processes get SIGKILL and the kubelet restarts them; a node loses its power.
- pause: SIGSTOP for every process of a pod; a node is paused as a whole, heartbeats included.
- cut: no traffic passes between the pod (or node) and the API server while its processes keep running. By default
  packets are lost (open connections stall and continue when healed); with ``--mode reset`` connections are closed and
  refused. Traffic between pods is not affected.
- resume, heal: undo them. A node that was killed starts its pods again.

``list`` shows the pods of this kubelet with their processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from localcluster.layout import default_layout

Mode = Literal["drop", "reset"]


class FaultRefusedError(Exception):
    """The kubelet refused the fault or does not run; the message names the reason."""


@dataclass(frozen=True)
class Faults:
    """The control channel of the process kubelet whose folder is ``root``. All methods raise FaultRefusedError."""

    root: Path

    async def kill_pod(self, pod: str, container: str | None = None) -> list[int]:
        """SIGKILL the main process of each container (or of one) of ``namespace/name``; their pids."""
        answer = await self._ask(do="kill", pod=pod, container=container)
        return list(answer["pids"])

    async def pause_pod(self, pod: str, container: str | None = None) -> list[int]:
        """SIGSTOP all processes; returns their pids once each of them is stopped."""
        answer = await self._ask(do="pause", pod=pod, container=container)
        return list(answer["pids"])

    async def resume_pod(self, pod: str, container: str | None = None) -> None:
        """SIGCONT all processes."""
        await self._ask(do="resume", pod=pod, container=container)

    async def cut_pod(self, pod: str, mode: Mode = "drop") -> None:
        """Cut the pod off from the API server; its node still reports on it."""
        await self._ask(do="cut", pod=pod, mode=mode)

    async def heal_pod(self, pod: str) -> None:
        """Undo ``cut_pod``."""
        await self._ask(do="heal", pod=pod)

    async def kill_node(self, node: str) -> None:
        """Power off; returns when no process is left."""
        await self._ask(do="kill", node=node)

    async def pause_node(self, node: str) -> None:
        """Stop the machine; returns when each process is stopped."""
        await self._ask(do="pause", node=node)

    async def cut_node(self, node: str, mode: Mode = "drop") -> None:
        """Cut the node and its pods off from the API server; its processes keep running."""
        await self._ask(do="cut", node=node, mode=mode)

    async def heal_node(self, node: str) -> None:
        """Undo the faults of the node and of its pods."""
        await self._ask(do="heal", node=node)

    async def pods(self) -> list[dict[str, Any]]:
        """The pods that run here: name, uid, node, ip, folder and the pids of each container."""
        return list(await self._ask(do="list"))

    async def pids(self, pod: str) -> list[int]:
        """The pids of all live processes of ``namespace/name``; empty if it does not run here."""
        for entry in await self.pods():
            if entry["pod"] == pod:
                return [pid for container in entry["containers"].values() for pid in container["pids"]]
        return []

    async def _ask(self, **request: Any) -> Any:
        try:
            # Through the folder's descriptor: a socket's path may have 108 bytes at most.
            folder = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
            try:
                reader, writer = await asyncio.open_unix_connection(
                    f"/proc/self/fd/{folder}/control.sock", limit=64 * 2**20
                )
            finally:
                os.close(folder)
        except OSError as error:
            raise FaultRefusedError(f"no process kubelet answers in {self.root}; is the cluster up?") from error
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            answer = json.loads(await reader.readline() or b'{"error": "the process kubelet ended"}')
        finally:
            writer.close()
        if "error" in answer:
            raise FaultRefusedError(answer["error"])
        return answer["ok"]


async def _run(arguments: argparse.Namespace) -> None:
    faults = Faults(arguments.root)
    if arguments.what == "list":
        for entry in await faults.pods():
            containers = {name: found["pids"] for name, found in entry["containers"].items()}
            print(entry["pod"], entry["node"], entry["ip"], containers)
        return
    if arguments.kind is None or arguments.name is None:
        raise FaultRefusedError(f"say what to {arguments.what}: pod NAMESPACE/NAME or node NAME")
    if arguments.kind == "pod" and arguments.what == "heal":
        await faults.resume_pod(arguments.name)
    options = [arguments.mode] if arguments.what == "cut" else []
    what = "heal" if arguments.kind == "node" and arguments.what == "resume" else arguments.what
    await getattr(faults, f"{what}_{arguments.kind}")(arguments.name, *options)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m localcluster.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("kill", "pause", "resume", "cut", "heal", "list"))
    parser.add_argument("kind", choices=("pod", "node"), nargs="?")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--mode", choices=("drop", "reset"), default="drop", help="of a cut (default: %(default)s)")
    parser.add_argument("--root", type=Path, default=default_layout().kubelet_root, help="the kubelet's folder")
    try:
        asyncio.run(_run(parser.parse_args()))
    except FaultRefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
