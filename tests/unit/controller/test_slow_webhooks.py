"""A webhook that does not answer: the API server holds each write that it has a say in, for up to 30 s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import virtualtime
from memoryapi import Json, Key, MemoryApi
from onethread import Cluster, running_hub

from kstatus import kstatus

HUB = Key("hubs", "ns", "hub")
HELD_SECONDS = 10.0


def delete_services(api: MemoryApi) -> None:
    for name in ("hub", "hub-members"):
        api.delete("services", name)


def delete_budget(api: MemoryApi) -> None:
    api.delete("poddisruptionbudgets", "hub")


def edit_template(api: MemoryApi) -> None:
    api.update(HUB, lambda hub: hub["spec"]["members"].update(template={"spec": {"nodeSelector": {"a": "b"}}}))


def scale(api: MemoryApi) -> None:
    api.update(Key("statefulsets", "ns", "hub"), lambda item: item["spec"].update(replicas=4))


def take_labels(api: MemoryApi) -> None:
    for ordinal in range(3):
        pod = Key("pods", "ns", f"hub-{ordinal}")
        api.update(pod, lambda item: item["metadata"]["labels"].pop("processhub.dev/member"))


def is_there(*keys: Key) -> Callable[[MemoryApi], bool]:
    return lambda api: all(key in api.objects for key in keys)


def has_template(api: MemoryApi) -> bool:
    return bool(api.get("statefulsets", "hub")["spec"]["template"]["spec"]["nodeSelector"].get("a"))


def has_size(api: MemoryApi) -> bool:
    return bool(api.get("statefulsets", "hub")["spec"]["replicas"] == 3)


def has_labels(api: MemoryApi) -> bool:
    pods = [item["metadata"] for key, item in api.objects.items() if key.plural == "pods"]
    return all(pod["labels"].get("processhub.dev/member") == pod["name"] for pod in pods)


SERVICES = Key("services", "ns", "hub"), Key("services", "ns", "hub-members")
CHANGES = {
    "services": (delete_services, is_there(*SERVICES)),
    "budget": (delete_budget, is_there(Key("poddisruptionbudgets", "ns", "hub"))),
    "template": (edit_template, has_template),
    "size": (scale, has_size),
    "labels": (take_labels, has_labels),
}


@pytest.mark.parametrize(("change", "is_done"), CHANGES.values(), ids=CHANGES)
def test_a_webhook_that_does_not_answer_holds_up_no_child_of_the_hub(
    tmp_path: Path, change: Callable[[MemoryApi], None], is_done: Callable[[MemoryApi], bool]
) -> None:
    held = {"services", "poddisruptionbudgets", "statefulsets", "pods"}

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:
            cluster.api.webhook_seconds = lambda key: HELD_SECONDS if key.plural in held else 0.0
            change(cluster.api)
            for number in range(6):
                await asyncio.sleep(1)
                child: Json = {"metadata": {"name": f"c-{number}"}, "spec": {"hub": "hub", "exec": {"command": ["x"]}}}
                cluster.api.create("children", child)
                await cluster.until(lambda name=f"c-{number}": bool(cluster.runs_on()[name]), "it runs", within=2.5)
            assert not is_done(cluster.api)
            assert kstatus(cluster.api.objects[HUB]) == "InProgress"
            await cluster.until(lambda: is_done(cluster.api), "it is done when the webhook has answered")

    virtualtime.run(main())


def test_members_wait_for_the_answers_about_what_their_pods_need(tmp_path: Path) -> None:
    made: list[str] = []

    async def main() -> None:
        cluster = Cluster(tmp_path)
        cluster.api.webhook_seconds = lambda key: HELD_SECONDS if key.plural == "serviceaccounts" else 0.0
        cluster.api.listeners.append(lambda key, before, after: made.append(key.plural) if before is None else None)
        cluster.begin({"members": {"replicas": 3}})
        cluster.start_replica("operator-0")
        await cluster.until(lambda: "statefulsets" in made, "the members are made")
        assert made.index("serviceaccounts") < made.index("statefulsets")
        await cluster.until(lambda: kstatus(cluster.api.objects[HUB]) == "Current", "the Hub is Current")
        await cluster.end()

    virtualtime.run(main())


def test_a_hub_is_not_current_when_an_earlier_edit_is_answered(tmp_path: Path) -> None:
    early: list[int] = []
    workload = Key("statefulsets", "ns", "hub")

    def resize(replicas: int) -> Callable[[Json], None]:
        return lambda hub: hub["spec"]["members"].update(replicas=replicas)

    async def main() -> None:
        async with running_hub(tmp_path) as cluster:

            def look(key: Key, before: Json | None, after: Json | None) -> None:
                if key == HUB and after is not None and kstatus(after) == "Current":
                    early.append(cluster.api.objects[workload]["spec"]["replicas"])

            cluster.api.listeners.append(look)
            cluster.api.webhook_seconds = lambda key: HELD_SECONDS if key == workload else 0.0
            cluster.api.update(HUB, resize(4))
            await asyncio.sleep(1)
            cluster.api.update(HUB, resize(3))
            await cluster.until(lambda: cluster.api.objects[workload]["spec"]["replicas"] == 4, "the first is stored")
            await cluster.until(lambda: bool(early), "the Hub is Current")
            assert set(early) == {3}

    virtualtime.run(main())
