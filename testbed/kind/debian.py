"""The Debian tree of a node, before anything of Kubernetes is added."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kind import namespaces, packages
from kind.layout import KindError

SUITE = "bookworm"  # its systemd and containerd run on cgroup v1 and v2
PACKAGES = (
    *("systemd", "dbus", "kmod", "mount", "procps", "tar"),
    *("containerd", "runc", "containernetworking-plugins", "pigz"),
    *("iptables", "nftables", "iproute2", "conntrack", "ethtool"),
    # kind's entrypoint and our network.sh use these.
    *("ca-certificates", "curl", "jq", "busybox-static"),
)
# Files that no node needs: documentation, translations, the package manager's lists and archives.
_SURPLUS = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"),
    *("var/cache/apt", "var/cache/debconf", "var/lib/apt/lists", "var/log"),
)


def make(root: Path) -> None:
    """Make the tree at ``root`` with debootstrap, from the mirror that $DEBIAN_MIRROR names or debootstrap's own.

    Needs root. Raises KindError.
    """
    program = packages.find("debootstrap")
    if program is None:
        raise KindError("there is no debootstrap; install it with: apt-get install debootstrap")
    command = [program, "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        command.append(mirror)
    namespaces.run(command, "debootstrap (is a Debian mirror in reach?)")
    for name in _SURPLUS:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    # The nodes' own: Docker writes both.
    for name in ("etc/resolv.conf", "etc/hostname"):
        (root / name).unlink(missing_ok=True)
