"""The images that kubeadm expects on a node, each with one binary of ours, under the names that kubeadm gives them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kind import archive, namespaces
from kind.archive import Image
from kind.layout import KindError

VERSION = "v1.34.4"
NETWORK_IMAGE = "localhost/processhub-kind-network:v1"
# The binaries in the images. They are static.
BINARIES = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
    *("etcd", "coredns", "pause"),
)
_APPLETS = ("sh", "cat", "chroot", "cmp", "mkdir", "mv", "rm", "sleep")  # that network.sh calls
_PACKET_FILTERS = ("usr/sbin/xtables-nft-multi", "usr/sbin/nft", "usr/sbin/conntrack")
_IPTABLES = tuple(f"{family}tables{what}" for family in ("ip", "ip6") for what in ("", "-save", "-restore"))


def names(kubeadm: Path) -> dict[str, str]:
    """The name of each image that kubeadm expects, by its last part: ``{"etcd": "…/etcd:3.6.5-0"}``."""
    command = [str(kubeadm), "config", "images", "list", "--kubernetes-version", VERSION]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    found = by_last_part(answer.stdout)
    if answer.returncode != 0 or set(found) != set(BINARIES):
        raise KindError(f"kubeadm wants other images than {sorted(BINARIES)}: {answer.stdout}{answer.stderr}")
    return found


def by_last_part(listing: str) -> dict[str, str]:
    """Image names, one a line, by the last part of their path without the tag."""
    return {line.rpartition("/")[2].partition(":")[0]: line for line in listing.split()}


def make(folder: Path, wanted: Mapping[str, str], binaries: Mapping[str, Path], debian: Path) -> None:
    """Write an archive for each of ``wanted`` and the network agent's into ``folder``.

    ``debian`` is the nodes' Debian tree, from which kube-proxy has its packet filters and the agent its shell.
    """
    for binary, name in wanted.items():
        tree = folder / "tree"
        _put(binaries[binary], tree / "usr/local/bin" / binary)
        if binary == "kube-proxy":
            _add_packet_filters(tree, debian)
        _write(folder / f"{binary}.tar", Image(name, (f"/usr/local/bin/{binary}",)), tree)
    tree = folder / "tree"
    _put(debian / "bin/busybox", tree / "bin/busybox")
    for applet in _APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "node").mkdir()
    _write(folder / "network.tar", Image(NETWORK_IMAGE, ("/bin/sh",)), tree)


def _write(path: Path, image: Image, tree: Path) -> None:
    archive.write(path, image, tree, compressed=True)
    shutil.rmtree(tree)


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755)


def _add_packet_filters(tree: Path, debian: Path) -> None:
    """Add iptables (on nftables), nft and conntrack, with iptables' plugins and the libraries of them all."""
    for folder in ("usr/sbin", "usr/lib", "usr/lib64", "tmp", "run"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for name in ("sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    plugins = [path.relative_to(debian) for path in sorted(debian.glob("usr/lib/*/xtables/*.so"))]
    files = [*map(Path, _PACKET_FILTERS), *plugins]
    linked = namespaces.in_root(debian, "ldd", *(f"/{path}" for path in files))
    for file in {*files, *libraries(linked)}:
        _put(debian / file, tree / file)
    for name in _IPTABLES:
        (tree / "usr/sbin" / name).symlink_to("xtables-nft-multi")


def libraries(linked: str) -> set[Path]:
    """The libraries in ldd's output, as paths below the root."""
    return {Path(path.lstrip("/")) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", linked, re.MULTILINE)}
