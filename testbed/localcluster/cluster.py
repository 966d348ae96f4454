"""The local cluster's life: ``python -m localcluster.cluster up|down|status|kubeconfig``.

State is under ``.local/`` of the checkout (or LOCALCLUSTER_ROOT), so two checkouts have one cluster each.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from localcluster import controlplane, tools
from localcluster.kubelet import image
from localcluster.layout import CHECKOUT, ClusterError, Layout, Record, default_layout
from localcluster.processes import MARKER, end_all, end_kubelet, marked, runs_kubelet

DEFAULT_NODES = 3
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up."""

    layout: Layout
    record: Record

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl as the administrator; returns its output.

        Raises ClusterError with kubectl's message if it fails.
        """
        return _kubectl(self.layout, *arguments, stdin=stdin, timeout=timeout)

    def environment(self) -> dict[str, str]:
        """The environment of this process with the cluster's KUBECONFIG, and its tools in front of PATH."""
        path = f"{CHECKOUT / '.venv' / 'bin'}:{self.layout.bin}:{os.environ.get('PATH', '')}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}


def up(layout: Layout | None = None, nodes: int = DEFAULT_NODES) -> Cluster:
    """Bring the cluster up with ``nodes`` nodes, if it is not up already.

    Parts that an earlier run left are stopped first. Raises ClusterError if the cluster does not come up.
    """
    layout = layout or default_layout()
    paths = tools.ensure([tool.name for tool in tools.CLUSTER_TOOLS])
    with layout.locked():
        record = layout.record()
        if record and not _answers(layout):
            _stop(layout, record)
            record = None
        if record is None:
            _link(paths, layout.bin)
            record = layout.begin()
            try:
                controlplane.start(layout, record, paths)
            except BaseException:
                _stop(layout, record)
                raise
        if not _kubelet_runs(record):
            _start_kubelet(layout, record, nodes)
        cluster = Cluster(layout, record)
        _wait_nodes(cluster, nodes)
        return cluster


def down(layout: Layout | None = None) -> bool:
    """End what ``up`` started and remove its files; False if there was nothing."""
    layout = layout or default_layout()
    with layout.locked():
        record = layout.record()
        if record is None:
            return False
        _stop(layout, record)
        return True


def running(layout: Layout | None = None) -> Cluster | None:
    """The cluster here if its API server answers, else None."""
    layout = layout or default_layout()
    record = layout.record()
    return Cluster(layout, record) if record and _answers(layout) else None


def _link(paths: dict[str, Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        scratch = folder / f".{name}.{os.getpid()}"
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(path.resolve())  # the tool that was found on PATH may be this very link
        scratch.replace(folder / name)


def _stop(layout: Layout, record: Record) -> None:
    end_kubelet(record.id, _STOP_SECONDS)
    # The API server would wait for open watches, and there is no state worth an orderly end.
    end_all(record.id, 0)
    layout.forget(record)


def _kubectl(layout: Layout, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
    command = [str(layout.bin / "kubectl"), "--kubeconfig", str(layout.kubeconfig), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"kubectl {' '.join(arguments)}: {error}") from error
    if answer.returncode != 0:
        raise ClusterError(f"kubectl {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


def _answers(layout: Layout) -> bool:
    try:
        return _kubectl(layout, "get", "--raw", "/readyz", "--request-timeout=5s", timeout=10) == "ok"
    except ClusterError:
        return False


def _kubelet_runs(record: Record) -> bool:
    with marked(record.id) as processes:
        return any(runs_kubelet(process) for process in processes)


def _start_kubelet(layout: Layout, record: Record, nodes: int) -> None:
    image.compile_programs()
    testbed = CHECKOUT / "testbed"
    path = os.environ.get("PYTHONPATH")
    environment = {**os.environ, MARKER: record.id, "PYTHONPATH": f"{testbed}:{path}" if path else str(testbed)}
    command = [
        *(sys.executable, "-m", "localcluster.kubelet", "--kubeconfig", str(layout.kubeconfig)),
        *("--nodes", str(nodes), "--root", str(layout.kubelet_root), "--bin", str(layout.bin)),
    ]
    with open(layout.kubelet_log, "ab") as log:
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _wait_nodes(cluster: Cluster, nodes: int) -> None:
    """Wait until pods may go to all nodes and the default ServiceAccount exists (pods are refused before that).

    The controller manager takes the taint off a node a moment after the node is Ready.
    """
    taint = '{.spec.taints[?(@.key=="node.kubernetes.io/not-ready")].key}'
    ready = f'{{range .items[*]}}{{.status.conditions[?(@.type=="Ready")].status}}{taint} {{end}}'
    deadline = time.monotonic() + 60
    while True:
        try:
            states = cluster.kubectl("get", "nodes", "-o", f"jsonpath={ready}").split()
            cluster.kubectl("get", "serviceaccount", "default", "-o", "name")
            if states.count("True") >= nodes:
                return
            problem = f"nodes Ready: {states}"
        except ClusterError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            said = "\n".join(f"{name}: {line}" for name, line in controlplane.health(cluster.record).items())
            raise ClusterError(f"not ready after 60 s ({problem}); see {cluster.layout.kubelet_log}\n{said}")
        time.sleep(0.1)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m localcluster.cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "kubeconfig"))
    parser.add_argument("--nodes", type=int, default=DEFAULT_NODES, help="how many nodes (default: %(default)s)")
    arguments = parser.parse_args()
    layout = default_layout()
    try:
        match arguments.command:
            case "up":
                begun = time.monotonic()
                cluster = up(layout, arguments.nodes)
                kubeconfig = shlex.quote(str(cluster.kubeconfig))
                print(f"up after {time.monotonic() - begun:.1f} s; export KUBECONFIG={kubeconfig}")
            case "down":
                print("down" if down(layout) else "nothing was up")
            case "status":
                cluster_or_none = running(layout)
                print(cluster_or_none.kubectl("get", "nodes") if cluster_or_none else "not up")
                return 0 if cluster_or_none else 1
            case "kubeconfig":
                if running(layout) is None:
                    print("error: the local cluster is not up; bring it up with: make up", file=sys.stderr)
                    return 1
                print(layout.kubeconfig)
    except (ClusterError, tools.ToolError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
