"""A cluster with the operator installed through the chart, and one namespace of it for each test.

A test module uses the fixtures with ``pytest_plugins = ("operatorworld",)``. The cluster is not the one of
controlplane.py: one operator serves the whole cluster, and these tests kill that operator, stop the API server and cut
nodes off (operatorsite.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from leases import past_the_second_of_its_lease
from namespaces import create_namespace, remove_namespace
from operatorsite import Operators, Site
from ownclusters import make_room
from podworld import nodes_ready
from processwatch import ProcessWatch, Run
from settling import PATIENCE, settles
from waiting import alive, eventually

from localcluster import cluster as local
from localcluster import guard, install, rollout
from localcluster.faults import FaultRefusedError, Faults
from localcluster.kubelet.connection import read_kubeconfig
from localcluster.layout import Layout
from processhub.api.child import Child
from processhub.api.hub import Hub
from processhub.api.kubernetes import Pod
from processhub.api.meta import API_VERSION, Condition, find_condition
from processhub.api.slice import RegistrySlice
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import CHILDREN, HUBS, PODS, SLICES, untyped
from processhub.registry.grammar import parse_assignment, parse_report

Json = dict[str, Any]

EVENTS = untyped("v1", "events")
NODES = untyped("v1", "nodes", namespaced=False)
CONFIG_MAPS = untyped("v1", "configmaps")
SLEEP = ["sleep", "100000"]
SHORT = {"leaseSeconds": 6, "stopSeconds": 3, "startSeconds": 10}
REGIONS = {"node-0": "r1", "node-1": "r2", "node-2": "r1"}  # as the local cluster labels its nodes


@dataclass(frozen=True)
class Place:
    """A child's entry in a member's slice, with the member's report of that entry."""

    member: str
    uid: str
    epoch: int
    wait: bool
    state: str = ""
    pid: int = 0
    restarts: int = 0
    reason: str = ""


