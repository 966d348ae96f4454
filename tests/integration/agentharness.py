"""One agent as a real process on a real API server, with the test in the role of the operator.

``Member`` writes slices and the Lease as the operator does, and reads the status that the agent writes. Every wait is
for a condition, with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml
from waiting import ENDS_WITH_US, PASSING, pauses

from processhub.api.child import ChildEnvVar, Exec, Python, Workload
from processhub.api.kubernetes import Lease, LeaseSpec
from processhub.api.meta import ObjectMeta
from processhub.api.naming import (
    AUDIENCE,
    LABEL_HUB,
    LABEL_HUB_UID,
    LABEL_MEMBER,
    id_hash,
    lease_name,
    member_account,
    slice_name,
)
from processhub.api.slice import RegistrySlice, Settings, SliceSpec
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError
from processhub.cluster.kinds import LEASES, SLICES, untyped
from processhub.registry.grammar import Assignment, Report, format_assignment, parse_report
from processhub.registry.workloads import encode_workload

T = TypeVar("T")
_addresses = itertools.count(1)


async def until(
    condition: Callable[[], Awaitable[T | None]] | Callable[[], T | None],
    seconds: float = 40,
    what: str = "",
    every: float | None = None,
) -> T:
    """Return the first true value of ``condition``; after the deadline raise AssertionError with ``what``."""
    deadline = time.monotonic() + seconds
    pause = itertools.repeat(every) if every else pauses()
    while True:
        value: Any = None
        with contextlib.suppress(*PASSING):
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(next(pause))


def shell(script: str, *, stop_signal: str = "SIGTERM", env: dict[str, str] | None = None, cwd: str = "") -> Workload:
    """An exec workload that runs a shell script."""
    variables = tuple(ChildEnvVar(name=name, value=value) for name, value in (env or {}).items())
    return Workload(exec=Exec(command=("sh", "-c", script), env=variables, stop_signal=stop_signal, working_dir=cwd))


def program(*command: str) -> Workload:
    """An exec workload."""
    return Workload(exec=Exec(command=command))


def actor(target: str, **args: Any) -> Workload:
    """A Python workload."""
    return Workload(python=Python(target=target, args=args))


SLEEP = program("sleep", "1000")


PODS = untyped("v1", "pods")
ACCOUNTS = untyped("v1", "serviceaccounts")
CLUSTER_ROLES = untyped("rbac.authorization.k8s.io/v1", "clusterroles", namespaced=False)
CLUSTER_BINDINGS = untyped("rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False)
ROLES = untyped("rbac.authorization.k8s.io/v1", "roles")
BINDINGS = untyped("rbac.authorization.k8s.io/v1", "rolebindings")
# The rights that the chart's ClusterRole gives to members, as far as an agent needs them.
RULES = [
    {"apiGroups": ["processhub.dev"], "resources": ["registryslices"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["processhub.dev"], "resources": ["registryslices/status"], "verbs": ["update", "patch"]},
    {"apiGroups": ["processhub.dev"], "resources": ["children", "childsets"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "watch", "update", "patch"],
    },
]
# Rights for the whole cluster: to check the tokens of callers.
REVIEWS = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]


async def token_of(client: Client, namespace: str, account: str, **spec: Any) -> str:
    """Return a token of the account for the members' HTTP server; ``spec`` may name another audience."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "audiences": [AUDIENCE], **spec},
    }
    answer = await client.raw("POST", ACCOUNTS.path(namespace, account, "token"), body=body)
    token: str = json.loads(answer)["status"]["token"]
    return token


