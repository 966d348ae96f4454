"""Containers end, restart and are deleted as on a real node, and no process outlives its pod."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from podworld import (
    EVENTS,
    PODS,
    Pods,
    first_line,
    folder_of,
    is_ready,
    main_status,
    pod,
    process_tree,
    restarts,
    shell,
    with_state,
)
from waiting import alive, eventually

from processhub.cluster.client import Client


@pytest.mark.parametrize(("policy", "code", "phase"), [("Never", 0, "Succeeded"), ("Never", 4, "Failed")])
async def test_the_phase_shows_how_a_pod_ended(pods: Pods, policy: str, code: int, phase: str) -> None:
    await pods.create(pod("ends", shell(f"exit {code}"), spec={"restartPolicy": policy}))

    body = await pods.until("ends", lambda body: body.get("status", {}).get("phase") == phase, phase)

    assert main_status(body)["state"]["terminated"]["exitCode"] == code
    assert not is_ready(body)


async def test_a_deletion_sends_sigterm_and_leaves_no_process(pods: Pods, api: Client) -> None:
    pids = await process_tree(pods, "tree", "polite", terminationGracePeriodSeconds=120)

    await api.delete(PODS, pods.namespace, "tree")
    await pods.gone("tree")

    assert not any(alive(pid) for pid in pids)


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(pods: Pods, api: Client) -> None:
    pids = await process_tree(pods, "deaf", "deaf", terminationGracePeriodSeconds=2)
    begun = time.monotonic()

    await api.delete(PODS, pods.namespace, "deaf")
    await pods.gone("deaf")

    assert 1.9 < time.monotonic() - begun < 20  # the default is 30 s
    assert not any(alive(pid) for pid in pids)


async def test_orphans_end_with_the_main_process(pods: Pods) -> None:
    pids = await process_tree(pods, "orphans", "polite")

    killed = await pods.faults.kill_pod(pods.key("orphans"))
    await pods.until("orphans", lambda body: restarts(body) == 1 and is_ready(body), "runs again")

    assert killed == pids[:1]
    assert not any(alive(pid) for pid in pids)
    ended = main_status(await pods.get("orphans"))["lastState"]["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (137, 9)


async def test_a_killed_shim_leaves_no_process(pods: Pods) -> None:
    pids = await process_tree(pods, "shimless", "deaf")
    shim = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])  # noqa: ASYNC240

    os.kill(shim, signal.SIGKILL)
    await pods.until("shimless", lambda body: restarts(body) == 1 and is_ready(body), "runs again")

    assert not any(alive(pid) for pid in pids)


async def test_a_forced_deletion_ends_the_processes_too(pods: Pods, api: Client) -> None:
    pids = await process_tree(pods, "forced", "deaf", terminationGracePeriodSeconds=1)

    await api.delete(PODS, pods.namespace, "forced", grace_period_seconds=0)
    await pods.gone("forced")

    async def look() -> bool:
        return not any(alive(pid) for pid in pids)

    await eventually(look, "no process is left")


async def test_the_pre_stop_hook_runs_before_sigterm(pods: Pods, api: Client) -> None:
    script = "trap 'cat /state/log > /state/seen; exit 0' TERM; touch /state/main; while :; do sleep 0.1; done"
    hook = {"preStop": {"exec": {"command": shell("echo hook > /state/log")}}}
    holder = {
        "name": "holder",
        "image": "none",
        "command": shell("trap '' TERM; touch /state/holder; sleep 1000"),
    }
    mounts = [{"name": "state", "mountPath": "/state"}]
    body = pod(
        "hooked",
        shell(script),
        # The holder keeps the volume for this long.
        spec={"volumes": [{"name": "state", "emptyDir": {}}], "terminationGracePeriodSeconds": 40},
        volumeMounts=mounts,
        lifecycle=hook,
    )
    body["spec"]["containers"].append({**holder, "volumeMounts": mounts})
    await pods.running(body)
    state = (await folder_of(pods, "hooked")) / "volumes" / "state"
    seen = state / "seen"

    async def traps() -> bool:
        return (state / "main").exists() and (state / "holder").exists()

    await eventually(traps, "both have set their traps")
    await api.delete(PODS, pods.namespace, "hooked")

    async def look() -> bool:
        return seen.exists() and seen.read_text() == "hook\n"

    await eventually(look, "the hook's work seen by the TERM handler", within=35)


async def test_a_container_restarts_on_exit_with_its_code_and_times_in_the_status(pods: Pods) -> None:
    script = "test -e /state/again && exec sleep 1000; touch /state/again; sleep 1; exit 7"
    mounts = [{"name": "state", "mountPath": "/state"}]
    spec = {"volumes": [{"name": "state", "emptyDir": {}}]}

    await pods.create(pod("restarts", shell(script), spec=spec, volumeMounts=mounts))
    body = await pods.until("restarts", lambda body: restarts(body) == 1 and is_ready(body), "runs again")
    ended = main_status(body)["lastState"]["terminated"]

    assert (ended["exitCode"], ended["reason"]) == (7, "Error")
    assert ended["startedAt"] < ended["finishedAt"] <= main_status(body)["state"]["running"]["startedAt"]
    assert ended["containerID"] != main_status(body)["containerID"]


async def test_a_crash_loop_backs_off_and_keeps_the_last_log(pods: Pods) -> None:
    await pods.create(pod("loops", shell("echo attempt; exit 3")))

    body = await pods.until(
        "loops",
        lambda body: main_status(body).get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "backs off",
    )

    assert main_status(body)["lastState"]["terminated"]["exitCode"] == 3
    assert await pods.logs("loops") == "attempt\n"


async def test_failures_are_reported_as_events(pods: Pods) -> None:
    await pods.create(pod("troubled", shell("exit 3")))

    async def look() -> bool:
        events = await pods.api.list(EVENTS, pods.namespace, fields="involvedObject.name=troubled,type=Warning")
        return any(isinstance(event, dict) and event["reason"] == "BackOff" for event in events[0])

    await eventually(look, "a BackOff event")


async def test_a_missing_command_is_a_start_error(pods: Pods) -> None:
    await pods.create(pod("typo", ["no-such-command"], spec={"restartPolicy": "Never"}))

    body = await pods.until("typo", lambda body: body.get("status", {}).get("phase") == "Failed", "failed")

    ended = main_status(body)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert "no-such-command" in ended["message"]


async def test_a_followed_log_ends_with_its_container(pods: Pods) -> None:
    script = "echo one; until test -e /state/go; do sleep 0.05; done; echo two"
    body = pod("finishes", shell(script), **with_state())
    body["spec"]["restartPolicy"] = "Never"
    await pods.running(body)
    followed = asyncio.create_task(pods.logs("finishes", "--follow"))
    await eventually(lambda: first_line(pods, "finishes"), "a line of log")

    ((await folder_of(pods, "finishes")) / "volumes" / "state" / "go").touch()

    assert await followed == "one\ntwo\n"


async def test_the_log_of_the_previous_container_is_kept(pods: Pods) -> None:
    script = "echo run >> /state/runs; wc -l < /state/runs; exec sleep 1000"
    await pods.running(pod("again", shell(script), **with_state()))
    assert await eventually(lambda: first_line(pods, "again"), "a line of log") == "1"

    await pods.faults.kill_pod(pods.key("again"))
    await pods.until("again", lambda body: restarts(body) == 1 and is_ready(body), "runs again")

    assert (await pods.logs("again", "--previous")).strip() == "1"
    assert await eventually(lambda: first_line(pods, "again"), "a line of log") == "2"


async def test_logs_can_be_followed_and_limited(pods: Pods) -> None:
    await pods.running(pod("talks", shell("for i in 1 2 3 4 5; do echo $i; done; exec sleep 1000")))

    async def look() -> bool:
        return (await pods.logs("talks")).endswith("5\n")

    await eventually(look, "five lines")
    assert await pods.logs("talks", "--tail=2") == "4\n5\n"
    assert await pods.logs("talks", "--limit-bytes=3") == "1\n2"