class World:
    """One namespace of the shared cluster; every method works in it."""

    def __init__(self, site: Site, namespace: str) -> None:
        self.site, self.cluster, self.api, self.faults = site, site.cluster, site.api, site.faults
        self.namespace = namespace
        self.watch = ProcessWatch(namespace)
        self.operators = Operators(site)
        self._undo = contextlib.AsyncExitStack()

    async def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 90) -> str:
        """Run kubectl in the namespace; raises ClusterError with its message."""
        return await asyncio.to_thread(
            self.cluster.kubectl, "-n", self.namespace, *arguments, stdin=stdin, timeout=timeout
        )

    # hubs

    async def hub(
        self,
        name: str = "hub",
        *,
        ready: bool = True,
        annotations: Mapping[str, str] | None = None,
        bare: bool = False,
        **spec: Any,
    ) -> Hub:
        """Create a Hub, with short timeouts unless ``bare``, and wait until its members are ready."""
        if not bare:
            spec["timeouts"] = SHORT | spec.get("timeouts", {})
        metadata = {"name": name, "annotations": dict(annotations or {})}
        hub = await self.api.create(
            HUBS,
            self.namespace,
            {"apiVersion": API_VERSION, "kind": "Hub", "metadata": metadata, "spec": spec},
        )
        return await self.hub_ready(name) if ready else hub

    async def get_hub(self, name: str = "hub") -> Hub:
        """Return the Hub."""
        return await self.api.get(HUBS, self.namespace, name)

    async def hub_ready(self, name: str = "hub", members: int | None = None) -> Hub:
        """Return the Hub once all its members (or this many) are ready."""

        async def check() -> Hub:
            hub = await self.get_hub(name)
            wanted = members if members is not None else hub.spec.members.replicas
            if hub.spec.members.mode == "PerNode" and members is None:
                wanted = len(REGIONS)
            states = {member.name: member.ready for member in hub.status.members}
            assert states, "no members yet"
            assert all(states.values()), states
            assert len(states) == wanted, states
            ready = find_condition(hub.status.conditions, "Ready")
            assert ready, "no condition Ready"
            assert ready.status == "True", ready
            return hub

        return await settles(check, within=90)

    async def edit_hub(
        self, name: str = "hub", annotations: Mapping[str, str | None] | None = None, **spec: Any
    ) -> Hub:
        """Merge-patch a Hub's spec."""
        patch: Json = {"spec": spec} if spec else {}
        if annotations is not None:
            patch["metadata"] = {"annotations": dict(annotations)}
        return await self.api.patch(HUBS, self.namespace, name, patch)

    async def hub_observed(self, name: str = "hub") -> None:
        """Wait until the operator has observed the Hub's current spec, before it can see what the test creates next."""

        async def check() -> None:
            hub = await self.get_hub(name)
            assert hub.status.observed_generation == hub.metadata.generation

        await settles(check)

    async def hub_condition(self, kind: str, status: str, reason: str = "", hub: str = "hub") -> Condition:
        """Return the Hub's condition once it has this status and reason."""

        async def check() -> Condition:
            return _is(await self.get_hub(hub), kind, status, reason)

        return await settles(check)

    # children

    async def child(self, name: str, hub: str = "hub", *, command: list[str] | None = None, **spec: Any) -> Child:
        """Create a Child; it sleeps unless a command or another workload is given."""
        if command is not None or not ({"python", "exec", "pod"} & spec.keys()):
            spec["exec"] = {"command": command or SLEEP}
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "Child",
            "metadata": {"name": name},
            "spec": {"hub": hub, **spec},
        }
        return await self.api.create(CHILDREN, self.namespace, manifest)

    async def children(self, names: Iterable[str], hub: str = "hub", at_once: int = 16, **spec: Any) -> list[str]:
        """Create many Children; return their names."""
        names = list(names)
        gate = asyncio.Semaphore(at_once)

        async def create(name: str) -> None:
            async with gate:
                await self.child(name, hub, **json.loads(json.dumps(spec)))

        await asyncio.gather(*(create(name) for name in names))
        return names

    async def get_child(self, name: str) -> Child:
        """Return the Child."""
        return await self.api.get(CHILDREN, self.namespace, name)

    async def edit_child(self, name: str, **spec: Any) -> Child:
        """Merge-patch a Child's spec."""
        return await self.api.patch(CHILDREN, self.namespace, name, {"spec": spec})

    async def delete_children(self, *names: str) -> None:
        """Delete Children."""
        await asyncio.gather(*(self.api.delete(CHILDREN, self.namespace, name) for name in names))

    async def gone(self, name: str) -> None:
        """Wait until there is no such Child object: garbage collection discovers new CRDs every 30 s."""

        async def check() -> None:
            with contextlib.suppress(NotFoundError):
                raise AssertionError(f"still there: {await self.get_child(name)}")

        await settles(check, within=120)

    async def condition(
        self, name: str, kind: str, status: str, reason: str = "", within: float = PATIENCE
    ) -> Condition:
        """Return the Child's condition once it has this status and reason for the current spec."""

        async def check() -> Condition:
            return _is(await self.get_child(name), kind, status, reason)

        return await settles(check, within)

    async def ready(self, *names: str, within: float = PATIENCE) -> dict[str, Child]:
        """Return the Children once each is Ready with a live process that is the only one of its id."""

        async def check(name: str) -> Child:
            child = await self.get_child(name)
            _is(child, "Ready", "True", "")
            assert len(child.status.nodes) == 1, child.status.nodes
            pid = child.status.nodes[0].pid
            assert alive(pid), f"{name}: status names pid {pid}, which is not there"
            return child

        found = await asyncio.gather(*(settles(lambda name=name: check(name), within) for name in names))  # type: ignore[misc]
        return dict(zip(names, found, strict=True))

    # the registry

    async def slices(self, hub: str = "hub") -> list[RegistrySlice]:
        """Return the hub's slices."""
        items, _ = await self.api.list(SLICES, self.namespace, labels=f"processhub.dev/hub={hub}")
        return [item for item in items if isinstance(item, RegistrySlice)]

    async def record(self, hub: str = "hub") -> dict[str, list[Place]]:
        """Return every entry of the hub's slices, by id."""
        record: dict[str, list[Place]] = {}
        for item in await self.slices(hub):
            for child_id, text in item.spec.entries.items():
                entry = parse_assignment(text)
                place = Place(item.spec.member, entry.uid, entry.epoch, entry.wait)
                if told := item.status.reports.get(child_id):
                    report = parse_report(told)
                    if (report.uid, report.epoch) == (entry.uid, entry.epoch):
                        place = Place(
                            *(place.member, place.uid, place.epoch, place.wait),
                            *(report.state, report.pid, report.restarts, report.reason),
                        )
                record.setdefault(child_id, []).append(place)
        return record

    async def running(self, ids: Iterable[str], hub: str = "hub", within: float = PATIENCE) -> dict[str, Place]:
        """Return where the ids run once the record has exactly these, each once and Running in its recorded process."""
        wanted = set(ids)

        async def check() -> dict[str, Place]:
            record = await self.record(hub)
            assert record.keys() == wanted, _difference(record.keys(), wanted)
            places = {}
            for child_id, entries in record.items():
                assert len(entries) == 1, (child_id, entries)
                assert entries[0].state == "Running", (child_id, entries)
                places[child_id] = entries[0]
            live = self.watch.live(hub)
            for child_id, place in places.items():
                assert [run.pid for run in live.get(child_id, [])] == [place.pid], (child_id, place, live.get(child_id))
            return places

        return await settles(check, within)

    async def no_process(self, child_id: str, hub: str = "hub", within: float = PATIENCE) -> None:
        """Wait until no process of the id runs."""

        async def check() -> None:
            assert child_id not in self.watch.live(hub)

        await settles(check, within)

    async def told(self, name: str, reason: str) -> list[str]:
        """Return the messages of the Events about an object once there are any: they are posted after the fact."""
        return await eventually(lambda: self.events(name, reason), f"an Event {reason} of {name}")

    async def events(self, name: str, reason: str) -> list[str]:
        """Return the messages of the Events about an object that were posted so far."""
        fields = f"involvedObject.name={name},reason={reason}"
        items, _ = await self.api.list(EVENTS, self.namespace, fields=fields)
        return [item["message"] for item in items if isinstance(item, dict)]

    # members

    def pod_key(self, member: str) -> str:
        """Return the faults' name for the member's pod (mode Replicas)."""
        return f"{self.namespace}/{member}"

    async def pod(self, name: str) -> Pod:
        """Return a member's pod."""
        return await self.api.get(PODS, self.namespace, name)

    async def kill_agent(self, member: str) -> None:
        """Kill the member's agent with SIGKILL, at a time at which the kubelet notices it."""
        await past_the_second_of_its_lease(self.api, self.namespace, member)
        await self.faults.kill_pod(self.pod_key(member))

    async def pause_agent(self, member: str) -> None:
        """Stop all processes of the member with SIGSTOP; undone at the end of the test."""
        key = self.pod_key(member)
        await self.faults.pause_pod(key)
        self._undone_by(lambda: self.faults.resume_pod(key))

    async def cut_node(self, node: str) -> None:
        """Drop the traffic between the node and the API server; undone at the end of the test."""
        await self.faults.cut_node(node)
        self._undone_by(lambda: self.faults.heal_node(node))

    async def kill_node(self, node: str) -> None:
        """Cut the node's power; undone at the end of the test."""
        await self.faults.kill_node(node)
        self._undone_by(lambda: self.faults.heal_node(node))

    async def member_without_operator(self) -> tuple[str, str]:
        """Return a member, and its node, which runs no operator pod."""
        operators = {pod.spec.node_name for pod in await self.operators.pods()}
        members = (await self.get_hub()).status.members
        return next((member.name, member.node) for member in members if member.node not in operators)

    async def scale_operators(self, replicas: int) -> None:
        """Scale the operator and wait until it has this many pods; there are two again at the end of the test."""
        await self.operators.scale(replicas)
        if replicas != 2:
            self._undone_by(lambda: self.operators.scale(2))

    async def cordon(self, node: str, on: bool = True) -> None:
        """Cordon the node; undone at the end of the test."""
        await self.api.patch(NODES, None, node, {"spec": {"unschedulable": on or None}})
        if on:
            self._undone_by(lambda: self.cordon(node, False))

    async def label_node(self, node: str, label: str, value: str | None) -> None:
        """Set or remove a label of the node; it is removed at the end of the test."""
        await self.api.patch(NODES, None, node, {"metadata": {"labels": {label: value}}})
        if value is not None:
            self._undone_by(lambda: self.label_node(node, label, None))

    @contextlib.contextmanager
    def stopped(self, pids: Iterable[int]) -> Iterator[None]:
        """Stop the process with SIGSTOP during the block."""
        held = [os.pidfd_open(pid) for pid in pids]
        try:
            for fd in held:
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
            yield
        finally:
            for fd in held:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGCONT)
                os.close(fd)

    def _undone_by(self, undo: Callable[[], Awaitable[None]]) -> None:
        """Call this at the end of the test, again while the API server is not available."""

        async def attempt() -> None:
            with contextlib.suppress(FaultRefusedError):  # the pod or its fault is gone
                await settles(undo)

        self._undo.push_async_callback(attempt)

    async def close(self) -> None:
        """Undo all faults: also the others if one can't be undone."""
        self.watch.stop()
        await self._undo.aclose()


