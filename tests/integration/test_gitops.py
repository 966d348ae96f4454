"""Manifests that are applied repeatedly, and the state that GitOps tools derive from objects of a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from itertools import groupby
from typing import Any

import pytest
import pytest_asyncio
import yaml
from clusterfolder import ROOT
from hookreceiver import Receiver, receiver
from livehub import SLEEP, Live, live
from waiting import eventually, until

from argohealth import health
from kstatus import kstatus
from localcluster.cluster import Cluster
from processhub.api.meta import API_VERSION
from processhub.cluster.client import Client
from processhub.cluster.kinds import untyped

KINDS = {kind: untyped(API_VERSION, plural) for kind, plural in
         {"Hub": "hubs", "Child": "children", "ChildSet": "childsets"}.items()}  # fmt: skip
PODS = untyped("v1", "pods")
Json = dict[str, Any]


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("gitops")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ears() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


class Followed:
    """Every version of one object, from a watch. Each ``until`` looks at the edits since the previous one."""

    def __init__(self, product: Live, kind: str, name: str) -> None:
        self._product, self._kind, self._name = product, kind, name
        self.versions: list[Json] = []
        self._seen = 0  # generations

    async def run(self, version: str) -> None:
        """Watch from this resourceVersion on until cancelled."""
        kind, namespace = KINDS[self._kind], self._product.namespace
        while True:
            async for events in self._product.api.watch(kind, namespace, version, fields=f"metadata.name={self._name}"):
                self.versions += [event.object for event in events if event.type in ("ADDED", "MODIFIED")]
                version = max([version, *(item["metadata"]["resourceVersion"] for item in self.versions)], key=int)

    async def until(self, *results: str) -> Json:
        """Wait until these, in order, are all results of the latest edits; return the object with the last one."""
        try:
            await until(lambda: self._results()[-1:] == [results[-1]], f"{self._name} {results[-1]}", within=60)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._results()}, {self.versions[-1:]}") from error
        assert self._results() == list(results), [item.get("status") for item in self.versions]
        self._seen = self.versions[-1]["metadata"]["generation"]
        return self.versions[-1]

    def _results(self) -> list[str]:
        edited = (item for item in self.versions if item["metadata"]["generation"] > self._seen)
        return [result for result, _ in groupby(map(kstatus, edited))]


@contextlib.asynccontextmanager
async def followed(product: Live, kind: str, name: str) -> AsyncIterator[Followed]:
    found = Followed(product, kind, name)
    _, version = await product.api.list(KINDS[kind], product.namespace)
    task = asyncio.create_task(found.run(version))
    try:
        yield found
    finally:
        task.cancel()


def manifest(kind: str, name: str, **spec: Any) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("page", ["docs/operations.md", "docs/how-to/gitops.md"])
async def test_the_manifests_of_kubernetes_own_kinds_in_a_page_are_valid(
    cluster: Cluster, namespace: str, page: str
) -> None:
    text = (ROOT / page).read_text()
    items = [
        item for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S) for item in yaml.safe_load_all(block)
    ]
    own = [
        item for item in items if "apiVersion" in item and not re.search("istio|fluxcd|processhub", item["apiVersion"])
    ]
    assert own
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": own})

    said = cluster.kubectl(
        "-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-", stdin=listed
    )

    assert len(said.split()) == len(own)


@pytest.mark.nightly
async def test_applying_an_example_again_changes_nothing(cluster: Cluster, namespace: str) -> None:
    folder = str(ROOT / "manifests" / "examples")
    flux = ("apply", "--server-side", "--field-manager=flux", "-f", folder)
    read = (
        "get",
        "hubs,children,childsets",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{'\\n'}",
    )

    def kubectl(*arguments: str) -> str:
        return cluster.kubectl("-n", namespace, *arguments)

    def twice() -> tuple[list[str], str, str]:
        kubectl("apply", "-f", folder)
        again = [line for line in kubectl("apply", "-f", folder).splitlines() if not line.endswith(" unchanged")]
        kubectl(*flux)
        once = kubectl(*read)
        kubectl(*flux)
        return again, once, kubectl(*read)

    again, once, then = await asyncio.to_thread(twice)

    assert again == []
    assert once == then


async def is_at_rest(product: Live, kind: str, name: str) -> bool:
    """Return whether GitOps tools take the object for done; its status follows the registry."""
    stored = await product.api.get(KINDS[kind], product.namespace, name)
    return (kstatus(stored), health(stored)[0]) == ("Current", "Healthy")


@pytest.mark.nightly
async def test_applying_the_manifests_in_a_loop_undoes_neither_a_move_nor_a_hook(product: Live, ears: Receiver) -> None:
    declared = ears.hook("declared", "ChildStarted")
    static = {"id": "static", "nodes": ["loop-0"], "exec": {**SLEEP, "env": [{"name": "A"}]}}
    hub_manifest = manifest(
        "Hub", "loop", members={"replicas": 2}, distribution={"strategy": "Guided"}, children=[static], hooks=[declared]
    )
    child = manifest("Child", "guided", hub="loop", nodes=["loop-0"], exec=SLEEP)
    said: list[str] = []

    async def apply() -> str:
        items = {"apiVersion": "v1", "kind": "List", "items": [child, hub_manifest]}
        return await product.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    async def loop() -> None:
        while True:
            said.extend((await apply()).splitlines())

    await apply()
    await product.ready("loop", 2)
    task = asyncio.create_task(loop())
    async with product.connect("loop") as hub:
        assert (await hub.wait_children(["guided", "static"], timeout=40)).ok
        await hub.register_hook_handlers([ears.hook("registered", "ChildStarted")])
        for child_id in ("guided", "static"):
            await hub.migrate_child(child_id, "loop-1", wait=True, timeout=40)
            await ears.once("ChildStarted", "registered", child=child_id)
        await hub.cancel_hook_handlers(["declared"])
        count = len(said)
        await until(lambda: len(said) > count + 4, "the loop goes on", within=60)
        assert {child_id: processes[0][0] for child_id, processes in hub.process_list().items()} == {
            "guided": "loop-1",
            "static": "loop-1",
        }
        assert {line.rpartition(" ")[2] for line in said} == {"unchanged"}
        for kind, name in (("Hub", "loop"), ("Child", "guided"), ("Child", "static")):
            await eventually(partial(is_at_rest, product, kind, name), f"{kind} {name} is Current and Healthy")

        child["spec"]["nodes"] = ["loop-1"]
        child["spec"]["tags"] = ["eu"]
        await until(lambda: hub.tag_query("eu"), "the edit is in effect")
        child["spec"]["nodes"] = ["loop-0"]
        await until(lambda: hub.process_list().get("guided", [("", 0)])[0][0] == "loop-0", "the edit wins")
    task.cancel()


async def test_objects_are_current_only_when_their_latest_edit_is_in_effect(product: Live) -> None:
    async with followed(product, "Hub", "told") as hub, followed(product, "Child", "told-a") as child:
        await product.child("told-a", "told")
        await product.hub("told", ready=False)
        await hub.until("InProgress", "Current")
        await child.until("InProgress", "Current")

        labels = {"metadata": {"labels": {"tier": "gold"}}}
        await product.kubectl(
            "patch", "hub", "told", "--type=merge", "-p", json.dumps({"spec": {"members": {"template": labels}}})
        )
        await hub.until("InProgress", "Current")
        pods, _ = await product.api.list(PODS, product.namespace, labels="processhub.dev/hub=told")
        assert {pod["metadata"]["labels"].get("tier") for pod in pods} == {"gold"}  # type: ignore[index]

        for item, patch, reason in (
            (hub, ("hub", "told", {"migration": {"strategy": "Nowhere"}}), "UnknownStrategy"),
            (child, ("child", "told-a", {"nodes": ["told-0"]}), "InvalidChildMapping"),
        ):
            kind, name, spec = patch
            await product.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))
            refused = await item.until("InProgress", "Failed")
            assert health(refused)[0] == "Degraded"
            assert reason in health(refused)[1]


@pytest.mark.parametrize("kind", ["Hub", "ChildSet"])
async def test_an_autoscaler_scales_by_the_scale_subresource(product: Live, kind: str) -> None:
    """It scales to its bounds and then reports that metrics are missing: the scale subresource has all it needs."""
    name = f"scaled-{kind.lower()}"
    await product.hub(name)
    if kind == "ChildSet":
        await product.apply("ChildSet", name, hub=name, replicas=2, template={"exec": SLEEP})
    target = {"apiVersion": API_VERSION, "kind": kind, "name": name}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
    }
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 5, "metrics": [metric]},
    }
    await product.kubectl("apply", "-f", "-", stdin=json.dumps(scaler))

    async def scaled() -> bool:
        status = (await product.api.get(KINDS[kind], product.namespace, name))["status"]
        return (status.get("readyReplicas") if kind == "Hub" else status.get("running")) == 3

    async def reason() -> str | None:
        found = json.loads(await product.kubectl("get", "hpa", name, "-o", "json"))
        conditions = {each["type"]: each["reason"] for each in found["status"].get("conditions", ())}
        return conditions.get("ScalingActive")

    await eventually(scaled, "it has the least number", within=90)
    assert await eventually(reason, "it has looked for metrics", within=60) == "FailedGetResourceMetric"
