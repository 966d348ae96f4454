"""Figures of one ChildSet of many python children: the time until all run, CPU time by process, writes and memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from bench.lab import BenchError, Lab, api_writes
from bench.measure import Value
from bench.processes import cpu_seconds, memory
from localcluster.processes import marked
from processhub.api.meta import API_VERSION, ObjectMeta
from processhub.api.reasons import State
from processhub.api.slice import MAX_ENTRIES, RegistrySlice, SliceSpec, stored_bytes
from processhub.client.session import Session
from processhub.cluster.client import Client
from processhub.cluster.kinds import SLICES
from processhub.registry.grammar import Assignment, format_assignment

_PATIENCE_SECONDS = 600.0
_SETTLE_SECONDS = 3.0  # for what is still being written when all run
# What a command line contains, and the name of those processes in the figures; the first that fits counts.
_PARTS = (
    ("kube-apiserver", "API server"),
    ("etcd", "etcd"),
    ("processhub-operator", "operator"),
    ("processhub.agent.runner", "runners"),
    ("processhub-agent", "agents"),
)


async def give_birth(lab: Lab, count: int) -> Sequence[Value]:
    """Create one ChildSet of ``count`` python children by kubectl, and wait until a watching client sees all run."""
    cluster = await lab.cluster()
    async with lab.connected() as client, lab.namespace() as namespace:
        floor = await _bare_writes(client, namespace, count)
        await lab.make_hub(client, namespace, "bench")
        await asyncio.sleep(_SETTLE_SECONDS)
        members = await _members(lab, namespace)
        idle = [memory(pids) for pids in members]
        async with lab.following(namespace, "bench") as (_, session):
            record = cluster.layout.record()
            identity = record.id if record is not None else ""
            writes, cpu, mine = await api_writes(client), _cpu(identity), time.process_time()
            begun = time.perf_counter()
            creation = asyncio.to_thread(cluster.kubectl, "create", "-n", namespace, "-f", "-", stdin=_childset(count))
            await asyncio.gather(creation, _all_running(session, count))
            took = time.perf_counter() - begun
            mine = time.process_time() - mine
            used = {part: seconds - cpu[part] for part, seconds in _cpu(identity).items()}
            await asyncio.sleep(_SETTLE_SECONDS)
            written = await api_writes(client) - writes
            slices, _ = await client.list(SLICES, namespace)
        full = [memory(pids) for pids in await _members(lab, namespace)]
    ours = (item for item in slices if isinstance(item, RegistrySlice) and item.spec.hub == "bench")
    stored = [item for item in ours if item.spec.entries]
    told = sum(stored_bytes(item.status) for item in stored)
    whole = sum(used.values()) + mine
    return [
        Value(name="all Running", unit="s", samples=(took,), goal=1.0),
        Value(name="bare writing of as many slices", unit="s", samples=(floor,)),
        Value(name="all Running ÷ bare writing", unit="×", samples=(took / floor,), goal=3.0),
        *(Value(name=f"CPU: {part}", unit="s", samples=(used[part],)) for _, part in _PARTS),
        Value(name="CPU: client", unit="s", samples=(mine,)),
        Value(name="CPU in all", unit="s", samples=(whole,), goal=2.0 * count / 10_000),
        Value(name="CPU of the runners, an actor", unit="µs", samples=(used["runners"] / count * 1e6,), goal=50.0),
        Value(
            name="writes of slices and their statuses, a slice",
            unit="",
            samples=((written["registryslices"] + written["registryslices/status"]) / len(stored),),
            goal=3.0,
        ),
        Value(name="status bytes a child", unit="B", samples=(told / count,), goal=20.0),
        Value(name="memory of a member, idle", unit="MiB", samples=(median(idle),), goal=60.0),
        Value(name=f"memory of a member with {count // len(full):,}", unit="MiB", samples=(median(full),)),
    ]


def _childset(count: int) -> str:
    template = {"python": {"target": "processhub.examples:Counter"}}
    spec = {"hub": "bench", "replicas": count, "template": template}
    manifest = {"apiVersion": API_VERSION, "kind": "ChildSet", "metadata": {"name": "born"}, "spec": spec}
    return msgspec.json.encode(manifest).decode()


async def _all_running(session: Session, count: int) -> None:
    """Wait until the client's registry has ``count`` running children."""
    running: set[str] = set()
    done = asyncio.Event()

    def look(changed: set[str]) -> None:
        for child_id in changed:
            record = session.registry.records.get(child_id)
            if record is not None and record.nodes and record.nodes[0].state == State.RUNNING:
                running.add(child_id)
        if len(running) >= count:
            done.set()

    unlisten = session.registry.listen(look)
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await done.wait()
    except TimeoutError:
        raise BenchError(f"{len(running)} of {count} children run after {_PATIENCE_SECONDS:g} s") from None
    finally:
        unlisten()


async def _bare_writes(client: Client, namespace: str, count: int) -> float:
    """Seconds to create slices with as many entries, all at once, and to write each once more. Nobody acts on them.

    The second write stands for the acknowledgement, which the chart's admission policy permits to members only.
    """
    workloads = {"0" * 16: "{}"}

    async def write(number: int) -> None:
        text = format_assignment(Assignment(uid="0" * 36, epoch=10**9, workload="0" * 16))
        entries = {
            f"born-{index}": text for index in range(number * MAX_ENTRIES, min(count, (number + 1) * MAX_ENTRIES))
        }
        spec = SliceSpec(
            hub="nobody", hub_uid="0", member=f"nobody-{number}", term=1, workloads=workloads, entries=entries
        )
        item = RegistrySlice(metadata=ObjectMeta(name=f"bare-{number}", namespace=namespace), spec=spec)
        body = {"apiVersion": item.api_version, "kind": item.kind, "metadata": {"name": item.metadata.name}}
        stored = await client.create(SLICES, namespace, {**body, "spec": spec})
        meta = {"name": stored.metadata.name, "resourceVersion": stored.metadata.resource_version}
        again = msgspec.structs.replace(spec, attempt=1)
        await client.replace(SLICES, namespace, meta["name"], {**body, "metadata": meta, "spec": again})

    begun = time.perf_counter()
    await asyncio.gather(*(write(number) for number in range(-(-count // MAX_ENTRIES))))
    return time.perf_counter() - begun


async def _members(lab: Lab, namespace: str) -> list[list[int]]:
    """The pids of each member of the namespace's hub."""
    faults = await lab.faults()
    pods = [pod["pod"] for pod in await faults.pods() if pod["pod"].startswith(f"{namespace}/")]
    return [await faults.pids(pod) for pod in pods]


def _cpu(identity: str) -> dict[str, float]:
    """The CPU seconds that the parts of the cluster have used."""
    used = {name: 0.0 for _, name in _PARTS}
    with marked(identity) as processes:
        for process in processes:
            if process.pid != os.getpid() and (part := _part(process.pid)):
                used[part] += cpu_seconds(process.pid)
    return used


def _part(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return next((name for word, name in _PARTS if word in command), "")
