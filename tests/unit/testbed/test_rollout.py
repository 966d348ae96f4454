"""When an operator's pod counts as one that can't start, and the message about it."""

from __future__ import annotations

from typing import Any

import pytest

from localcluster.rollout import Problem, problem_of

Json = dict[str, Any]
NEVER_RAN = {
    "exitCode": 128,
    "reason": "StartError",
    "message": 'exec: "processhub-operator": executable file not found in $PATH',
    "startedAt": None,
}
CRASHED = {"exitCode": 1, "reason": "Error", "startedAt": "2026-01-01T00:00:00Z"}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1s restarting failed container=operator"}}


def pod(state: Json, restarts: int = 0, last: Json | None = None, **status: Any) -> Json:
    container = {"name": "operator", "state": state, "restartCount": restarts, "lastState": last or {}}
    return {"metadata": {"name": "op-1", "uid": "u1"}, "status": {"containerStatuses": [container], **status}}


def test_a_missing_program_is_final_at_once_with_the_kubelets_message() -> None:
    found = problem_of(pod({"terminated": NEVER_RAN}), {})

    said = f"container operator: StartError, exit code 128: {NEVER_RAN['message']}"
    assert found == Problem("pod/op-1", said, final=True)


def test_a_program_that_crashed_once_may_still_start() -> None:
    once = problem_of(pod({"terminated": CRASHED}), {})
    twice = problem_of(pod(BACK_OFF, restarts=1, last={"terminated": CRASHED}), {})

    assert once is not None
    assert not once.final
    assert twice == Problem("pod/op-1", "container operator: Error, exit code 1", final=True, container="operator")


def test_a_crash_before_the_wait_does_not_count() -> None:
    before = {("u1", "operator"): 7}

    assert problem_of(pod(BACK_OFF, restarts=7, last={"terminated": NEVER_RAN}), before) is None
    assert problem_of(pod({"terminated": NEVER_RAN}, restarts=7), before) is None
    assert problem_of(pod(BACK_OFF, restarts=8, last={"terminated": NEVER_RAN}), before) is not None


@pytest.mark.parametrize(
    "status",
    [
        {"state": {"waiting": {"reason": "ContainerCreating"}}},
        {"state": {"waiting": {"reason": "PodInitializing"}}},
        {"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "restarts": 3, "last": {"terminated": CRASHED}},
        {"state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": "2026-01-01T00:00:00Z"}}},
    ],
    ids=["creating", "initializing", "runs again", "completed"],
)
def test_a_pod_that_is_still_starting_is_no_problem(status: Json) -> None:
    assert problem_of(pod(**status), {}) is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}, 'secret "x" not found'),
        ({"reason": "ContainerCreating", "message": 'configmap "x" not found'}, 'configmap "x" not found'),
        ({"reason": "ErrImageNeverPull", "message": "image is not present"}, "image is not present"),
    ],
)
def test_a_problem_that_may_pass_is_reported_but_not_final(state: Json, said: str) -> None:
    found = problem_of(pod({"waiting": state}), {})

    assert found == Problem("pod/op-1", f"container operator: {state['reason']}: {said}")


def test_an_unschedulable_pod_is_reported_with_the_schedulers_message() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}

    found = problem_of({"metadata": {"name": "op-1", "uid": "u"}, "status": {"conditions": [unscheduled]}}, {})

    assert found == Problem("pod/op-1", "Unschedulable: 0/3 nodes")
