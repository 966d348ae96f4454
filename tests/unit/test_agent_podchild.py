"""What a member says of a Pod that is not Ready."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from processhub.agent.podchild import hindrance
from processhub.api.kubernetes import Pod

CRASHED = {"terminated": {"exitCode": 3, "reason": "Error"}}
NO_PROGRAM = {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file"}}


def waiting(reason: str, message: str = "", last: Any = None) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "main", "state": state, "lastState": last or {}}


def pod(*containers: dict[str, Any], **fields: Any) -> Pod:
    metadata = {"name": "p", **fields.pop("metadata", {})}
    return msgspec.convert({"metadata": metadata, "status": {"containerStatuses": containers, **fields}}, Pod)


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
            pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            *("Starting", "Restarting", "pod p is being deleted; a new one follows"),
        ),
    ],
    ids=["image", "config", "crash loop", "no program", "creating", "not ready", "no node", "deleted"],
)
def test_a_pod_that_is_not_ready_says_why(found: Pod, state: str, reason: str, message: str) -> None:
    assert hindrance(found) == (state, reason, message)
