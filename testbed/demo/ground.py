"""The cluster under the demo's story: the local one or kind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from typing import Protocol

from demo.stage import NotAsToldError
from image import build as image
from kind import cluster as kind
from kind import docker, nodeimage
from localcluster import cluster as local
from localcluster import install
from localcluster.cluster import Cluster
from localcluster.faults import Faults
from localcluster.layout import CHECKOUT, ClusterError

NAMESPACE = "demo"


class Ground(Protocol):
    """A cluster; ``environment`` is for commands that work on it; ``where`` and ``next_steps`` are texts for people."""

    where: str
    next_steps: tuple[str, str]  # to work on the cluster, and to end it
    environment: dict[str, str]

    async def up(self) -> None:
        """Bring the cluster up and print the progress."""

    async def install(self) -> None:
        """Install the operator by its manifest; returns when it is ready."""

    async def main_process(self, pod: str) -> tuple[str, Callable[[], None]]:
        """A command that kills the pod's main process by SIGKILL, as a user would type it, and its function."""

    def process(self, pod: str, pid: int) -> str:
        """The command line of a process in a pod, by the pid of the registry. Raises NotAsToldError."""


class LocalGround:
    """The local cluster: pods are processes of this machine."""

    where = "on this machine"
    next_steps = ("export KUBECONFIG=$(make -s kubeconfig) PATH=$PWD/.venv/bin:$PATH", "make down")

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self._cluster: Cluster | None = None

    async def up(self) -> None:
        """Bring the cluster up."""
        begun = time.monotonic()
        self._cluster = await asyncio.to_thread(local.up)
        self.environment = self._cluster.environment()
        print(
            f"  API server, etcd, controller manager, scheduler, 3 nodes: {time.monotonic() - begun:.0f} s", flush=True
        )

    async def install(self) -> None:
        """Install the operator with kubectl, as a user would."""
        await asyncio.to_thread(install.apply_manifest, self._up.kubectl)

    async def main_process(self, pod: str) -> tuple[str, Callable[[], None]]:
        """Find the main process through the process kubelet."""
        pods = await Faults(self._up.layout.kubelet_root).pods()
        pid = next(found["containers"]["agent"]["pid"] for found in pods if found["pod"] == f"{NAMESPACE}/{pod}")
        return f"kill -9 {pid}", lambda: os.kill(pid, 9)

    def process(self, pod: str, pid: int) -> str:
        """Read the command line from this machine's /proc."""
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return _words(file.read())
        except OSError as error:
            raise NotAsToldError(f"pid {pid} is on record, but {error.strerror}") from error

    @property
    def _up(self) -> Cluster:
        assert self._cluster is not None, "it is up"
        return self._cluster


class KindGround:
    """kind: pods are containers in nodes that are containers."""

    where = "in Docker"
    next_steps = ("export KUBECONFIG=$(make -s kind-kubeconfig) PATH=$PWD/.venv/bin:$PATH", "make kind-down")

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}

    async def up(self) -> None:
        """Bring the cluster up, with the operator's image."""
        print(f"  kind cluster {await asyncio.to_thread(kind.up, start_dockerd=False)}", flush=True)
        tag = kind.default_image()
        print(f"  image {await asyncio.to_thread(image.build, tag, '')}", flush=True)
        await asyncio.to_thread(kind.load, [tag])
        path = f"{CHECKOUT / '.venv' / 'bin'}:{os.environ.get('PATH', '')}"
        self.environment = {**os.environ, "KUBECONFIG": str(kind.kubeconfig()), "PATH": path}

    async def install(self) -> None:
        """Install the operator with kubectl, as a user would."""

        def kubectl(*arguments: str) -> str:
            try:
                return _run(("kubectl", *arguments), self.environment)
            except NotAsToldError as error:
                raise ClusterError(str(error)) from error

        await asyncio.to_thread(install.apply_manifest, kubectl)

    async def main_process(self, pod: str) -> tuple[str, Callable[[], None]]:
        """Find the main process in its node's /proc, because process 1 can't be killed from inside its container."""
        node = _run(
            ("kubectl", "-n", NAMESPACE, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"), self.environment
        )
        find = f"grep -lxz POD_NAME={pod} /proc/[0-9]*/environ | xargs grep -Lz ^HUB_CHILD_ID= | cut -d/ -f3"
        pids = sorted(map(int, _run(("docker", "exec", node, "sh", "-c", find), self.environment).split()))
        if not pids:
            raise NotAsToldError(f"no process of pod {pod} is on node {node}")
        command = ("docker", "exec", node, "kill", "-9", str(pids[0]))

        def kill() -> None:
            _run(command, self.environment)

        return " ".join(command), kill

    def process(self, pod: str, pid: int) -> str:
        """Read the command line from the /proc of the pod."""
        command = ("kubectl", "-n", NAMESPACE, "exec", pod, "--", "cat", f"/proc/{pid}/cmdline")
        return _words(_run(command, self.environment).encode())


def choose(name: str) -> Ground:
    """The ground of that name (kind, local). If it is empty: kind if Docker runs and its node image is available."""
    if name == "kind" or (not name and docker.state() is docker.Daemon.ANSWERS and nodeimage.at_hand()):
        return KindGround()
    return LocalGround()


def _run(command: tuple[str, ...], environment: dict[str, str]) -> str:
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise NotAsToldError(f"{' '.join(command)}: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.stdout


def _words(cmdline: bytes) -> str:
    return " ".join(cmdline.decode(errors="replace").rstrip("\0").split("\0"))
