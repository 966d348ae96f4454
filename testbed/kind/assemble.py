"""A node image made here: a Debian tree, kind's own files from its Go module, Kubernetes' binaries and images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kind import archive, namespaces, systemimages
from kind.archive import Image
from kind.layout import KIND, KindError
from kind.progress import Progress
from localcluster import golang, tools
from localcluster.tools import PINS

STEPS = 4
ON_NODE = ("kubelet", "kubeadm", "kubectl")  # binaries beside those in images
DATA = KIND / "node"
# From kind's images/base/files: its entrypoint, and how it sets up containerd, the kubelet and systemd.
_KIND_FILES = (
    *("usr/local/bin/entrypoint", "kind/bin/*", "etc/containerd/config.toml", "etc/default/kubelet", "etc/sysctl.d/*"),
    *(
        "etc/systemd/system/containerd.service",
        "etc/systemd/system/kubelet.*",
        "etc/systemd/system/kubelet.service.d/*",
    ),
    "etc/systemd/system/undo-mount-hacks.service",
)
# Units that a container does not use, or that would change the machine around it; kind's Dockerfile removes them too.
_UNITS_REMOVED = (
    *("lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service", "etc/systemd/system/*.wants/*"),
    *("lib/systemd/system/multi-user.target.wants/*", "lib/systemd/system/local-fs.target.wants/*"),
    *("lib/systemd/system/sockets.target.wants/*udev*", "lib/systemd/system/sockets.target.wants/*initctl*"),
    "lib/systemd/system/basic.target.wants/*",
)


def assemble(
    name: str, target: Path, work: Path, debian: Path, binaries: Mapping[str, Path], progress: Progress
) -> None:
    """Write the archive of node image ``name`` to ``target``, in STEPS steps of ``progress``.

    ``work`` is an empty folder on the same disk, needing 3 GiB. Needs root. Raises KindError.
    """
    root, images = work / "root", work / "images"
    wanted = systemimages.names(binaries["kubeadm"])
    with progress.step("the images of the control plane, kube-proxy, CoreDNS and the network"):
        images.mkdir()
        systemimages.make(images, wanted, binaries, debian)
    with progress.step("kind's files and Kubernetes' binaries in a copy of the Debian tree"):
        subprocess.run(["cp", "--archive", "--reflink=auto", str(debian), str(root)], check=True)
        _add_kind(root, kind_files())
        _configure_containerd(root, wanted["pause"])
        _add_own(root, binaries)
        _configure_systemd(root)
    with progress.step("the images imported into the nodes' containerd"):
        namespaces.run([DATA / "preload.sh", root, images], "importing the images")
    with progress.step("the node image's archive"):
        image = Image(
            *(name, ("/usr/local/bin/entrypoint", "/sbin/init"), ("container=docker",)),
            stop_signal="SIGRTMIN+3",  # systemd's stop signal; TERM makes it start again
            plain=False,
        )
        archive.write(target, image, root, compressed=False)


def kind_files() -> Path:
    """images/base/files of the pinned kind module, fetched where it isn't in Go's module cache. Raises KindError."""
    try:
        go = tools.go_for("kind")
    except golang.GoError as error:
        raise KindError(f"kind's files can't be fetched: {error}") from error
    command = [go.program, "mod", "download", "-json", "sigs.k8s.io/kind"]
    answer = subprocess.run(command, cwd=PINS / "kind", env=go.environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise KindError(f"kind's Go module can't be fetched: {answer.stdout}{answer.stderr}".strip())
    return Path(json.loads(answer.stdout)["Dir"]) / "images" / "base" / "files"


def _add_kind(root: Path, files: Path) -> None:
    for pattern in _KIND_FILES:
        found = [path for path in files.glob(pattern) if path.is_file()]
        if not found:
            raise KindError(f"kind's module has no images/base/files/{pattern}: is it another version?")
        for path in found:
            _install(path, root / path.relative_to(files), executable="bin" in path.parts)


def _configure_containerd(root: Path, pause: str) -> None:
    config = root / "etc/containerd/config.toml"
    text = re.sub(r'sandbox_image = ".*"', f'sandbox_image = "{pause}"', config.read_text())
    # Without CAP_SYS_RESOURCE a process can't lower its oom_score_adj; with it, this changes little.
    text = text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    config.write_text(text)
    # A container's limits can't be raised without that capability either. kind's hook that hides the machine's serial
    # numbers is left out: it fails where there are none, as in small virtual machines.
    specification = json.loads(namespaces.in_root(root, "ctr", "oci", "spec"))
    del specification["process"]["rlimits"]
    (root / "etc/containerd/cri-base.json").write_text(json.dumps(specification))
    # Paths at which kind's files expect programs that Debian has elsewhere.
    _link(root / "usr/local/bin/containerd", "/usr/bin/containerd")
    _link(root / "opt/cni/bin", "/usr/lib/cni")


def _add_own(root: Path, binaries: Mapping[str, Path]) -> None:
    for name in ON_NODE:
        _install(binaries[name], root / "usr/bin" / name, executable=True)
    _install(DATA / "network.sh", root / "kind/bin/network.sh", executable=True)
    manifests = root / "kind/manifests"
    manifests.mkdir()
    network = (DATA / "network.yaml").read_text().replace("NETWORK_IMAGE", systemimages.NETWORK_IMAGE)
    (manifests / "default-cni.yaml").write_text(network)
    shutil.copy(DATA / "storage.yaml", manifests / "default-storage.yaml")
    (root / "kind/version").write_text(systemimages.VERSION)
    (root / "etc/kubernetes/manifests").mkdir(parents=True)


def _configure_systemd(root: Path) -> None:
    for pattern in _UNITS_REMOVED:
        for path in root.glob(pattern):
            path.unlink()
    with open(root / "etc/systemd/journald.conf", "a") as file:
        file.write("ReadKMsg=no\n")  # the kernel's messages are the machine's, not the node's
    _link(root / "usr/sbin/init", "/lib/systemd/systemd")
    units = ("containerd.service", "kubelet.service", "undo-mount-hacks.service")
    namespaces.in_root(root, "systemctl", "enable", *units)
    # It would register formats with the kernel, for the whole machine.
    namespaces.in_root(root, "systemctl", "mask", "systemd-binfmt.service")


def _install(source: Path, target: Path, *, executable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if executable else 0o644)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
