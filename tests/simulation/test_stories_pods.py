"""Pod children, each as the shortest run that shows a rule of theirs (docs/protocol.md, rule 23)."""

from __future__ import annotations

import asyncio

import pytest
from memoryapi import Json
from memoryrequests import Key

from processhub.api.reasons import Reason

from .childpods import PodRun
from .naming import pod_workload
from .stories import Story, hub, tell

pytestmark = pytest.mark.no_cover
CHILD = Key("children", "ns", "c0")
_LONG = 40  # seconds: the Lease of a member that is lost has run out for everybody


def ready(told: Story, kind: str = "Ready") -> Json:
    """A condition of the child c0."""
    conditions = told.world.server.objects[CHILD]["status"]["conditions"]
    found: Json = next(condition for condition in conditions if condition["type"] == kind)
    return found


def pod_of(told: Story) -> PodRun:
    """The process of c0, which is a Pod's."""
    run = told.run("c0")
    assert isinstance(run, PodRun)
    return run


@pytest.mark.parametrize("edit", ["none", "becomes a process"])
def test_a_child_whose_pod_is_on_a_lost_node_starts_nowhere_else(edit: str) -> None:
    async def story(told: Story) -> None:
        run = pod_of(told)
        told.pod(run.member).cut()
        told.world.child_pods.lose(run.pod.node, reboots=False)
        if edit != "none":
            told.world.edit(CHILD, {"spec": {"pod": None, "exec": {"command": ["v"]}}})

        await asyncio.sleep(_LONG)

        assert told.run("c0") is run
        assert ready(told)["status"] == "False"
        assert run.pod.key.name in ready(told, "Placed")["message"]

    tell(hub(migration={"onRestart": "Move"}), 1, story, pods=True)


@pytest.mark.parametrize("kind", [pod_workload("v"), {"pod": None, "exec": {"command": ["v"]}}], ids=["pod", "exec"])
def test_an_edited_child_starts_when_the_pod_of_the_former_template_is_gone(kind: Json) -> None:
    async def story(told: Story) -> None:
        run = pod_of(told)
        told.world.edit(CHILD, {"spec": kind})
        await told.until(lambda: run.ending)
        await told.until(lambda: (now := told.run("c0")) and now.command == ("v",))
        assert not run.runs

    tell(hub(), 1, story, pods=True)


def test_a_pod_for_which_a_quota_has_no_room_is_made_when_it_has() -> None:
    async def story(told: Story) -> None:
        told.world.child_pods.full = True
        told.world.server.end(pod_of(told).pod.key)
        await told.until(lambda: told.run("c0") is None)
        await told.until(lambda: "exceeded quota" in ready(told)["message"])
        assert ready(told)["reason"] == Reason.INVALID

        told.world.child_pods.full = False
        await told.until(lambda: told.run("c0"), seconds=15)

    tell(hub(), 1, story, pods=True)


def test_a_pod_without_its_image_is_reported_and_runs_once_it_is_there() -> None:
    async def story(told: Story) -> None:
        told.world.child_pods.no_images = True
        told.world.server.end(pod_of(told).pod.key)
        await told.until(lambda: ready(told)["reason"] == Reason.BACK_OFF)
        assert "ImagePullBackOff" in ready(told)["message"]

        told.world.child_pods.no_images = False
        await told.until(lambda: ready(told)["status"] == "True")

    tell(hub(), 1, story, pods=True)


LABELS = [f"processhub.dev/{name}" for name in ("hub", "hub-uid", "member", "child")]


def test_the_labels_of_a_pod_are_put_back_and_nothing_starts_beside_it() -> None:
    async def story(told: Story) -> None:
        run = pod_of(told)
        told.world.edit(run.pod.key, {"metadata": {"labels": dict.fromkeys(LABELS)}}, "admin")
        await told.until(lambda: told.world.server.objects[run.pod.key]["metadata"]["labels"].keys() >= set(LABELS))
        await asyncio.sleep(5)
        assert told.run("c0") is run

    tell(hub(), 1, story, pods=True)


def test_a_process_starts_only_when_the_pod_that_has_lost_its_labels_is_gone() -> None:
    async def story(told: Story) -> None:
        run = pod_of(told)
        told.world.edit(run.pod.key, {"metadata": {"labels": dict.fromkeys(LABELS)}}, "admin")
        told.world.edit(CHILD, {"spec": {"pod": None, "exec": {"command": ["v"]}}})
        await told.until(lambda: run.ending)
        await told.until(lambda: (now := told.run("c0")) and now.command == ("v",))
        assert not run.runs

    tell(hub(), 1, story, pods=True)


def test_the_next_leader_finds_a_pod_whose_labels_cannot_be_put_back() -> None:
    async def story(told: Story) -> None:
        run, refused = pod_of(told), told.world.network.weather.refused
        refused[run.pod.key.name] = 422
        told.world.edit(run.pod.key, {"metadata": {"labels": dict.fromkeys(LABELS)}}, "admin")
        await asyncio.sleep(1)
        told.world.edit(CHILD, {"spec": {"pod": None, "exec": {"command": ["v"]}}})
        await asyncio.sleep(1)
        for operator in told.world.operators:
            operator.process.kill()
        await asyncio.sleep(_LONG)
        assert told.run("c0") is run
        assert f"of pod {run.pod.key.name} can't be put back: Invalid" in ready(told)["message"]

        refused.clear()
        await told.until(lambda: (now := told.run("c0")) and now.command == ("v",))
        assert not run.runs

    tell(hub(), 1, story, pods=True)


@pytest.mark.parametrize("cut", [False, True])
def test_a_pod_is_followed_again_when_its_slice_has_its_label_back(cut: bool) -> None:
    async def story(told: Story) -> None:
        run = pod_of(told)
        (slice_,) = told.slices_of("c0")
        pod = told.pod(run.member)
        if cut:
            pod.cut()
        told.world.edit(slice_, {"metadata": {"labels": {"processhub.dev/hub": None}}}, "admin")
        await told.until(lambda: "processhub.dev/hub" in told.world.server.objects[slice_]["metadata"]["labels"])
        if cut:
            pod.mend()
        await asyncio.sleep(_LONG)

        assert told.run("c0") is run
        assert ready(told)["status"] == "True"

    tell(hub(), 1, story, pods=True)
