"""The product at work, for tests of its client and command line: an operator of one namespace, hubs on real members."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from namespaces import create_namespace, remove_hub, remove_namespace
from waiting import ENDS_WITH_US, eventually

import render_manifests
from localcluster.cluster import Cluster
from localcluster.ports import free_port
from processhub import Hub as Connection
from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.meta import API_VERSION, find_condition
from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILDREN, HUBS, untyped

_ACTORS = Path(__file__).parent / "actors" / "sample_actors.py"
_CONFIG_MAPS = untyped("v1", "configmaps")
WAIT = 40  # seconds, for changes that take one or two on an idle machine
SLEEP = {"command": ["sleep", "1000"]}
COUNTER = {"target": "processhub.examples:Counter"}


def sleepers(*ids: str, **more: Any) -> list[dict[str, Any]]:
    """Return children that sleep; ``more`` are further fields of each."""
    return [{"id": child_id, "exec": SLEEP, **more} for child_id in ids]


async def started(hub: Connection, children: list[dict[str, Any]], **options: Any) -> dict[str, str]:
    """Start the children, wait until all run, and return the member of each."""
    result = await hub.start_children(children, wait=True, timeout=90, **options)
    assert result.ok, result.errors
    return {child_id: processes[0][0] for child_id, processes in result.started.items()}


def places(hub: Connection) -> dict[str, str]:
    """Return the member of each child that has a process."""
    return {child_id: processes[0][0] for child_id, processes in hub.process_list().items()}


def shared(folder: Path) -> dict[str, Any]:
    """Return a member template that mounts this folder of the machine at its own path."""
    mount = {"name": "shared", "mountPath": str(folder)}
    return {
        "spec": {
            "containers": [{"name": "agent", "volumeMounts": [mount]}],
            "volumes": [{"name": "shared", "hostPath": {"path": str(folder)}}],
        }
    }


class Operator:
    """The operator as a process."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as file:
            self._process = await asyncio.create_subprocess_exec(
                *ENDS_WITH_US,
                "processhub-operator",
                env=self._environment,
                stdout=file,
                stderr=asyncio.subprocess.STDOUT,
            )

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def restart(self, **more: str) -> None:
        """Stop it, and start it with these variables too, as an upgrade of the chart does."""
        await self.stop()
        self._environment = {**self._environment, **more}
        await self.start()

    def said(self) -> str:
        """The operator's log."""
        return self._log.read_text()


