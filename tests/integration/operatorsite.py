"""The cluster that the operator tests of a session share: its operator pods, and the API server that they disturb."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from settling import PATIENCE, settles
from waiting import alive

from localcluster import rollout
from localcluster.cluster import Cluster
from localcluster.faults import Faults
from processhub.api.kubernetes import Lease, Pod
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError
from processhub.cluster.kinds import LEASES, PODS, untyped

_OPERATOR_PODS = "app.kubernetes.io/component=operator"


# In front of other processes, where this account may say so. A leader keeps its Lease for 10 s without a renewal: the
# API server must start in less, however busy the machine is.
_FIRST = ("nice", "-n", "-15")


@dataclass(frozen=True)
class Site:
    """The shared cluster and its operator."""

    cluster: Cluster
    api: Client
    faults: Faults


class Operators:
    """The operator's pods."""

    namespace = rollout.NAMESPACE

    def __init__(self, site: Site) -> None:
        self.api, self.faults = site.api, site.faults

    async def lease(self) -> Lease:
        """Return the leader Lease."""
        return await self.api.get(LEASES, self.namespace, "processhub-operator")

    async def holder(self) -> str:
        """Return the identity that leads: pod name, ``_`` and a nonce."""
        return (await self.lease()).spec.holder_identity or ""

    async def leader(self) -> str:
        """Return the pod that leads."""
        return (await self.holder()).rpartition("_")[0]

    async def kill_leader(self) -> str:
        """Kill the leader with SIGKILL and return its identity."""
        holder = await self.holder()
        await self.faults.kill_pod(f"{self.namespace}/{holder.rpartition('_')[0]}")
        return holder

    async def leader_after(self, holder: str, within: float = PATIENCE) -> str:
        """Return the identity that leads once it differs from ``holder``."""

        async def check() -> str:
            now = await self.holder()
            assert now not in ("", holder), f"still {now!r}"
            return now

        return await settles(check, within)

    async def runs_out(self) -> float:
        """Return when the leader Lease runs out unless it is renewed or released from now on (time.time())."""
        spec = (await self.lease()).spec
        return _seconds(spec.renew_time) + (spec.lease_duration_seconds or 0)

    async def led_since(self) -> float:
        """Return when the leader took its Lease (time.time())."""
        return _seconds((await self.lease()).spec.acquire_time)

    async def both_ready(self) -> None:
        """Wait until there are two Ready operator pods and one leads: every test may start from there."""

        async def check() -> None:
            states = {
                item.metadata.name: [c.status for c in item.status.conditions if c.type == "Ready"]
                for item in await self.pods()
            }
            assert list(states.values()) == [["True"], ["True"]], states
            assert await self.leader() in states, (await self.holder(), states)

        await settles(check, within=90)

    async def scale(self, replicas: int) -> None:
        """Scale the operator, and wait until it has this many pods."""
        deployments = untyped("apps/v1", "deployments")
        await self.api.patch(deployments, self.namespace, "processhub-operator", {"spec": {"replicas": replicas}})

        async def check() -> None:
            # Pods that are ending are counted too: they may still act.
            items, _ = await self.api.list(PODS, self.namespace, labels=_OPERATOR_PODS)
            assert len(items) == len(await self.pods()) == replicas

        await settles(check)

    async def logs(self, pod: str, **query: str) -> str:
        """Return the log of an operator pod."""
        return (await self.api.raw("GET", PODS.path(self.namespace, pod, "log"), query=query)).decode()

    async def complaints(self) -> list[str]:
        """Return the errors in the operators' logs, which no user should see, except those about a lost leadership."""
        found = []
        for item in await self.pods():
            with contextlib.suppress(ApiError):
                said = await self.logs(item.metadata.name)
                found += [line for line in said.splitlines() if '"ERROR"' in line or line.startswith("Traceback")]
        # kopf logs an error when it will retry a request to an API server that is not up yet.
        return [line for line in found if "leadership lost" not in line and "will retry" not in line]

    async def pods(self) -> list[Pod]:
        """Return the operator pods that are not being deleted."""
        items, _ = await self.api.list(PODS, self.namespace, labels=_OPERATOR_PODS)
        return [item for item in items if isinstance(item, Pod) and item.metadata.deletion_timestamp is None]


def _seconds(time_of_a_lease: str | None) -> float:
    assert time_of_a_lease is not None
    return datetime.fromisoformat(time_of_a_lease).timestamp()


@dataclass(frozen=True)
class Ended:
    """A process that was ended, with what is needed to start it again."""

    arguments: list[str]
    environment: dict[str, str]
    log: Path


class ControlPlane:
    """The processes of the control plane."""

    def __init__(self, site: Site) -> None:
        self._marker = f"LOCALCLUSTER_ID={site.cluster.record.id}".encode()
        self._api, self._etcd = site.api, Path(site.cluster.record.data) / "etcd"

    def api_server(self) -> int:
        """Return the pid of the API server."""
        return self._pid("kube-apiserver")

    def restart_api_server(self, *options: str) -> None:
        """End the API server and start it again with the same arguments and these, in front of other processes."""
        ended = self._end("kube-apiserver")
        self._start(replace(ended, arguments=[*_FIRST, *ended.arguments, *options]))

    def back_up(self, folder: Path) -> None:
        """Copy etcd's data, as of one moment, into this folder."""
        etcd = self._pid("etcd")
        os.kill(etcd, signal.SIGSTOP)
        try:
            shutil.copytree(self._etcd, folder)
        finally:
            os.kill(etcd, signal.SIGCONT)

    async def restore(self, folder: Path) -> None:
        """End the control plane, put etcd's data back from this folder, and start it again."""
        clients = [self._end(name) for name in ("kube-scheduler", "kube-controller-manager")]
        servers = [self._end(name) for name in ("kube-apiserver", "etcd")]
        shutil.rmtree(self._etcd)
        shutil.copytree(folder, self._etcd)
        for process in reversed(servers):
            self._start(process)

        async def answers() -> None:
            with contextlib.suppress(ApiError):
                await self._api.raw("GET", "/readyz")
                return
            raise AssertionError("the API server is not ready")

        await settles(answers, within=60)
        for process in clients:
            self._start(process)

    def _pid(self, name: str) -> int:
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                program = (folder / "cmdline").read_bytes().partition(b"\0")[0]
                ours = self._marker in (folder / "environ").read_bytes().split(b"\0")
                if ours and program.endswith(b"/" + name.encode()):
                    return int(folder.name)
        raise AssertionError(f"no {name} runs")

    def _end(self, name: str) -> Ended:
        """End a process."""
        pid = self._pid(name)
        folder = Path(f"/proc/{pid}")
        arguments = [word.decode() for word in (folder / "cmdline").read_bytes().split(b"\0")[:-1]]
        pairs = (word.decode().partition("=") for word in (folder / "environ").read_bytes().split(b"\0") if word)
        environment = {name: value for name, _, value in pairs}
        log = (folder / "fd" / "2").readlink()
        held = os.pidfd_open(pid)
        signal.pidfd_send_signal(held, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(held, signal.SIGKILL)
        os.close(held)
        while alive(pid):
            time.sleep(0.02)
        return Ended(arguments, environment, log)

    def _start(self, process: Ended) -> None:
        with open(process.log, "ab") as output:
            subprocess.Popen(
                process.arguments,
                env=process.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
