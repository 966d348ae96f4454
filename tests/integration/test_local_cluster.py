"""The local cluster starts once, recovers from an interrupted start, and stops only the processes that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import alive

from localcluster import cluster as local
from localcluster import controlplane, tools
from localcluster.cluster import Cluster
from localcluster.layout import CHECKOUT, ClusterError, Layout
from localcluster.processes import MARKER, end_all, marked, runs_kubelet

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "sleeper"},
    "spec": {"containers": [{"name": "main", "image": "none", "command": ["sleep", "1000"]}]},
}


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    """The folder of a second cluster, beside the session's."""
    place = Layout(tmp_path / "cluster")
    yield place
    local.down(place)


def until(look: Callable[[], object], what: str, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not look():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.05)


def pids(identity: str) -> set[int]:
    with marked(identity) as processes:
        return {process.pid for process in processes}


def read(pid: int, name: str) -> bytes:
    """Return a file of the process, or nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def kubelet_pid(cluster: Cluster) -> int:
    with marked(cluster.record.id) as processes:
        return next(process.pid for process in processes if runs_kubelet(process))


def test_only_processes_with_the_marker_in_their_environment_are_ended() -> None:
    # Nobody may read the environment of kernel threads and other users' processes: they must not be ended.
    ours = f"mine-{os.getpid()}"  # other runs of the tests on this machine have processes, too
    mine = subprocess.Popen(["sleep", "1000"], env={MARKER: ours})
    other = subprocess.Popen(["sleep", "1000"], env={MARKER: f"{ours}-too"})
    try:
        until(lambda: pids(ours), "the process has its environment")
        assert pids(ours) == {mine.pid}

        assert end_all(ours, grace=5) == 1

        assert mine.wait() == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


@pytest.mark.nightly
def test_up_is_idempotent_beside_another_cluster_and_down_ends_every_process(cluster: Cluster, layout: Layout) -> None:
    first = local.up(layout, nodes=1)
    kubelet, data = kubelet_pid(first), Path(first.record.data)

    again = local.up(layout, nodes=1)

    assert again.record == first.record
    assert kubelet_pid(again) == kubelet
    address = "jsonpath={.items[0].status.addresses[0].address}"
    assert first.kubectl("get", "nodes", "-o", address) != cluster.kubectl("get", "nodes", "-o", address)

    started = pids(first.record.id)
    assert local.down(layout)

    assert not any(alive(pid) for pid in started)
    assert not data.exists()
    assert not layout.kubeconfig.exists()
    assert not local.down(layout)
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.nightly
def test_up_after_an_interrupted_up_starts_a_new_cluster(layout: Layout) -> None:
    command = [sys.executable, "-m", "localcluster.cluster", "up", "--nodes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "testbed"), "LOCALCLUSTER_ROOT": str(layout.root)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    until(lambda: layout.record() and len(pids(layout.record().id)) >= 2, "the control plane is half up")  # type: ignore[union-attr]
    process.kill()
    process.wait()
    interrupted = layout.record()
    assert interrupted is not None

    cluster = local.up(layout, nodes=1)

    # Whether the unfinished control plane is kept or replaced, there is no second one.
    names = [read(pid, "comm").strip() for pid in pids(cluster.record.id)]
    assert names.count(b"etcd") == names.count(b"kube-apiserver") == 1
    assert interrupted.id == cluster.record.id or not pids(interrupted.id)


def test_a_control_plane_component_that_ends_is_reported_at_once_with_its_last_output(
    layout: Layout, tmp_path: Path
) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho 'the disk is full' >&2\nexit 3\n")
    broken.chmod(0o755)
    paths = tools.ensure([tool.name for tool in tools.CLUSTER_TOOLS])
    with layout.locked():
        record = layout.begin()

        with pytest.raises(ClusterError, match="etcd ended with exit code 3:\nthe disk is full"):
            controlplane.start(layout, record, {**paths, "etcd": broken})


@pytest.mark.nightly
def test_a_killed_kubelet_ends_its_containers_and_is_started_again(layout: Layout) -> None:
    cluster = local.up(layout, nodes=1)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(POD))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=30s")
    kubelet = kubelet_pid(cluster)
    before = pids(cluster.record.id)
    containers = [pid for pid in before if b"1000" in read(pid, "cmdline").split(b"\0")]
    assert len(containers) == 1

    os.kill(kubelet, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in (kubelet, *containers)), "the container ended too")
    local.up(layout, nodes=1)

    restarts = "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}"
    until(
        lambda: cluster.kubectl("get", "pod", "sleeper", "-o", f"jsonpath={restarts}") == "1 true",
        "the pod runs again",
    )
    assert kubelet_pid(cluster) != kubelet
