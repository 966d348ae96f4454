"""Objects that can't be decoded: what they run stays, under the next leader too, and their owners read why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import virtualtime
from memoryapi import Json, Key
from onethread import Cluster, running_hub

EXEC = {"exec": {"command": ["x"]}}
WHY = "this version of it can't be read: it is nested too deeply: write fewer lists and mappings within each other"
CHILD, SET = Key("children", "ns", "a"), Key("childsets", "ns", "web")


def nested(levels: int) -> Json:
    """A workload with so many mappings within each other. The API server takes 10,000, this one some 900."""
    args: Json = {}
    for _ in range(levels):
        args = {"a": args}
    return {"python": {"target": "m:C", "args": args}}


def in_hub(folder: Path, test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running_hub(folder) as cluster:
            await test(cluster)

    virtualtime.run(main())


def edit_workload(cluster: Cluster, key: Key, workload: Json) -> None:
    def edit(item: Json) -> None:
        spec = item["spec"] if key.plural == "children" else item["spec"]["template"]
        for kind in ("exec", "python"):
            spec.pop(kind, None)
        spec.update(workload)

    cluster.api.update(key, edit)


def said(cluster: Cluster, key: Key, kind: str) -> tuple[str, str]:
    """The status and the message of a condition."""
    conditions = cluster.api.objects[key].get("status", {}).get("conditions", ())
    found = next((condition for condition in conditions if condition["type"] == kind), {"status": "", "message": ""})
    return found["status"], found["message"]


def rejections(cluster: Cluster) -> list[tuple[str, str]]:
    """The objects that were rejected, with the message of each Event."""
    events = [item for key, item in cluster.api.objects.items() if key.plural == "events"]
    return [(it["involvedObject"]["name"], it["message"]) for it in events if it["reason"] == "Rejected"]


def starts(cluster: Cluster) -> int:
    return sum(begins for *_, begins in cluster.log)


@pytest.mark.parametrize("key", [CHILD, SET], ids=["Child", "ChildSet"])
def test_what_runs_stays_when_an_edit_of_its_object_cannot_be_read(tmp_path: Path, key: Key) -> None:
    ids = ["a"] if key == CHILD else ["web-0", "web-1"]

    async def test(cluster: Cluster) -> None:
        cluster.api.create("children", {"metadata": {"name": "other"}, "spec": {"hub": "hub", **EXEC}})
        if key == CHILD:
            cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **EXEC}})
        else:
            spec = {"hub": "hub", "replicas": 2, "template": EXEC}
            cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": spec})
        await cluster.until(lambda: all(cluster.runs_on()[child] for child in ids), "all run")
        await cluster.until(lambda: said(cluster, key, "Ready")[0] == "True", "that is reported")
        begun = starts(cluster)

        edit_workload(cluster, key, nested(600))
        await cluster.until(lambda: said(cluster, key, "Accepted") == ("False", WHY), "its owner reads why")
        assert cluster.api.objects[key]["status"]["observedGeneration"] == 2
        assert said(cluster, key, "Ready")[0] == "True"
        assert rejections(cluster) == [(key.name, f"Invalid: {WHY}")]

        await cluster.change_leader()
        await asyncio.sleep(120)
        assert all(cluster.runs_on()[child] for child in ids), "the next leader, which never read it, stops nothing"
        assert starts(cluster) == begun
        assert said(cluster, key, "Accepted") == ("False", WHY)
        version = cluster.api.objects[key]["metadata"]["resourceVersion"]
        await asyncio.sleep(300)
        assert cluster.api.objects[key]["metadata"]["resourceVersion"] == version, "nothing is written again and again"

        edit_workload(cluster, key, {"exec": {"command": ["y"]}})
        await cluster.until(lambda: said(cluster, key, "Accepted")[0] == "True", "it can be read again")
        await cluster.until(lambda: starts(cluster) == begun + len(ids), "the edit is carried out")
        edit_workload(cluster, key, nested(600))
        await cluster.until(lambda: said(cluster, key, "Accepted")[0] == "False", "it can't be read once more")
        cluster.api.delete(key.plural, key.name)
        await cluster.until(lambda: not any(cluster.runs_on()[child] for child in ids), "it is deleted")
        assert cluster.runs_on()["other"]

    in_hub(tmp_path, test)


def test_what_runs_by_the_spec_before_a_rejected_edit_stops_and_starts_with_its_hub(tmp_path: Path) -> None:
    ids = ("a", "b", "c", "web-0", "web-1")

    async def test(cluster: Cluster) -> None:
        def running() -> set[str]:
            runs = cluster.runs_on()
            return {child_id for child_id in ids if runs[child_id]}

        def suspend_hub(suspended: bool) -> None:
            cluster.api.update(Key("hubs", "ns", "hub"), lambda hub: hub["spec"].update(suspend=suspended))

        for name in ("a", "b", "c"):
            cluster.api.create("children", {"metadata": {"name": name}, "spec": {"hub": "hub", **EXEC}})
        spec = {"hub": "hub", "replicas": 2, "template": EXEC}
        cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": spec})
        await cluster.until(lambda: running() == set(ids), "all run")
        cluster.api.update(Key("children", "ns", "c"), lambda child: child["spec"].update(suspend=True))
        await cluster.until(lambda: running() == set(ids) - {"c"}, "one is suspended by its own spec")

        cluster.api.update(Key("children", "ns", "b"), lambda child: child["spec"].update(nodes=["hub-0"]))
        for key in (CHILD, Key("children", "ns", "c"), SET):
            edit_workload(cluster, key, nested(600))
        await cluster.until(lambda: len(rejections(cluster)) == 4, "all edits are rejected")
        await cluster.change_leader()
        suspend_hub(True)
        await cluster.until(lambda: not running(), "the hub is suspended")
        suspend_hub(False)

        await cluster.until(lambda: running() == set(ids) - {"c"}, "the others run again")

    in_hub(tmp_path, test)


def test_an_unreadable_object_whose_status_the_api_server_rejects_is_reported_by_an_event(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.create("children", {"metadata": {"name": "a"}, "spec": {"hub": "hub", **nested(600)}})

        await cluster.until(lambda: bool(rejections(cluster)), "an Event is posted")
        await asyncio.sleep(300)
        assert rejections(cluster) == [("a", f"Invalid: {WHY}")]

    in_hub(tmp_path, test)


def test_the_owner_of_a_hub_that_cannot_be_read_gets_an_event(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        metadata: dict[str, Any] = {"name": "deep", "annotations": {}}
        cluster.api.create("hubs", {"metadata": metadata, "spec": {"onDemand": nested(600)}})

        await cluster.until(lambda: bool(rejections(cluster)), "an Event is posted")
        await asyncio.sleep(300)
        assert rejections(cluster) == [("deep", f"Invalid: {WHY}")]

    in_hub(tmp_path, test)
