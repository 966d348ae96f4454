"""Starts etcd, the API server, the controller manager and the scheduler as processes of this machine."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import ssl
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from localcluster.layout import ClusterError, Layout, Record
from localcluster.ports import free_port
from localcluster.processes import MARKER

NODE_MONITOR_GRACE_SECONDS = 20  # a lost node is NotReady after this; upstream's 50 s makes tests slow
_COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
_READY_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_LAST_LINES = 5
# With Go's default of 100 a seventh of the API server's time is garbage collection. This costs it 150 MiB of memory.
_GOGC = "400"


@dataclass(frozen=True)
class _Ports:
    """A port of 127.0.0.1 for each listener."""

    api: int
    etcd: int
    etcd_peer: int
    controller_manager: int
    scheduler: int


def start(layout: Layout, record: Record, tools: Mapping[str, Path]) -> None:
    """Start the control plane and write ``layout.kubeconfig``; returns when the API server answers.

    Raises ClusterError with a component's last lines as soon as one ends, or if there is no answer within a minute.
    """
    made = subprocess.run([tools["pki"], pki(record)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ClusterError(f"the certificates could not be made: {made.stderr.strip()}")
    ports = _Ports(*(free_port() for _ in range(5)))
    layout.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(pki(record), ports.api)))
    arguments = _arguments(record, layout.kubeconfig, ports)
    logs(record).mkdir(parents=True, exist_ok=True)
    running = {name: _run(name, [tools[name], *arguments[name]], record) for name in ("etcd", "kube-apiserver")}
    _wait_ready(record, ports.api, running)
    # These end if the API server does not answer them within 10 s.
    for name in ("kube-controller-manager", "kube-scheduler"):
        _run(name, [tools[name], *arguments[name]], record)


def logs(record: Record) -> Path:
    """The folder with a log file for each component."""
    return Path(record.data) / "logs"


def pki(record: Record) -> Path:
    """The folder with ``ca.crt`` and the administrator's key and certificate."""
    return Path(record.data) / "pki"


def health(record: Record) -> dict[str, str]:
    """The last line of each component's log, for an error message."""
    lines: dict[str, str] = {}
    for name in _COMPONENTS:
        with contextlib.suppress(OSError, IndexError):
            text = (logs(record) / f"{name}.log").read_text(errors="replace")
            lines[name] = re.sub(r"\s+", " ", text.splitlines()[-1])[:200]
    return lines


def _run(name: str, command: list[str | Path], record: Record) -> subprocess.Popen[bytes]:
    with open(logs(record) / f"{name}.log", "ab") as log:
        return subprocess.Popen(
            command,
            env={"GOGC": _GOGC, **os.environ, MARKER: record.id},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is meant for the command that started it
        )


def _wait_ready(record: Record, port: int, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    context = ssl.create_default_context(cafile=pki(record) / "ca.crt")
    context.load_cert_chain(pki(record) / "admin.crt", pki(record) / "admin.key")
    deadline = time.monotonic() + _READY_SECONDS
    while not _is_ready(port, context):
        for name, process in running.items():
            if process.poll() is not None:
                raise ClusterError(f"{name} ended with exit code {process.returncode}:\n{_last_lines(record, name)}")
        if time.monotonic() > deadline:
            said = "\n".join(f"{name}: {line}" for name, line in health(record).items())
            raise ClusterError(f"the API server did not become ready in {_READY_SECONDS:g} s:\n{said}")
        time.sleep(_LOOK_SECONDS)


def _is_ready(port: int, context: ssl.SSLContext) -> bool:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_lines(record: Record, name: str) -> str:
    text = (logs(record) / f"{name}.log").read_text(errors="replace")
    return "\n".join(text.splitlines()[-_LAST_LINES:])


def _kubeconfig(certificates: Path, port: int) -> dict[str, object]:
    user = {"client-certificate": str(certificates / "admin.crt"), "client-key": str(certificates / "admin.key")}
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(certificates / "ca.crt")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }


def _arguments(record: Record, kubeconfig: Path, ports: _Ports) -> dict[str, list[str]]:
    certificate, key, authority = (pki(record) / name for name in ("admin.crt", "admin.key", "ca.crt"))
    etcd, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    client = (f"--kubeconfig={kubeconfig}", "--bind-address=127.0.0.1")
    return {
        "etcd": [
            *("--name=local", f"--data-dir={Path(record.data) / 'etcd'}", f"--initial-cluster=local={peer}"),
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            *("--quota-backend-bytes=8589934592", "--auto-compaction-retention=1", "--unsafe-no-fsync"),
        ],
        "kube-apiserver": [
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={ports.api}"),
            *("--authorization-mode=Node,RBAC", "--allow-privileged", f"--client-ca-file={authority}"),
            *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            # It takes a seventh of the time of each request. The limits of requests at once hold without it.
            "--enable-priority-and-fairness=false",
            # So that the process kubelet can ask for a client certificate before it shows logs.
            *(f"--kubelet-client-certificate={certificate}", f"--kubelet-client-key={key}"),
        ],
        "kube-controller-manager": [
            *(*client, f"--secure-port={ports.controller_manager}"),
            *(f"--root-ca-file={authority}", f"--service-account-private-key-file={key}"),
            "--leader-elect=false",  # on a busy disk it would lose its Lease and exit
            *("--node-monitor-period=1s", f"--node-monitor-grace-period={NODE_MONITOR_GRACE_SECONDS}s"),
            "--horizontal-pod-autoscaler-sync-period=2s",
            # Pod addresses are loopback ones, which EndpointSlices refuse: these controllers would retry forever.
            "--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller",
        ],
        "kube-scheduler": [*client, f"--secure-port={ports.scheduler}", "--leader-elect=false"],
    }