class Member:
    """The Lease, the slices and the agent processes of a member.

    The agents work with a token that is bound to the member's Pod object, as in a pod; no kubelet runs that Pod.
    """

    def __init__(self, client: Client, folder: Path, kubeconfig: str, namespace: str, **settings: Any) -> None:
        self.client, self.folder, self.admin_kubeconfig = client, folder, kubeconfig
        self.kubeconfig = str(folder / "member.kubeconfig")
        self.hub = f"h{secrets.token_hex(4)}"
        self.hub_uid = f"uid-{self.hub}"
        self.name = f"{self.hub}-0"
        self.settings = Settings(**settings)
        self.namespace = namespace
        self.agents: list[Agent] = []
        self.token = ""  # of the hub's account, for the members' HTTP server
        self.token_file = folder / "token"
        self.first: Member | None = None  # an existing member of this hub, if there is one
        self.peers: list[Member] = []
        self._uids: dict[str, str] = {}

    def _metadata(self, name: str) -> ObjectMeta:
        labels = {LABEL_HUB: self.hub, LABEL_HUB_UID: self.hub_uid, LABEL_MEMBER: self.name}
        return ObjectMeta(name=name, namespace=self.namespace, labels=labels)

    async def create(self, *, term: int = 1) -> None:
        """Create the objects that the operator creates for a new member."""
        await self._identity()
        lease = Lease(metadata=self._metadata(lease_name(self.hub, self.name)), spec=LeaseSpec())
        await self.client.create(LEASES, self.namespace, lease)
        await self.add_slice(0, term=term)

    async def peer(self, index: int = 1) -> Member:
        """Return another member of the same hub, with its Lease and slice 0; it is closed with this one."""
        folder = self.folder / f"member-{index}"
        folder.mkdir()
        other = Member(self.client, folder, self.admin_kubeconfig, self.namespace)
        other.hub, other.hub_uid, other.settings = self.hub, self.hub_uid, self.settings
        other.name, other.first = f"{self.hub}-{index}", self
        self.peers.append(other)
        await other.create()
        return other

    async def _identity(self) -> None:
        account = member_account(self.hub)
        names = {"name": account, "namespace": self.namespace}
        if self.first is None:
            await self._account(account, names)
        await self._tokens(account)

    async def _account(self, account: str, names: dict[str, str]) -> None:
        await self.client.create(ACCOUNTS, self.namespace, {"metadata": names})
        await self.client.create(ROLES, self.namespace, {"metadata": names, "rules": RULES})
        binding = {
            "metadata": names,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", **names}],
        }
        await self.client.create(BINDINGS, self.namespace, binding)
        reviews = {"metadata": {"name": self.hub}, "rules": REVIEWS}
        await self.client.create(CLUSTER_ROLES, None, reviews)
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self.hub}
        await self.client.create(
            CLUSTER_BINDINGS,
            None,
            {"metadata": {"name": self.hub}, "roleRef": role, "subjects": [{"kind": "ServiceAccount", **names}]},
        )

    async def _tokens(self, account: str) -> None:
        pod = {
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "serviceAccountName": account,
                "schedulerName": "none",
                "containers": [{"name": "agent", "image": "agent"}],
            },
        }
        stored = await self.client.create(PODS, self.namespace, pod)
        bound = {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": stored["metadata"]["uid"]}
        token = await token_of(self.client, self.namespace, account, audiences=[], boundObjectRef=bound)
        self.token = await token_of(self.client, self.namespace, account)
        self.token_file.write_text(self.token)
        config = yaml.safe_load(Path(self.admin_kubeconfig).read_text())  # noqa: ASYNC240 a small file
        config["users"] = [{"name": "member", "user": {"token": token}}]
        for context in config["contexts"]:
            context["context"]["user"] = "member"
        Path(self.kubeconfig).write_text(yaml.safe_dump(config))  # noqa: ASYNC240

    async def add_slice(self, index: int, *, term: int = 1, member: str = "", holder: str = "") -> None:
        """Create another slice, of this member or of another."""
        member = member or self.name
        spec = SliceSpec(
            hub=self.hub, hub_uid=self.hub_uid, member=member, term=term, settings=self.settings, holder=holder
        )
        name = slice_name(self.hub, member, index)
        await self.client.create(SLICES, self.namespace, RegistrySlice(metadata=self._metadata(name), spec=spec))

    async def slice(self, index: int = 0) -> RegistrySlice:
        """Return the slice as it is now."""
        return await self.client.get(SLICES, self.namespace, slice_name(self.hub, self.name, index))

    async def lease(self) -> Lease:
        """Return the Lease as it is now."""
        return await self.client.get(LEASES, self.namespace, lease_name(self.hub, self.name))

    async def update(self, change: Callable[[SliceSpec], SliceSpec], index: int = 0) -> RegistrySlice:
        """Change a slice's spec; repeat this on a conflict with the agent's status."""
        while True:
            item = await self.slice(index)
            try:
                return await self.client.replace(
                    SLICES,
                    self.namespace,
                    item.metadata.name,
                    msgspec.structs.replace(item, spec=change(item.spec)),
                )
            except ConflictError:
                continue

    async def write(
        self,
        children: dict[str, Workload | None],
        *,
        epoch: int = 1,
        index: int = 0,
        **fields: Any,
    ) -> RegistrySlice:
        """Return where the ids run once the record has exactly these, each once and Running in its recorded process."""

        def change(spec: SliceSpec) -> SliceSpec:
            workloads, entries = dict(spec.workloads), dict(spec.entries)
            for child, workload in children.items():
                entries.pop(child, None)
                if workload is not None:
                    digest, text = encode_workload(workload)
                    workloads[digest] = text
                    uid = self._uids.setdefault(child, f"u-{id_hash(child)}")
                    given = {"uid": uid, "epoch": epoch, "workload": digest, **fields}
                    entries[child] = format_assignment(Assignment(**given))
            return msgspec.structs.replace(spec, workloads=workloads, entries=entries)

        return await self.update(change, index)

    async def answer(self, item: RegistrySlice) -> None:
        """Write a slice's status as an agent of this member does."""
        async with await Client.connect(kubeconfig=self.kubeconfig) as client:
            await client.replace(SLICES, self.namespace, item.metadata.name, item, subresource="status")

    async def reports(self, index: int = 0) -> dict[str, Report]:
        """Return the parsed entries of a slice's status."""
        return {child: parse_report(text) for child, text in (await self.slice(index)).status.reports.items()}

    async def report(self, child: str, check: Callable[[Report], bool], seconds: float = 40) -> Report:
        """Return the child's report once it has these values."""
        last: Report | None = None

        async def look() -> Report | None:
            nonlocal last
            last = (await self.reports()).get(child)
            return last if last and check(last) else None

        try:
            return await until(look, seconds, f"report of {child}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}") from None

    async def running(self, child: str, seconds: float = 40, epoch: int = 0) -> int:
        """Return the child's pid once it is reported Running."""
        report = await self.report(
            child, lambda report: report.state == "Running" and (not epoch or report.epoch == epoch), seconds
        )
        return report.pid

    async def acknowledged(self, item: RegistrySlice, index: int = 0, seconds: float = 40) -> RegistrySlice:
        """Return the slice once its status has this generation."""

        async def look() -> RegistrySlice | None:
            now = await self.slice(index)
            return now if now.status.observed_generation >= item.metadata.generation else None

        return await until(look, seconds, "acknowledgement")

    async def through_a_cable(self) -> Cable:
        """Let agents that start from now on reach the API server through a proxy."""
        config = yaml.safe_load(Path(self.kubeconfig).read_text())  # noqa: ASYNC240 a small file
        cluster = config["clusters"][0]["cluster"]
        url = urlsplit(cluster["server"])
        cable = Cable(url.hostname or "", url.port or 443)
        await cable.mend()
        cluster["server"] = f"{url.scheme}://127.0.0.1:{cable.port}"
        Path(self.kubeconfig).write_text(yaml.safe_dump(config))  # noqa: ASYNC240
        return cable

    def start_agent(self, pod_uid: str = "pod-1", ip: str = "", **env: str) -> Agent:
        """Start an agent process."""
        if not ip:
            # Each agent of each test process has its own address 127.x.y.z.
            number = next(_addresses)
            ip = f"127.{80 + os.getpid() % 100}.{number // 250}.{number % 250 + 1}"
        agent = Agent(self, pod_uid, ip, env)
        self.agents.append(agent)
        return agent

    async def close(self) -> None:
        """End all agents and delete the pod."""
        for peer in self.peers:
            await peer.close()
        for agent in self.agents:
            agent.kill()
        with contextlib.suppress(Exception):
            # The other objects are deleted with the test's namespace, except those that have none.
            await self.client.delete(CLUSTER_BINDINGS, None, self.hub)
            await self.client.delete(CLUSTER_ROLES, None, self.hub)
            await self.client.delete(PODS, self.namespace, self.name, grace_period_seconds=0)


class Cable:
    """A TCP proxy between a member and the API server that can be cut and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = self._server
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        if server is None or not server.is_serving():  # cut in the meantime
            writer.transport.abort()
            far_writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


class Agent:
    """An agent process; its log is collected in a file."""

    def __init__(self, member: Member, pod_uid: str, ip: str, extra: dict[str, str]) -> None:
        self.member, self.ip = member, ip
        self.log_path = member.folder / f"agent-{len(member.agents)}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/root-of-test",
            "HUB_NAME": member.hub,
            "HUB_NAMESPACE": member.namespace,
            "HUB_UID": member.hub_uid,
            "HUB_MEMBER": member.name,
            "POD_NAME": member.name,
            "POD_UID": f"{pod_uid}-{member.hub}",
            "POD_IP": ip,
            "NODE_NAME": "node",
            "KUBECONFIG": member.kubeconfig,
            "HUB_TOKEN_FILE": str(member.token_file),
            "PYTHONPATH": str(Path(__file__).parent / "actors"),
            **extra,
        }
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*ENDS_WITH_US, sys.executable, "-m", "processhub.agent.main"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def watchdog_pid(self) -> int:
        """The watchdog is the agent's only child."""
        for entry in os.listdir("/proc"):  # noqa: PTH208 faster than Path
            if entry.isdecimal():
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                    if int(words[1]) == self.pid:
                        return int(entry)
        raise AssertionError("no watchdog")

    def log(self) -> str:
        """Return the log."""
        return self.log_path.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Return the log's JSON lines."""
        parsed = []
        for line in self.log().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                parsed.append(json.loads(line))
        return parsed

    def signal(self, signum: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill the agent with SIGKILL, even if it is stopped, and wait until it is reaped."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(20)

    async def exit_code(self, seconds: float = 40) -> int:
        """Return the exit code once the agent has ended."""
        await until(lambda: self.process.poll() is not None, seconds, f"agent's end; log:\n{self.log()[-3000:]}")
        code = self.process.returncode
        assert code is not None
        return code


@contextlib.asynccontextmanager
async def new_member(folder: Path, kubeconfig: str, namespace: str, **settings: Any) -> AsyncIterator[Member]:
    """A member with its Lease and slice 0."""
    async with await Client.connect(kubeconfig=kubeconfig) as client:
        member = Member(client, folder, kubeconfig, namespace, **settings)
        await member.create()
        try:
            yield member
        finally:
            await member.close()
