"""Starting etcd, the API server, the controller manager and the scheduler with kwokctl's binary runtime."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from localcluster.layout import ClusterError, Layout, Record
from localcluster.processes import MARKER

NODE_MONITOR_GRACE_SECONDS = 20  # a lost node is NotReady after this; upstream's 50 s makes tests slow
_NAME = "local"
_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")


def start(layout: Layout, record: Record, tools: dict[str, Path]) -> None:
    """Start the control plane and write ``layout.kubeconfig``; returns when it answers.

    Raises ClusterError with kwokctl's last lines where it does not come up in a minute.
    """
    config = Path(record.data) / "kwokctl.yaml"
    with _free_ports(5) as ports:
        config.write_text(yaml.safe_dump(_configuration(Path(record.data), ports)))
    command = [
        *(str(tools["kwokctl"]), "create", "cluster", "--name", _NAME, "--runtime", "binary"),
        *("--config", str(config), "--disable", "kwok-controller"),  # the process kubelet runs the nodes
        *("--kubeconfig", str(layout.kubeconfig), "--wait", "60s"),
        *(f"--{name}-binary={tools[name]}" for name in _COMPONENTS),
    ]
    environment = {
        **os.environ,
        MARKER: record.id,
        "KWOK_WORKDIR": record.data,
        "PATH": f"{layout.bin}:{os.environ.get('PATH', '')}",  # kwokctl calls kubectl
    }
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the control plane did not come up in 2 minutes; its logs are in {logs(record)}") from error
    if result.returncode != 0:
        said = "\n".join((result.stdout + result.stderr).splitlines()[-10:])
        raise ClusterError(f"kwokctl could not start the control plane; its logs are in {logs(record)}:\n{said}")


def logs(record: Record) -> Path:
    """The folder with a log file for each component."""
    return Path(record.data) / "clusters" / _NAME / "logs"


def pki(record: Record) -> Path:
    """The folder with ``ca.crt`` and the administrator's key and certificate."""
    return Path(record.data) / "clusters" / _NAME / "pki"


def health(record: Record) -> dict[str, str]:
    """What the log of each component says last, for an error message."""
    lines: dict[str, str] = {}
    for name in _COMPONENTS:
        with contextlib.suppress(OSError, IndexError):
            text = (logs(record) / f"{name}.log").read_text(errors="replace")
            lines[name] = re.sub(r"\s+", " ", text.splitlines()[-1])[:200]
    return lines


def _configuration(data: Path, ports: list[int]) -> dict[str, object]:
    pki_folder = data / "clusters" / _NAME / "pki"

    def patch(component: str, *arguments: tuple[str, str, bool]) -> dict[str, object]:
        extra = [{"key": key, "value": value, "override": override} for key, value, override in arguments]
        return {"name": component, "extraArgs": extra}

    return {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokctlConfiguration",
        "options": {
            "bindAddress": "127.0.0.1",
            # kwokctl picks the same ports in every run: two clusters started at once would collide.
            **dict(
                zip(
                    ("kubeApiserverPort", "etcdPort", "etcdPeerPort", "kubeControllerManagerPort", "kubeSchedulerPort"),
                    ports,
                    strict=True,
                )
            ),
        },
        "componentsPatches": [
            patch("etcd", ("unsafe-no-fsync", "true", False)),
            patch(
                "kube-apiserver",
                # So that the process kubelet can ask for a client certificate before it shows logs.
                ("kubelet-client-certificate", str(pki_folder / "admin.crt"), False),
                ("kubelet-client-key", str(pki_folder / "admin.key"), False),
            ),
            patch(
                "kube-controller-manager",
                ("leader-elect", "false", False),  # on a busy disk it would lose its Lease and end
                ("node-monitor-period", "1s", True),
                ("node-monitor-grace-period", f"{NODE_MONITOR_GRACE_SECONDS}s", True),
                # Pod addresses are loopback ones, which EndpointSlices refuse: these would retry for ever.
                (
                    "controllers",
                    "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller",
                    False,
                ),
            ),
            patch("kube-scheduler", ("leader-elect", "false", False)),
        ],
    }


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Distinct ports below the range that the kernel gives to outgoing connections."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            candidate = random.SystemRandom().randrange(20000, 32000)
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", candidate))
                ports.append(candidate)
        yield ports
