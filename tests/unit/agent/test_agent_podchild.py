"""The report on a Pod that is not Ready, and on one whose copy becomes active."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from builders import make_client
from processhub.agent.children.child import Child
from processhub.agent.children.childhost import ChildNews
from processhub.agent.children.podchild import PodStarter, hindrance
from processhub.agent.children.report import report_text
from processhub.agent.children.runs import Limits, RunHandle
from processhub.agent.env import Environment
from processhub.agent.registry.slicewatcher import DesiredRun
from processhub.api.child import PodWorkload
from processhub.api.kubernetes import Pod
from processhub.api.meta import PartialObject
from processhub.api.naming import ANNOTATION_CHILD_ID, child_pod_name
from processhub.api.reasons import State
from processhub.cluster.decoding import WatchEvent
from processhub.registry.grammar import Assignment, parse_report

CRASHED = {"terminated": {"exitCode": 3, "reason": "Error"}}
NO_PROGRAM = {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file"}}


def waiting(reason: str, message: str = "", last: Any = None) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "main", "state": state, "lastState": last or {}}


def pod(*containers: dict[str, Any], **fields: Any) -> Pod:
    metadata, spec = {"name": "p", **fields.pop("metadata", {})}, fields.pop("spec", {})
    status = {"containerStatuses": containers, **fields}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Pod)


@pytest.mark.parametrize(
    ("found", "state", "reason", "message"),
    [
        (
            pod(waiting("ImagePullBackOff", "back-off pulling image x")),
            *("Failed", "BackOff", "pod p, container main: ImagePullBackOff: back-off pulling image x"),
        ),
        (
            pod(waiting("CreateContainerConfigError", "secret x not found")),
            *("Failed", "BackOff", "pod p, container main: CreateContainerConfigError: secret x not found"),
        ),
        (
            pod(waiting("CrashLoopBackOff", "", CRASHED)),
            *("Failed", "Exited", "container main: exit code 3; pod p, container main: CrashLoopBackOff"),
        ),
        (
            pod(waiting("CrashLoopBackOff", "", NO_PROGRAM)),
            *("Failed", "CommandNotFound"),
            "container main: exit code 128 (StartError); pod p, container main: CrashLoopBackOff",
        ),
        (pod(waiting("ContainerCreating")), "Starting", "Starting", "pod p is not Ready yet"),
        (
            pod({"name": "main", "state": {"running": {}}, "lastState": CRASHED}),
            *("Starting", "Starting", "pod p is not Ready yet; before: container main: exit code 3"),
        ),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]),
            *("Starting", "Pending", "pod p has no node yet: 0/3 nodes are available"),
        ),
        (
            pod(
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
                spec={"schedulingGates": [{"name": "processhub.dev/sole"}]},
            ),
            *("Starting", "Starting", "pod p is not Ready yet"),
        ),
        (
            pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            *("Starting", "Restarting", "pod p is being deleted; a new one follows"),
        ),
    ],
    ids=["image", "config", "crash loop", "no program", "creating", "not ready", "no node", "gated", "deleted"],
)
def test_a_pod_that_is_not_ready_has_a_reason(found: Pod, state: str, reason: str, message: str) -> None:
    assert hindrance(found) == (state, reason, message)


ENV = Environment("shop", "ns", "hub-uid", "shop-1", "shop-1", "pod-uid", "10.0.0.1", "node-1")
WORKLOAD = PodWorkload(template={"spec": {"containers": [{"name": "main"}]}})


class Alone:
    """The host of one child that runs in a Pod."""

    closing = False

    def __init__(self, starter: PodStarter) -> None:
        self.news: ChildNews[Child] = ChildNews()
        self.starter = starter

    def may_start(self, child: Child, *, again: bool) -> bool:
        return True

    def launch(self, child: Child, desired: DesiredRun) -> RunHandle:
        return self.starter.launch(child, desired)

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    changed = gone = _nothing


def copy(epoch: int, role: str, version: int) -> Pod:
    """The Pod that was started with epoch 5, and the role that it has been given."""
    marks = {"child-id": "a", "child-uid": "u1", "workload": "w", "run": "5", "epoch": str(epoch), "role": role}
    metadata = {
        "name": child_pod_name("shop", "hub-uid", "a", "shop-1"),
        "namespace": "ns",
        "uid": "p1",
        "resourceVersion": str(version),
        "annotations": {f"processhub.dev/{name}": value for name, value in marks.items()},
    }
    return pod(metadata=metadata, phase="Running", conditions=[{"type": "Ready", "status": "True"}])


def entry(epoch: int, role: str) -> DesiredRun:
    assignment = Assignment(uid="u1", workload="w", epoch=epoch, run=5, role=role, restart_policy="Temporary")
    return DesiredRun(assignment, WORKLOAD, "slice", 1, True)


async def running(role: str) -> tuple[PodStarter, Child]:
    """A pod child in this role whose Pod is Ready, and what follows its Pod."""
    starter = PodStarter(ENV, make_client(), lambda watch: watch.close())
    child = Child("a", Alone(starter), Limits(), asyncio.get_running_loop())
    starter._informer.synced.set()
    child.set_desired(entry(5, role))
    await asyncio.sleep(0)
    starter._informer._take(copy(5, role, 1))
    assert child.status.state == State.RUNNING
    return starter, child


@pytest.mark.parametrize("pod_first", [False, True])
async def test_a_copy_is_promoted_whichever_of_pod_and_entry_its_member_sees_first(pod_first: bool) -> None:
    starter, child = await running("Passive")

    def hears_of_the_pod() -> None:
        starter._informer._take(copy(10, "Active", 2))

    def hears_of_the_entry() -> None:
        child.set_desired(entry(10, "Active"))

    news = [hears_of_the_pod, hears_of_the_entry]
    for hears in news if pod_first else reversed(news):
        hears()
        await asyncio.sleep(0.01)

    assert (child.status.state, child.history.restarts) == (State.RUNNING, 0)
    report = report_text(child, "slice")
    assert report is not None
    assert (parse_report(report).epoch, parse_report(report).role) == (10, "Active")


async def test_a_child_whose_slice_was_out_of_sight_for_a_moment_follows_its_pod_again() -> None:
    """The operator knows of no stop, so it does not delete the Pod that the stopping run waits for."""
    _, child = await running("Active")

    child.set_desired(None)
    await asyncio.sleep(0)
    assert child.status.state == State.STOPPING
    child.set_desired(entry(5, "Active"))
    await asyncio.sleep(0.01)

    assert (child.status.state, child.history.restarts) == (State.RUNNING, 0)


async def test_the_end_of_a_pod_is_seen_although_somebody_took_the_id_of_its_child_off() -> None:
    starter, child = await running("Active")

    edited = copy(5, "Active", 2)
    del edited.metadata.annotations[ANNOTATION_CHILD_ID]
    starter._informer._take(edited)
    gone = msgspec.structs.replace(edited.metadata, resource_version="3")
    starter._informer._event(WatchEvent("DELETED", PartialObject(metadata=gone)))

    report = report_text(child, "slice")
    assert report is not None
    assert parse_report(report).last_exit == "its pod was deleted"