class Live:
    """A namespace with an operator and hubs."""

    def __init__(self, cluster: Cluster, api: Client, namespace: str, operator: Operator) -> None:
        self.cluster, self.api, self.namespace, self.operator = cluster, api, namespace, operator
        self._unnamed: defaultdict[str, list[str]] = defaultdict(list)  # hubs without a name, by test

    @property
    def kubeconfig(self) -> str:
        """The administrator's kubeconfig."""
        return str(self.cluster.kubeconfig)

    def connect(self, hub: str) -> Connection:
        """Return a client of a hub, as the administrator."""
        return Connection.connect(hub, namespace=self.namespace, kubeconfig=self.kubeconfig)

    async def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl in the namespace; raises ClusterError with its message."""
        return await asyncio.to_thread(
            self.cluster.kubectl, "-n", self.namespace, *arguments, stdin=stdin, timeout=timeout
        )

    async def apply(self, kind: str, name: str, **spec: Any) -> None:
        """Apply an object of this product with kubectl."""
        manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        await self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    async def hub(self, name: str = "", *, replicas: int = 2, ready: bool = True, **spec: Any) -> str:
        """Create a hub, wait until its members are ready, and return its name.

        A hub without a name is removed when another test creates one, because a running hub takes CPU time.
        """
        name = name or await self._next_name()
        members = {"replicas": replicas, **spec.pop("members", {})}
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "Hub",
            "metadata": {"name": name},
            "spec": {"members": members, **spec},
        }
        await self.api.create(HUBS, self.namespace, manifest)
        if ready:
            await self.ready(name, replicas)
        return name

    async def actors(self) -> None:
        """Create the ConfigMap ``actors`` with the module sample_actors, for hubs whose ``members.python`` names it."""
        data = {_ACTORS.name: _ACTORS.read_text()}
        await self.api.create(_CONFIG_MAPS, self.namespace, {"metadata": {"name": "actors"}, "data": data})

    async def _next_name(self) -> str:
        """Return the same names in each run of a test, because the placement of children depends on them."""
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        for former in self._unnamed.keys() - {test}:
            for name in self._unnamed.pop(former):
                await remove_hub(self.api, self.namespace, name)
        name = f"h{zlib.crc32(f'{test} {len(self._unnamed[test]) + 1}'.encode()):08x}"
        self._unnamed[test].append(name)
        return name

    async def ready(self, name: str, replicas: int) -> None:
        """Wait until this many members of the hub are ready."""
        await eventually(lambda: self._is_ready(name, replicas), f"hub {name} ready", within=90)

    async def addresses(self, hub: str) -> list[str]:
        """Return the addresses of the hub's members."""
        found: Hub = await self.api.get(HUBS, self.namespace, hub)
        return [member.pod_ip for member in found.status.members]

    async def child(self, name: str, hub: str, **spec: Any) -> Child:
        """Create a Child object, as kubectl does."""
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "Child",
            "metadata": {"name": name},
            "spec": {"hub": hub, "exec": SLEEP, **spec},
        }
        return await self.api.create(CHILDREN, self.namespace, manifest)

    async def children(self, hub: str) -> dict[str, Child]:
        """Return the hub's Child objects by id."""
        items, _ = await self.api.list(CHILDREN, self.namespace, fields=f"spec.hub={hub}")
        return {item.id: item for item in items if isinstance(item, Child)}

    async def _is_ready(self, name: str, replicas: int) -> bool:
        hub: Hub = await self.api.get(HUBS, self.namespace, name)
        condition = find_condition(hub.status.conditions, "Ready")
        ready = sum(member.ready for member in hub.status.members)
        return ready == replicas and condition is not None and condition.status == "True"


@asynccontextmanager
async def live(cluster: Cluster, api: Client, folder: Path, **more: str) -> AsyncIterator[Live]:
    """Yield a new namespace with its own operator, which ends with the block; ``more`` is added to its environment."""
    namespace = f"live-{secrets.token_hex(3)}"
    rules = render_manifests.render("-s", "templates/rbac-agent.yaml")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rules)
    await create_namespace(api, namespace)
    environment = {
        **cluster.environment(),
        "POD_NAME": "operator",
        "POD_NAMESPACE": namespace,
        "WATCH_NAMESPACES": namespace,
        "POD_IP": "127.0.0.1",
        "PORT": str(free_port()),
        **more,
    }
    operator = Operator(environment, folder / "operator.log")
    await operator.start()
    try:
        yield Live(cluster, api, namespace, operator)
    finally:
        await operator.stop()
        await remove_namespace(api, namespace)


@asynccontextmanager
async def losing_answers(live: Live, lost: str, folder: Path) -> AsyncIterator[str]:
    """Yield a kubeconfig whose server forwards requests, but never answers one that creates the child ``lost``."""
    config = live.api.config

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = config.host.removeprefix("https://").split(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port), ssl=config.ssl, server_hostname=host)
        dropped = False

        async def answers() -> None:
            while data := await up_reader.read(65536):
                if not dropped:
                    writer.write(data)
                    await writer.drain()
            writer.close()

        passing = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                dropped = f'"id":"{lost}"'.encode() in data
                up_writer.write(data)
                await up_writer.drain()
                if dropped:
                    await eventually(lambda: _created(live, lost), f"child {lost} created")
                    break
        finally:
            up_writer.close()
            writer.close()
            passing.cancel()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = folder / "losing.kubeconfig"
    path.write_text(_with_server(live, f"http://127.0.0.1:{port}"))
    async with server:
        yield str(path)


async def _created(live: Live, child_id: str) -> bool:
    items, _ = await live.api.list(CHILDREN, live.namespace)
    return any(isinstance(item, Child) and item.id == child_id for item in items)


def _with_server(live: Live, server: str) -> str:
    return json.dumps(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": live.namespace}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        }
    )
