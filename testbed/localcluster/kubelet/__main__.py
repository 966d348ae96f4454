"""``python -m localcluster.kubelet --kubeconfig FILE --nodes N --root DIR``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
from pathlib import Path

import uvloop

from localcluster.kubelet import control, image, logserver, shimcode, syscalls
from localcluster.kubelet.addresses import claim_block
from localcluster.kubelet.connection import read_kubeconfig
from localcluster.kubelet.node import Node
from localcluster.kubelet.sandbox import Host
from localcluster.kubelet.service import Kubelet
from processhub.cluster.client import Client

_CODE = "code"


async def serve(kubeconfig: Path, count: int, root: Path, tools: Path | None, prefix: str, isolate: bool) -> None:
    """Run ``count`` nodes until SIGTERM or SIGINT, then end every process of their pods."""
    server, block = read_kubeconfig(kubeconfig), claim_block(str(root))
    async with Client(server.client_config()) as client:
        kept = image.outermost((*image.folders(tools), str(server.ca.parent)))
        isolated = isolate and _can_isolate(root / _CODE)
        host = Host(client, server, block, root, root / _CODE, image.search_path(tools), kept, isolated)
        nodes = [Node(f"{prefix}{index}", index, block.node(index)) for index in range(count)]
        kubelet = Kubelet(host, nodes)
        task = asyncio.create_task(kubelet.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        async with await control.serve(kubelet, root), logserver.serve(kubelet, nodes, server):
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            finally:
                await kubelet.close()
                block.close()


def _can_isolate(code: Path) -> bool:
    """Whether containers can have a separate mount tree here, which a short-lived process tries."""
    command = [*shimcode.entry_point(code, "rootfs_probe"), str(code / "probe")]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m localcluster.kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--root", type=Path, required=True, help="folder for pods, logs and the control socket")
    parser.add_argument("--bin", type=Path, help="folder that containers have on PATH (kubectl, helm)")
    parser.add_argument("--prefix", default="node-", help="of node names (default: %(default)s)")
    parser.add_argument(
        "--no-isolation",
        action="store_true",
        help="no mount trees; paths below a mountPath are rewritten in env and arguments (as where mounts are refused)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # If a shim is killed, its container's processes become children of this process, which ends them.
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    os.umask(0o022)
    root: Path = arguments.root.absolute()
    shutil.rmtree(root / "pods", ignore_errors=True)  # their processes died with the kubelet that made them
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    shimcode.install(root / _CODE)
    uvloop.run(  # the pods' traffic to the API server goes through this process
        serve(
            arguments.kubeconfig,
            arguments.nodes,
            root,
            arguments.bin,
            arguments.prefix,
            not arguments.no_isolation,
        )
    )


if __name__ == "__main__":
    main()
