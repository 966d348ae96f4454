"""What the kind targets read of the machine: cgroups, capabilities, packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from kind import cgroups, daemon, packages
from kind.layout import KindError

CONTROLLERS = """\
#subsys_name	hierarchy	num_cgroups	enabled
cpu	1	1	1
cpuacct	2	1	1
net_cls	0	1	1
rdma	0	1	0
"""


def test_enabled_controllers_that_no_mount_has_are_to_be_mounted() -> None:
    mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n"

    assert cgroups.missing(CONTROLLERS, mounts) == ["net_cls"]


def test_a_mount_of_another_kind_is_none() -> None:
    mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,cpu 0 0\ntmpfs /net_cls tmpfs rw,net_cls 0 0\n"

    assert cgroups.missing(CONTROLLERS, mounts) == ["cpu", "cpuacct", "net_cls"]


@pytest.mark.parametrize(("bounding", "lacks"), [("000001fffeffffff", True), ("000001ffffffffff", False)])
def test_the_capability_is_read_from_the_bounding_set(bounding: str, lacks: bool) -> None:
    status = f"Name:\tpython3\nCapEff:\t0000000000000000\nCapBnd:\t{bounding}\nCapAmb:\t0000000000000000\n"

    assert daemon.lacks_sys_resource(status) is lacks


def test_runc_is_replaced_only_where_a_shim_is_given() -> None:
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
