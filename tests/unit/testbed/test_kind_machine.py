"""What the kind targets read from the machine: cgroups, capabilities, packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kind import cgroups, daemon, layout, packages
from kind.layout import KindError

CONTROLLERS = """\
#subsys_name	hierarchy	num_cgroups	enabled
cpu	1	1	1
cpuacct	2	1	1
net_cls	0	1	1
rdma	0	1	0
"""


def test_enabled_controllers_without_a_mount_are_mounted() -> None:
    mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n"

    assert cgroups.missing(CONTROLLERS, mounts) == ["net_cls"]


def test_a_mount_of_another_kind_does_not_count() -> None:
    mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,cpu 0 0\ntmpfs /net_cls tmpfs rw,net_cls 0 0\n"

    assert cgroups.missing(CONTROLLERS, mounts) == ["cpu", "cpuacct", "net_cls"]


@pytest.mark.parametrize(("bounding", "lacks"), [("000001fffeffffff", True), ("000001ffffffffff", False)])
def test_the_capability_is_read_from_the_bounding_set(bounding: str, lacks: bool) -> None:
    status = f"Name:\tpython3\nCapEff:\t0000000000000000\nCapBnd:\t{bounding}\nCapAmb:\t0000000000000000\n"

    assert daemon.lacks_sys_resource(status) is lacks


def test_runc_is_replaced_only_if_a_shim_is_given() -> None:
    assert not any("runtime" in word for word in daemon.command(shim=None))
    assert "--default-runtime=permitted" in daemon.command(shim=Path("/shim"))


def test_each_package_is_named_once() -> None:
    assert packages.packages(["docker", "dockerd", "runc"]) == ["docker.io", "runc"]


def test_missing_packages_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(KindError, match="apt-get install --no-install-recommends no-such-program-1 no-such-program-2"):
        packages.ensure(["no-such-program-1", "no-such-program-2"], install=False)


@pytest.mark.parametrize("pid", ["4194305", str(os.getpid())], ids=["no process", "another process"])
def test_the_pid_file_of_a_daemon_that_is_gone_is_removed(tmp_path: Path, pid: str) -> None:
    """No pid is above 4194304, and this process is not dockerd."""
    pid_file = tmp_path / "docker.pid"
    pid_file.write_text(pid)

    daemon.remove_stale(pid_file, "dockerd")

    assert not pid_file.exists()


def test_the_pid_file_of_a_daemon_that_runs_stays(tmp_path: Path) -> None:
    pid_file = tmp_path / "docker.pid"
    pid_file.write_text(str(os.getpid()))

    daemon.remove_stale(pid_file, Path("/proc/self/comm").read_text().strip())

    assert pid_file.exists()


def test_a_second_run_waits_and_prints_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = "from kind.layout import locked\nwith locked('cluster'): print('in', flush=True)"

    with layout.locked("cluster"):
        environment = {**os.environ, "PYTHONPATH": str(layout.KIND.parent)}
        second = subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr
        assert "waiting for another run" in second.stderr.readline()
        assert second.poll() is None

    assert second.communicate(timeout=30)[0] == "in\n"
