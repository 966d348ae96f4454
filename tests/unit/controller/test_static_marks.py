"""The labels, the annotation and the owner of a static Child, which somebody takes off or edits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Json, Key
from onethread import Cluster, running_hub

from kstatus import kstatus
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_CHILD, LABEL_HUB, LABEL_HUB_UID, LABEL_NAME

CHILD, HUB = Key("children", "ns", "a"), Key("hubs", "ns", "hub")
SPEC = {"children": [{"id": "a", "exec": {"command": ["x"]}}]}


def marks(cluster: Cluster) -> Json:
    metadata = cluster.api.objects[CHILD]["metadata"]
    return {field: metadata.get(field) for field in ("labels", "annotations", "ownerReferences")}


@pytest.mark.parametrize(
    "edit",
    [
        lambda metadata: metadata["labels"].pop(LABEL_HUB_UID),
        lambda metadata: metadata["labels"].pop(LABEL_HUB),
        lambda metadata: metadata["labels"].pop(LABEL_CHILD),
        lambda metadata: metadata["labels"].update({LABEL_NAME: "mine"}),
        lambda metadata: metadata.pop("labels"),
        lambda metadata: metadata["annotations"].pop(ANNOTATION_CHILD_ID),
        lambda metadata: metadata.pop("ownerReferences"),
    ],
    ids=["uid", "hub", "child", "name", "labels", "annotation", "owner"],
)
def test_what_somebody_changes_of_the_marks_is_put_back_within_two_seconds(
    tmp_path: Path, edit: Callable[[Json], object]
) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, **SPEC) as cluster:
            await cluster.until(lambda: CHILD in cluster.api.objects and cluster.reported_running("a"), "it runs")
            await asyncio.sleep(30)
            before, log = marks(cluster), list(cluster.log)
            cluster.api.update(CHILD, lambda item: edit(item["metadata"]))
            assert marks(cluster) != before
            await cluster.until(lambda: marks(cluster) == before, "they are put back", within=2)

            writes = len(cluster.api.writes)
            await asyncio.sleep(20)
            assert not [key for _, _, key, _ in cluster.api.writes[writes:] if key == CHILD]
            assert cluster.log == log, "its process is left alone"

    virtualtime.run(main())


def test_a_mark_that_a_webhook_takes_off_again_is_not_written_with_each_round(tmp_path: Path) -> None:
    def mutation(key: Key, item: Json) -> None:
        if key.plural == "children":
            item["metadata"].get("labels", {}).pop(LABEL_NAME, None)

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            cluster.api.mutation = mutation
            cluster.api.update(HUB, lambda hub: hub["spec"].update(SPEC))
            await cluster.until(lambda: CHILD in cluster.api.objects and cluster.reported_running("a"), "it runs")
            writes = len(cluster.api.writes)
            for number in range(5):  # rounds of the hub
                body = {"metadata": {"name": f"b-{number}"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}}
                cluster.api.create("children", body)
                await asyncio.sleep(5)

            assert kstatus(cluster.api.objects[HUB]) == "Current"
            assert LABEL_NAME not in cluster.api.objects[CHILD]["metadata"]["labels"]
            assert not [key for _, method, key, _ in cluster.api.writes[writes:] if key == CHILD and method == "PATCH"]

    virtualtime.run(main())
