"""When a static Child is written: once for each entry of spec.children, also if a mutating webhook changes it."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Json, Key
from onethread import Cluster, running_hub

from kstatus import kstatus
from processhub.api.child import Child, ChildSpec, Python
from processhub.api.meta import ObjectMeta
from processhub.controller.store.children import AdmittedSpec, is_carried_out

CHILD, HUB = Key("children", "ns", "a"), Key("hubs", "ns", "hub")


def writes(cluster: Cluster) -> int:
    """How many times the spec or metadata of the Child was written, by the requests for it."""
    return sum(method in ("POST", "PATCH") and key == CHILD for _, method, key, _ in cluster.api.writes)


def test_an_edit_of_a_static_child_that_changes_only_the_kind_of_a_value_is_carried_out() -> None:
    def spec(flag: object) -> ChildSpec:
        return ChildSpec(hub="hub", python=Python(target="m:C", args={"flag": flag}))

    present = Child(metadata=ObjectMeta(name="a"), spec=spec(1))
    admitted = {"a": AdmittedSpec(spec(1), spec(1))}

    assert is_carried_out(present, spec(1), admitted)
    assert not is_carried_out(present, spec(True), admitted)


@pytest.mark.parametrize("same", [True, False], ids=["the same each time", "another text each time"])
def test_a_static_child_that_a_webhook_changes_is_written_once(tmp_path: Path, same: bool) -> None:
    numbers = count()

    def mutation(key: Key, item: Json) -> None:
        if key.plural == "children":
            item["spec"]["metadata"] = {"trace": "t" if same else str(next(numbers))}

    def entry(command: str) -> Json:
        return {"id": "a", "exec": {"command": [command]}}

    async def settled(cluster: Cluster) -> None:
        def is_current() -> bool:
            return kstatus(cluster.api.objects[HUB]) == "Current"

        await cluster.until(lambda: CHILD in cluster.api.objects and cluster.reported_running("a"), "it runs")
        await cluster.until(is_current, "the Hub is Current")
        before = writes(cluster)
        for number in range(5):  # rounds of the hub
            body = {"metadata": {"name": f"b-{number}"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}}
            cluster.api.create("children", body)
            await asyncio.sleep(5)
        assert writes(cluster) == before
        assert is_current()

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            cluster.api.mutation = mutation
            cluster.api.update(HUB, lambda hub: hub["spec"].update(children=[entry("x")]))
            await settled(cluster)
            for number in range(5):
                cluster.api.delete("children", f"b-{number}")

            cluster.api.update(HUB, lambda hub: hub["spec"].update(children=[entry("y")]))
            await cluster.until(lambda: cluster.api.objects[CHILD]["spec"]["exec"]["command"] == ["y"], "it is edited")
            await settled(cluster)

            cluster.api.update(CHILD, lambda child: child["spec"]["exec"].update(command=["by hand"]))
            await cluster.until(
                lambda: cluster.api.objects[CHILD]["spec"]["exec"]["command"] == ["y"], "it is put back"
            )

    virtualtime.run(main())
