"""The figure of the operator's start: from the start of the process to its first plan, and its memory."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench.lab import BenchError, Lab
from bench.measure import Value
from bench.processes import highest_rss
from bench.starts import specs
from localcluster.cluster import Cluster
from localcluster.ports import free_port
from localcluster.rollout import NAMESPACE

_DEPLOYMENT = "deployment/processhub-operator"
_LEASE = ("get", "lease", "processhub-operator", "-o", "jsonpath={.spec.holderIdentity}")
_PLANNED = re.compile(r"^processhub_plan_seconds_count ([\d.e+]+)$", re.M)
_LEAD_SECONDS = 60


async def start(lab: Lab, count: int) -> Sequence[Value]:
    """Start an operator process beside ``count`` running python children; the installed operators are scaled away."""
    cluster = await lab.cluster()
    async with lab.connected() as client, lab.namespace() as namespace:
        await lab.make_hub(client, namespace, "bench", members={"replicas": 3})
        async with lab.following(namespace, "bench") as (hub, _):
            result = await hub.start_children(specs(count, "python"), wait=True, timeout=900)
        if result.errors:
            raise BenchError(f"{len(result.errors)} of {count} children did not start")
        await lab.hub_ready(client, namespace, "bench")
        async with without_operator(cluster):
            seconds, mebibytes = await _first_plan(cluster, namespace)
    return [
        Value(name="process start to first plan", unit="s", samples=(seconds,), goal=5.0),
        Value(name="highest RSS by then", unit="MiB", samples=(mebibytes,), goal=200.0),
    ]


@asynccontextmanager
async def without_operator(cluster: Cluster) -> AsyncIterator[None]:
    """The installed operator is scaled away inside the block, and its Lease is free."""

    async def kubectl(*arguments: str) -> str:
        return await asyncio.to_thread(cluster.kubectl, "-n", NAMESPACE, *arguments)

    await kubectl("scale", _DEPLOYMENT, "--replicas=0")
    try:
        await _until(lambda: kubectl(*_LEASE), operator.not_, "the leader Lease is still held")
        yield
    finally:
        await kubectl("scale", _DEPLOYMENT, "--replicas=2")
        await _until(lambda: kubectl(*_LEASE), bool, "no operator leads again")


async def _until(ask: Callable[[], Awaitable[str]], good: Callable[[str], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _LEAD_SECONDS
    while not good(await ask()):
        if time.monotonic() > deadline:
            raise BenchError(f"{otherwise} after {_LEAD_SECONDS} s")
        await asyncio.sleep(0.2)


async def _first_plan(cluster: Cluster, namespace: str) -> tuple[float, float]:
    """Wait until the operator's own metrics count a plan; returns ``(seconds, MiB)``, with its peak memory then."""
    environment = {
        **cluster.environment(),
        "POD_NAME": "bench-operator",
        "POD_NAMESPACE": NAMESPACE,
        "WATCH_NAMESPACES": namespace,
        "POD_IP": "127.0.0.1",
        "PORT": str(port := free_port()),
        "LOG_LEVEL": "WARNING",
    }
    program = str(Path(sys.executable).parent / "processhub-operator")
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(program, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
                        counted = _PLANNED.search(await answer.text())
                    if counted and float(counted[1]) >= 1:
                        break
                if process.returncode is not None:
                    raise BenchError(f"the operator ended with code {process.returncode}")
                if time.perf_counter() - begun > 120:
                    raise BenchError("no plan within 120 s")
                await asyncio.sleep(0.01)
        took = time.perf_counter() - begun
        return took, highest_rss(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
