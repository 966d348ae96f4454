"""A cluster as its users see it: kubectl, helm, docker for its nodes, and waits for a state."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]
Measured = Callable[[str, float], None]
PATIENCE = 90.0  # for changes that take some seconds on an idle machine
LEASE_SECONDS = 15  # the default of a hub
SLEEP = ["sleep", "100000"]
SYSTEM = "processhub-system"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # `make kind-up` links kubectl and helm there


class CommandError(AssertionError):
    """A command failed; the message is its output. As an AssertionError it is retried by waits for a state."""


def run(*command: str, stdin: str | None = None, timeout: float = 120, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its standard output. Raises CommandError."""
    answer = subprocess.run(
        command,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PATH": _PATH, **(env or {})},
        check=False,
    )
    if answer.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {answer.stderr.strip() or answer.stdout.strip()}")
    return answer.stdout


def docker(*arguments: str) -> str:
    """Run docker, for the nodes."""
    return run("docker", *arguments)


def settles(check: Callable[[], T], within: float = PATIENCE, every: float = 0.3) -> T:
    """Call ``check`` until it raises no AssertionError; return its result, or raise its last error at the deadline."""
    deadline = time.monotonic() + within
    while True:
        try:
            return check()
        except (AssertionError, LookupError):
            if time.monotonic() > deadline:
                raise
        time.sleep(every)


@dataclass(frozen=True)
class Server:
    """The address of the API server and the file with its CA."""

    server: str
    authority: str


class Kube:
    """One context of a kubeconfig."""

    def __init__(self, kubeconfig: Path, context: str = "") -> None:
        self.kubeconfig = kubeconfig
        self.context = context or run("kubectl", "--kubeconfig", str(kubeconfig), "config", "current-context").strip()

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl."""
        options = ("--kubeconfig", str(self.kubeconfig), "--context", self.context)
        return run("kubectl", *options, *arguments, stdin=stdin, timeout=timeout)

    def helm(self, *arguments: str, timeout: float = 180) -> str:
        """Run helm."""
        options = ("--kubeconfig", str(self.kubeconfig), "--kube-context", self.context)
        return run("helm", *arguments, *options, timeout=timeout)

    def get(self, *arguments: str) -> Json:
        """Return ``kubectl get`` as JSON."""
        found: Json = json.loads(self("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[Json]:
        """Return the items of a list."""
        found: list[Json] = self.get(*arguments)["items"]
        return found

    def apply(self, *objects: Json, namespace: str = "") -> None:
        """Server-side apply."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        options = ("--namespace", namespace) if namespace else ()
        self("apply", "--server-side", *options, "-f", "-", stdin=text)

    def get_cluster(self) -> Server:
        """Return the address of the API server."""
        options = (
            "--kubeconfig",
            str(self.kubeconfig),
            "--context",
            self.context,
            "config",
            "view",
            "--minify",
            "--raw",
        )
        cluster = json.loads(run("kubectl", *options, "-o", "json"))["clusters"][0]["cluster"]
        authority = self.kubeconfig.with_name("ca.crt")
        authority.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
        return Server(cluster["server"], str(authority))

    def workers(self) -> list[str]:
        """Return the nodes that run members: all but the control plane."""
        return [
            item["metadata"]["name"]
            for item in self.items("nodes")
            if "node-role.kubernetes.io/control-plane" not in item["metadata"]["labels"]
        ]

    def save(self, folder: Path) -> None:
        """Write the objects, Events and the logs of every container to files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, arguments in {
            "objects.txt": ("get", "all,hubs,children,rslice,leases,nodes", "-A", "-o", "wide"),
            "objects.yaml": ("get", "hubs,children,rslice,pods", "-A", "-o", "yaml"),
            "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        }.items():
            with contextlib.suppress(CommandError):
                (folder / name).write_text(self(*arguments))
        for pod in self.items("pods", "-A"):
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            for options in ((), ("--previous",)):
                with contextlib.suppress(CommandError):
                    log = self("-n", namespace, "logs", name, "--all-containers", "--prefix", *options)
                    (folder / f"{namespace}_{name}{''.join(options)}.log").write_text(log)


class Release:
    """The release of the chart."""

    def __init__(self, kube: Kube, chart: Path) -> None:
        self._kube, self._chart = kube, chart

    def install(self) -> None:
        """Install the chart with default values; it must be ready within a minute."""
        self._kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": RESTRICTED}})
        self.upgrade("--timeout", "60s")

    def upgrade(self, *options: str) -> str:
        """Run helm upgrade --install and wait until the release is ready."""
        arguments = ("upgrade", "--install", "processhub", str(self._chart), "--namespace", SYSTEM)
        return self._kube.helm(*arguments, "--wait", "--reset-values", *options)

    def operators(self) -> list[str]:
        """Return the operator's pods."""
        selector = "app.kubernetes.io/component=operator"
        return [item["metadata"]["name"] for item in self._kube.items("pods", "-n", SYSTEM, "-l", selector)]

    def ready(self) -> None:
        """Wait until two operator pods are ready and one of them leads."""

        def check() -> None:
            self._kube("-n", SYSTEM, "rollout", "status", "deployment/processhub-operator", "--timeout=5s")
            holder = self._kube.get("lease", "processhub-operator", "-n", SYSTEM)["spec"].get("holderIdentity") or ""
            assert holder.rpartition("_")[0] in self.operators(), holder

        settles(check)