def command_of(pid: int) -> list[str]:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def members_of(places: Mapping[str, Place]) -> Counter[str]:
    """Return how many children each member has."""
    return Counter(place.member for place in places.values())


def moved(before: Mapping[str, Place], after: Mapping[str, Place]) -> set[str]:
    """Return the ids that are on another member than before."""
    return {child_id for child_id, place in after.items() if before[child_id].member != place.member}


def untouched(before: Mapping[str, Place], after: Mapping[str, Place], ids: Iterable[str] | None = None) -> None:
    """Assert that the ids (all, unless given) are on the same member, in the same process and with the same epoch."""
    for child_id in before.keys() if ids is None else ids:
        old, new = before[child_id], after[child_id]
        assert (old.member, old.epoch, old.pid) == (new.member, new.epoch, new.pid), (child_id, old, new)


def never_two(watch: ProcessWatch) -> None:
    """Assert that no id ever had two processes at once."""
    assert watch.overlaps() == []


def started_once(runs: Mapping[str, list[Run]]) -> None:
    """Assert that each id has had exactly one process."""
    assert {child_id: len(found) for child_id, found in runs.items() if len(found) != 1} == {}


def _is(item: Hub | Child, kind: str, status: str, reason: str) -> Condition:
    condition = find_condition(item.status.conditions, kind)
    told = [f"{c.type}={c.status} {c.reason}: {c.message}" for c in item.status.conditions]
    assert condition is not None, f"{item.metadata.name}: no condition {kind} in {told}"
    assert condition.observed_generation == item.metadata.generation, f"{item.metadata.name}: not looked at yet: {told}"
    assert condition.status == status, f"{item.metadata.name}: {told}"
    assert reason in ("", condition.reason), f"{item.metadata.name}: {told}"
    return condition


