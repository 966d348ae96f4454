"""Names of members that a hub does not have: nothing is refused, and the object that has the name says it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import virtualtime
from memoryapi import Json, Key
from onethread import Cluster, running_hub

from processhub.api.naming import ANNOTATION_DRAINED, ANNOTATION_PAUSED

HUB = Key("hubs", "ns", "hub")
EXEC = {"exec": {"command": ["x"]}}


def in_hub(folder: Path, test: Callable[[Cluster], Awaitable[None]], **spec: Any) -> None:
    async def main() -> None:
        async with running_hub(folder, **spec) as cluster:
            await test(cluster)

    virtualtime.run(main())


def accepted(cluster: Cluster, key: Key = HUB) -> tuple[str, str]:
    """The status and the message of the object's condition Accepted."""
    conditions = cluster.api.objects[key]["status"]["conditions"]
    return next((found["status"], found["message"]) for found in conditions if found["type"] == "Accepted")


def events(cluster: Cluster, reason: str) -> list[str]:
    items = [item for key, item in cluster.api.objects.items() if key.plural == "events"]
    return [item["message"] for item in items if item["reason"] == reason]


def test_weights_and_drains_of_members_that_are_not_there_are_named_on_the_hub(tmp_path: Path) -> None:
    weights = (
        "spec.members.weights names 'hub-3', and the hub has no such member now (it has hub-0, hub-1, hub-2);"
        " that has no effect until it joins"
    )
    drains = (
        "the annotation processhub.dev/drained names 'Hub-0', 'hub-03', 'hub-3' and 1 more, and the hub has no such"
        " members now (it has hub-0, hub-1, hub-2); that has no effect until they join"
    )

    async def test(cluster: Cluster) -> None:
        def edit(change: Callable[[Json], object]) -> None:
            cluster.api.update(HUB, lambda item: change(item) and None)

        await cluster.until(lambda: accepted(cluster) == ("True", weights), "it is named in weights")
        edit(lambda hub: hub["metadata"].update(annotations={ANNOTATION_DRAINED: "hub-3,hub-03,Hub-0,x=force"}))
        await cluster.until(lambda: accepted(cluster) == ("True", f"{weights}; {drains}"), "they are named as drained")
        assert events(cluster, "UnknownMember") == [weights, drains]

        edit(lambda hub: hub["metadata"].update(annotations={}))
        for replicas in (4, 3, 4):
            edit(lambda hub, count=replicas: hub["spec"]["members"].update(replicas=count))
            said = ("True", weights if replicas == 3 else "")
            await cluster.until(lambda said=said: accepted(cluster) == said, f"{replicas} members")  # type: ignore[misc]
            await asyncio.sleep(20)
        assert events(cluster, "UnknownMember") == [weights, drains], "it is announced once, however often it comes"

    in_hub(tmp_path, test, members={"replicas": 3, "weights": {"hub-0": 2, "hub-3": 2}})


def test_a_hub_on_each_node_names_the_nodes_that_it_does_not_know(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        labels = {"kubernetes.io/os": "linux"}
        cluster.api.update(Key("nodes", "", "node"), lambda node: node["metadata"].update(labels=labels))
        spec = {"members": {"mode": "PerNode", "weights": {"node": 2, "nodde": 0}}}
        cluster.api.create("hubs", {"metadata": {"name": "each"}, "spec": spec})
        each = HUB._replace(name="each")
        await cluster.until(lambda: "conditions" in cluster.api.objects[each].get("status", {}), "it is seen")

        status, message = accepted(cluster, each)
        assert status == "True"
        assert message == (
            "spec.members.weights names 'nodde', and the hub has no such member now (it has node);"
            " that has no effect until it joins"
        )

    in_hub(tmp_path, test)


def test_an_origin_that_is_no_member_is_named_where_the_child_is_placed(tmp_path: Path) -> None:
    why = "names 'hub-7', and the hub has no such member now: the hash decides"

    async def test(cluster: Cluster) -> None:
        for name, origin in (("here", "hub-1"), ("astray", "hub-7")):
            spec = {"hub": "hub", "origin": origin, **EXEC}
            cluster.api.create("children", {"metadata": {"name": name}, "spec": spec})
        of_set = {"hub": "hub", "replicas": 2, "template": {"origin": "hub-7", **EXEC}}
        cluster.api.create("childsets", {"metadata": {"name": "web"}, "spec": of_set})
        await cluster.until(lambda: cluster.reported_running("here", "astray"), "both run")
        placed = sorted(event.partition("; ")[2] for event in events(cluster, "Placed") if event.startswith("on "))
        assert placed == ["", f"spec.origin {why}"]

        web = Key("childsets", "ns", "web")
        await cluster.until(lambda: "conditions" in cluster.api.objects[web].get("status", {}), "the set is seen")
        assert accepted(cluster, web) == ("True", f"spec.template.origin {why}")

    in_hub(tmp_path, test, distribution={"strategy": "Local"})


def test_a_child_whose_hub_is_misspelt_names_the_one_that_was_meant(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.api.create(
            "hubs", {"metadata": {"name": "my-hub", "annotations": {ANNOTATION_PAUSED: "true"}}, "spec": {}}
        )
        for name, hub in (("near", "my-hubb"), ("far", "nowhere")):
            cluster.api.create("children", {"metadata": {"name": name}, "spec": {"hub": hub, **EXEC}})

        def said(name: str) -> str:
            status = cluster.api.get("children", name).get("status", {})
            return accepted(cluster, Key("children", "ns", name))[1] if "conditions" in status else ""

        await cluster.until(lambda: bool(said("near") and said("far")), "both are told")
        assert said("near") == "spec.hub: there is no hub 'my-hubb' in namespace 'ns'; did you mean 'my-hub'?"
        assert said("far") == "spec.hub: there is no hub 'nowhere' in namespace 'ns'"

    in_hub(tmp_path, test)
