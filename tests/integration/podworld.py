"""Creates, waits for and inspects pods in tests of the process kubelet."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from settling import settles
from waiting import eventually

from localcluster.cluster import Cluster
from localcluster.faults import Faults
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import untyped

PODS, NODES = untyped("v1", "pods"), untyped("v1", "nodes", namespaced=False)
CONFIG_MAPS, SECRETS = untyped("v1", "configmaps"), untyped("v1", "secrets")
EVENTS = untyped("v1", "events")
SLEEP = ["sleep", "1000"]
Json = dict[str, Any]


def pod(name: str, command: list[str], *, spec: Json | None = None, **container: Any) -> Json:
    main = {"name": "main", "image": "none", "command": command} | container
    base = {"containers": [main], "terminationGracePeriodSeconds": 5}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": base | (spec or {})}


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


class Pods:
    """The pods in the namespace of a test."""

    def __init__(self, api: Client, cluster: Cluster, faults: Faults, namespace: str) -> None:
        self.api, self.cluster, self.faults, self.namespace = api, cluster, faults, namespace

    async def create(self, body: Json) -> Json:
        return await self.api.create(PODS, self.namespace, body)

    async def get(self, name: str) -> Json:
        return await self.api.get(PODS, self.namespace, name)

    async def until(self, name: str, check: Any, what: str, within: float = 40.0) -> Json:
        async def look() -> Json | None:
            found = await self.get(name)
            return found if check(found) else None

        return await eventually(look, f"{name} {what}", within)

    async def running(self, body: Json) -> Json:
        await self.create(body)
        return await self.until(body["metadata"]["name"], is_ready, "is Ready")

    async def gone(self, name: str, within: float = 40.0) -> None:
        async def look() -> bool:
            try:
                await self.get(name)
            except NotFoundError:
                return True
            return False

        await eventually(look, f"{name} is gone", within)

    async def logs(self, name: str, *options: str) -> str:
        return await asyncio.to_thread(self.cluster.kubectl, "-n", self.namespace, "logs", name, *options)

    async def pids(self, name: str) -> list[int]:
        return await self.faults.pids(f"{self.namespace}/{name}")

    def key(self, name: str) -> str:
        return f"{self.namespace}/{name}"


def condition(body: Json, kind: str) -> str:
    found = {entry["type"]: entry["status"] for entry in body.get("status", {}).get("conditions") or ()}
    return str(found.get(kind, "Unknown"))


def is_ready(body: Json) -> bool:
    return condition(body, "Ready") == "True"


def main_status(body: Json) -> Json:
    statuses = body.get("status", {}).get("containerStatuses") or [{}]
    return dict(statuses[0])


def restarts(body: Json) -> int:
    return int(main_status(body).get("restartCount", 0))


async def nodes_ready(api: Client) -> None:
    """Wait until Pods may go to each node, whatever the test before has done to one."""

    async def check() -> None:
        items, _ = await api.list(NODES)
        for item in items:
            assert isinstance(item, dict)
            name, spec, conditions = item["metadata"]["name"], item["spec"], item["status"]["conditions"]
            assert any(each["type"] == "Ready" and each["status"] == "True" for each in conditions), name
            assert not spec.get("taints"), (name, spec)

    await settles(check, within=90)


async def first_line(pods: Pods, name: str) -> str | None:
    text = await pods.logs(name)
    return text.splitlines()[0] if text.endswith("\n") else None


async def folder_of(pods: Pods, name: str) -> Path:
    for entry in await pods.faults.pods():
        if entry["pod"] == pods.key(name):
            return Path(entry["folder"])
    raise AssertionError(f"{name} does not run")


def with_state() -> Json:
    return {
        "spec": {"volumes": [{"name": "state", "emptyDir": {}}]},
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }


def uid_of(body: Json) -> str:
    return str(body["metadata"]["uid"])


TREE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "deaf" else lambda *a: sys.exit(9))
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    time.sleep(1000)
print("up", flush=True)
time.sleep(1000)
"""


async def process_tree(pods: Pods, name: str, manner: str, **spec: Any) -> list[int]:
    """Start a pod whose main process has a child and a grandchild in sessions of their own; return their pids."""
    await pods.running(pod(name, [sys.executable, "-c", TREE, manner], spec=spec))

    async def look() -> list[int] | None:
        pids = await pods.pids(name)
        return pids if len(pids) == 3 else None

    return await eventually(look, "three processes")