def _difference(found: Iterable[str], wanted: Iterable[str]) -> str:
    found, wanted = set(found), set(wanted)
    return f"missing: {sorted(wanted - found)[:10]}, surplus: {sorted(found - wanted)[:10]}"


# fixtures


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The cluster with the operator; it is removed even if the session is killed.

    OPERATOR_CLUSTER names the root of a cluster to use and to keep, for work on a single test.
    """
    kept = os.environ.get("OPERATOR_CLUSTER")
    layout = Layout(Path(kept) if kept else tmp_path_factory.mktemp("operated"))
    layout.root.mkdir(parents=True, exist_ok=True)
    if not kept:
        await asyncio.to_thread(make_room, layout)
    watcher = None if kept else guard.start(layout)
    try:
        cluster = await asyncio.to_thread(local.up, layout, len(REGIONS))
        await asyncio.to_thread(install.install, cluster)
        async with Client(read_kubeconfig(cluster.kubeconfig).client_config()) as api:
            yield Site(cluster, api, Faults(layout.kubelet_root))
    finally:
        if watcher is not None:
            await asyncio.to_thread(local.down, layout)
            watcher.terminate()
            watcher.wait()


@contextlib.asynccontextmanager
async def new_world(site: Site) -> AsyncIterator[World]:
    """Yield a new namespace, with two operators ready; all faults are undone when the block ends."""
    namespace = f"test-{secrets.token_hex(4)}"
    await create_namespace(site.api, namespace)
    made = World(site, namespace)
    await nodes_ready(site.api)
    await made.operators.both_ready()
    made.watch.start()
    try:
        yield made
    finally:
        try:
            await made.close()
            complaints = await settles(made.operators.complaints)
        finally:
            await remove_namespace(site.api, namespace)
    assert complaints == []


@pytest_asyncio.fixture(loop_scope="session")
async def world(site: Site) -> AsyncIterator[World]:
    """A namespace for one test."""
    async with new_world(site) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(site: Site) -> AsyncIterator[World]:
    """A second namespace for the test."""
    async with new_world(site) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the hub, its children and the operators' logs to the report of a failed test."""
    report = yield
    made = getattr(item, "funcargs", {}).get("world")
    if made is not None and report.when == "call" and report.failed:
        for name, command in (
            ("objects", ["-n", made.namespace, "get", "hubs,children,rslice,leases,pods", "-o", "wide"]),
            ("operators", ["-n", rollout.NAMESPACE, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=60"]),
        ):
            with contextlib.suppress(Exception):
                report.sections.append((name, made.cluster.kubectl(*command)))
    return report
