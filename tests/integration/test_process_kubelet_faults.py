"""Pods and nodes can be killed, paused and cut off, and recover."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from podworld import (
    NODES,
    PODS,
    SLEEP,
    Pods,
    condition,
    folder_of,
    is_ready,
    pod,
    restarts,
    shell,
    with_state,
)
from waiting import alive, eventually

from localcluster.cluster import Cluster
from localcluster.faults import FaultRefusedError, Faults
from localcluster.kubelet.proctree import state
from localcluster.kubelet.publish import STRATEGIC_MERGE_PATCH
from localcluster.layout import ClusterError
from processhub.cluster.client import Client


async def test_a_pause_stops_every_process_until_it_is_resumed(pods: Pods) -> None:
    await pods.running(pod("pauses", shell("while :; do date +%s%N > /state/beat; sleep 0.02; done"), **with_state()))
    beat = (await folder_of(pods, "pauses")) / "volumes" / "state" / "beat"

    async def beats() -> bool:
        return beat.exists() and beat.read_text() != ""

    await eventually(beats, "its first beat")  # a pod is Running before its program has done anything

    await pods.faults.pause_pod(pods.key("pauses"))
    stopped = [state(pid) for pid in await pods.pids("pauses")]
    before = beat.read_text()

    assert stopped[0] in "TD"
    # The shell may wait for a stopped vfork child, or may not have reaped one that has just ended.
    assert set(stopped) <= {"T", "D", "Z"}
    assert is_ready(await pods.get("pauses"))

    await pods.faults.resume_pod(pods.key("pauses"))

    async def look() -> bool:
        return beat.read_text() not in ("", before)

    await eventually(look, "it goes on")


ASKING = """
import os, ssl, time, urllib.request
trust = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/version"
with open("/state/log", "w", buffering=1) as log:
    while True:
        try:
            urllib.request.urlopen(url, timeout=2, context=trust).read()
            print("yes", file=log)
        except OSError:
            print("no", file=log)
        time.sleep(0.05)
"""


@pytest.mark.parametrize("mode", ["drop", "reset"])
async def test_a_cut_off_pod_keeps_running_without_the_api_server(pods: Pods, mode: Any) -> None:
    await pods.running(pod("cut", [sys.executable, "-c", ASKING], **with_state()))
    log = (await folder_of(pods, "cut")) / "volumes" / "state" / "log"

    async def says(word: str) -> bool:
        lines = log.read_text().splitlines() if log.exists() else []
        return bool(lines) and lines[-1] == word

    await eventually(lambda: says("yes"), "it reaches the API server")
    await pods.faults.cut_pod(pods.key("cut"), mode)
    await eventually(lambda: says("no"), "it reaches it no more")
    assert is_ready(await pods.get("cut"))

    await pods.faults.heal_pod(pods.key("cut"))
    await eventually(lambda: says("yes"), "it reaches it again")


@pytest.mark.nightly
async def test_a_killed_node_is_lost_and_its_pods_start_again_when_it_returns(pods: Pods, api: Client) -> None:
    body = await pods.running(pod("on-node", SLEEP, spec={"tolerations": [{"operator": "Exists"}]}))
    node, pids = body["spec"]["nodeName"], await pods.pids("on-node")

    await pods.faults.kill_node(node)
    try:
        assert not any(alive(pid) for pid in pids)
        assert is_ready(await pods.get("on-node"))

        async def lost() -> bool:
            return condition(await api.get(NODES, None, node), "Ready") == "Unknown"

        await eventually(lost, "the node is NotReady", within=40)
        await pods.until("on-node", lambda found: not is_ready(found), "is not Ready")
    finally:
        await pods.faults.heal_node(node)

    async def back() -> bool:
        return condition(await api.get(NODES, None, node), "Ready") == "True"

    await eventually(back, "the node is Ready")
    await pods.until("on-node", lambda found: is_ready(found) and restarts(found) == 1, "runs again")


async def test_readiness_that_the_node_controller_removed_is_restored(pods: Pods, api: Client) -> None:
    body = await pods.running(pod("told", SLEEP))
    conditions = [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]

    written = await api.patch(
        PODS,
        pods.namespace,
        "told",
        {"status": {"conditions": conditions}},
        content_type=STRATEGIC_MERGE_PATCH,
        subresource="status",
    )
    assert not is_ready(written)

    found = await pods.until("told", is_ready, "is Ready again")
    assert restarts(found) == restarts(body) == 0


async def test_a_pod_bound_while_its_node_was_off_runs_once(pods: Pods, tmp_path: Path) -> None:
    first = await pods.running(pod("first", SLEEP))
    node = first["spec"]["nodeName"]
    starts = tmp_path / "starts"
    late = pod("late", shell("echo started >> /shared/starts; exec sleep 1000"), **shared_folder(tmp_path))
    late["spec"]["nodeName"] = node

    await pods.faults.kill_node(node)
    try:
        await pods.create(late)
    finally:
        await pods.faults.heal_node(node)

    await pods.until("late", is_ready, "is Ready")
    await pods.until("first", lambda found: is_ready(found) and restarts(found) == 1, "runs again")

    async def started() -> bool:
        return starts.exists() and starts.read_text().endswith("\n")

    await eventually(started, "its shell has written")
    assert len(await pods.pids("late")) == 1
    assert starts.read_text() == "started\n"


def shared_folder(path: Path) -> dict[str, Any]:
    return {
        "spec": {"volumes": [{"name": "shared", "hostPath": {"path": str(path)}}]},
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }


async def test_a_cut_off_node_keeps_its_pods_running_and_sees_deletions_afterwards(pods: Pods, api: Client) -> None:
    stays = await pods.running(pod("stays", SLEEP))
    node = stays["spec"]["nodeName"]
    await pods.running(pod("goes", SLEEP, spec={"nodeName": node}))
    kept, doomed = await pods.pids("stays"), await pods.pids("goes")

    await pods.faults.cut_node(node)
    try:
        await api.delete(PODS, pods.namespace, "goes", grace_period_seconds=0)
        await pods.gone("goes")
        assert all(alive(pid) for pid in kept + doomed)
    finally:
        await pods.faults.heal_node(node)

    async def look() -> bool:
        return not any(alive(pid) for pid in doomed)

    await eventually(look, "the deleted pod's processes are gone")
    assert all(alive(pid) for pid in kept)


async def test_the_error_of_a_fault_names_the_missing_target(faults: Faults, cluster: Cluster) -> None:
    with pytest.raises(FaultRefusedError, match="pod default/nobody does not run on this kubelet"):
        await faults.kill_pod("default/nobody")
    with pytest.raises(FaultRefusedError, match="there is no node moon"):
        await faults.cut_node("moon")
    with pytest.raises(ClusterError, match="not found"):
        cluster.kubectl("get", "pod", "nobody")