class World:
    """One namespace for a test."""

    def __init__(self, kube: Kube, labels: Mapping[str, str] = RESTRICTED) -> None:
        from processwatch import ProcessWatch

        self.kube = kube
        self.namespace = f"e2e-{secrets.token_hex(3)}"
        kube.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": dict(labels)}}
        )
        self.watch = ProcessWatch(self.namespace)
        self.watch.start()

    def close(self) -> None:
        """Delete the namespace without waiting for its end."""
        self.watch.stop()
        self.kube("delete", "namespace", self.namespace, "--wait=false")

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 180) -> str:
        """Run kubectl in the namespace."""
        return self.kube("-n", self.namespace, *arguments, stdin=stdin, timeout=timeout)

    def cli(self, verb: str, *words: str, hub: str = "hub", stdin: str | None = None, timeout: float = 120) -> str:
        """Run ``kubectl hub`` and return its output."""
        options = ("--namespace", self.namespace, "--hub", hub, "--context", self.kube.context)
        environment = {"KUBECONFIG": str(self.kube.kubeconfig)}
        return run("kubectl-hub", verb, *options, *words, stdin=stdin, timeout=timeout, env=environment)

    def get(self, kind: str, name: str) -> Json:
        """Return an object."""
        return self.kube.get(kind, name, "-n", self.namespace)

    def hub(self, name: str = "hub", **spec: Any) -> None:
        """Create a Hub and wait until it is Ready."""
        self.kube.apply(
            {"apiVersion": "processhub.dev/v1alpha1", "kind": "Hub", "metadata": {"name": name}, "spec": spec},
            namespace=self.namespace,
        )
        self.hub_ready(name)

    def hub_ready(self, name: str = "hub", timeout: int = 120) -> None:
        """Wait for the condition Ready."""
        self.kubectl("wait", f"hub/{name}", "--for=condition=Ready", f"--timeout={timeout}s", timeout=timeout + 10)

    def children(self, *names: str, hub: str = "hub", **spec: Any) -> None:
        """Create Children; without a workload they sleep."""
        workload = {} if {"exec", "python", "pod"} & spec.keys() else {"exec": {"command": SLEEP}}
        objects = [
            {
                "apiVersion": "processhub.dev/v1alpha1",
                "kind": "Child",
                "metadata": {"name": name},
                "spec": {"hub": hub, **workload, **spec},
            }
            for name in names
        ]
        self.kube.apply(*objects, namespace=self.namespace)

    def children_ready(self, *names: str, timeout: int = 90) -> None:
        """Wait for the condition Ready of each."""
        objects = [f"child/{name}" for name in names]
        self.kubectl("wait", *objects, "--for=condition=Ready", f"--timeout={timeout}s", timeout=timeout + 10)

    def registry(self, hub: str = "hub") -> dict[str, str]:
        """Return the member of each child by Hub.status, if the child has one copy and that is Running."""
        status = self.get("hub", hub)["status"]
        assert status["registrySize"] == len(status.get("registry") or []), "all of it fits into the status here"
        found = {}
        for entry in status.get("registry") or []:
            nodes = entry["nodes"]
            assert [node["state"] for node in nodes] == ["Running"], entry
            found[entry["id"]] = nodes[0]["name"]
        return found

    def running(self, names: Iterable[str], hub: str = "hub", within: float = PATIENCE) -> dict[str, str]:
        """Return the members once exactly these children are recorded and each has one process, on its member."""
        wanted = set(names)

        def check() -> dict[str, str]:
            registry = self.registry(hub)
            assert registry.keys() == wanted, (sorted(wanted - registry.keys()), sorted(registry.keys() - wanted))
            live = {child_id: [run.member for run in runs] for child_id, runs in self.watch.live(hub).items()}
            assert live == {child_id: [member] for child_id, member in registry.items()}
            return registry

        return settles(check, within)

    def nodes_of(self, hub: str = "hub") -> dict[str, str]:
        """Return the Kubernetes node of each member."""
        return {member["name"]: member["node"] for member in self.get("hub", hub)["status"]["members"]}

    def starts(self, hub: str = "hub") -> Counter[str]:
        """Return how often each child was started."""
        return Counter({child_id: len(runs) for child_id, runs in self.watch.runs(hub).items()})


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the children that are on another member than before."""
    return {child_id for child_id, member in after.items() if before[child_id] != member}
