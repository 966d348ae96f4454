"""The kind cluster's life: ``python -m kind.cluster up|down|load|kubeconfig``.

One cluster for the machine, named ``processhub``, as Docker is one for the machine; each checkout that brings it up
has the kubeconfig in its ``.local/kind/``. The user's own kubeconfig is not touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from kind import config, daemon, docker, network, nodeimage
from kind.layout import CLUSTER, CONTEXT, KUBECONFIG, LOCAL, SHARED, KindError, locked
from localcluster import tools
from localcluster.layout import CHECKOUT

_READY_SECONDS = 180
_LOGS = LOCAL / "logs"
_ARCHIVES = (".tar", ".tar.gz", ".tgz")


def up(*, start_dockerd: bool) -> str:
    """Bring the cluster up, if it is not up already; returns a text about the result.

    With ``start_dockerd`` Docker's daemon is started if it doesn't run, and missing Debian packages are installed. A
    cluster that an interrupted run left incomplete is deleted first. Raises KindError or tools.ToolError.
    """
    with locked("cluster"):
        daemon.ensure(start=start_dockerd)
        paths = tools.ensure(("kind", "kubectl"), near=True)
        if _exists(paths):
            if problem := _problem(paths):
                print(f"the cluster that is there is of no use, making it anew: {problem}", file=sys.stderr)
                _delete(paths)
            else:
                return "is up already"
        image = nodeimage.ensure(install=start_dockerd)
        network.ensure()
        begun = time.monotonic()
        try:
            _create(paths, image)
            _wait_ready(paths, _READY_SECONDS)
        except BaseException:
            _keep_logs(paths)
            _delete(paths)
            raise
        return f"is up after {time.monotonic() - begun:.0f} s, nodes of {image}"


def down() -> str:
    """Delete the cluster and its network, and stop a dockerd that ``up`` started; returns what was done, as text."""
    with locked("cluster"):
        if daemon.lost():
            print("dockerd ended unasked; starting it to delete the nodes that it left running", file=sys.stderr)
            daemon.ensure(start=True)
        if docker.state() is docker.Daemon.ANSWERS:
            paths = tools.ensure(("kind",), near=True)
            said = "cluster deleted" if _exists(paths) else "no cluster was up"
            _delete(paths)
            network.remove()
        else:
            said = "no cluster was up: Docker's daemon does not answer"
        return "; ".join(filter(None, (said, daemon.stop())))


def load(images: Sequence[str]) -> None:
    """Load Docker's images into all nodes, or image archives if a name is that of a file. Raises KindError."""
    paths = tools.ensure(("kind",), near=True)
    _require_up(paths)
    for image in images:
        if image.endswith(_ARCHIVES):
            if not Path(image).is_file():
                raise KindError(f"there is no image archive {image}")
            _kind(paths, "load", "image-archive", image, "--name", CLUSTER)
        elif docker.has_image(image):
            _kind(paths, "load", "docker-image", image, "--name", CLUSTER)
        else:
            raise KindError(f"Docker has no image {image}; build it first (`make image`) or pull it")
        print(f"loaded {image}")


def kubeconfig() -> Path:
    """The administrator's kubeconfig. Raises KindError if this checkout brought no cluster up."""
    if not KUBECONFIG.exists():
        raise KindError("the kind cluster is not up; bring it up with: make kind-up")
    return KUBECONFIG


def default_image() -> str:
    """The operator's image as the chart names it: ``processhub:<appVersion>``."""
    chart = yaml.safe_load((CHECKOUT / "charts" / "processhub" / "Chart.yaml").read_text())
    return f"{chart['name']}:{chart['appVersion']}"


def _exists(paths: dict[str, Path]) -> bool:
    return CLUSTER in _kind(paths, "get", "clusters").split()


def _require_up(paths: dict[str, Path]) -> None:
    if docker.state() is not docker.Daemon.ANSWERS or not _exists(paths):
        raise KindError("the kind cluster is not up; bring it up with: make kind-up")


def _problem(paths: dict[str, Path]) -> str | None:
    """The defect of the existing cluster, if any: it is incomplete, or it was stopped with Docker's daemon."""
    try:
        _kind(paths, "export", "kubeconfig", "--name", CLUSTER, "--kubeconfig", str(KUBECONFIG))
        nodes = _kubectl(paths, "get", "nodes", "--output=name", "--request-timeout=10s").split()
        if len(nodes) <= config.WORKERS:
            return f"it has {len(nodes)} nodes"
        _wait_ready(paths, seconds=60)
    except KindError as error:
        return str(error)
    return None


def _create(paths: dict[str, Path], image: str) -> None:
    """Create the cluster; kind's progress lines go to stderr at once."""
    SHARED.mkdir(parents=True, exist_ok=True)
    command = [
        *(str(paths["kind"]), "create", "cluster", "--name", CLUSTER, "--image", image, "--config", "-"),
        *("--kubeconfig", str(KUBECONFIG), "--retain"),  # kept where it fails, for its logs
    ]
    if subprocess.run(command, input=config.render(), text=True, env=_environment(), check=False).returncode != 0:
        raise KindError(f"kind could not create the cluster; the nodes' logs are in {_LOGS}")


def _wait_ready(paths: dict[str, Path], seconds: int) -> None:
    """Wait until all nodes are Ready and names resolve in pods. Raises KindError after ``seconds`` for either."""
    _kubectl(paths, "wait", "nodes", "--all", "--for=condition=Ready", f"--timeout={seconds}s")
    dns = ("--namespace", "kube-system", "rollout", "status", "deployment/coredns")
    _kubectl(paths, *dns, f"--timeout={seconds}s")


def _keep_logs(paths: dict[str, Path]) -> None:
    """Keep only the logs of the nodes of this failure, as far as they are available.

    kind reports an error for an assembled node after everything else is written: without crictl, images are not listed.
    """
    shutil.rmtree(_LOGS, ignore_errors=True)
    with contextlib.suppress(KindError):
        _kind(paths, "export", "logs", str(_LOGS), "--name", CLUSTER)


def _delete(paths: dict[str, Path]) -> None:
    _kind(paths, "delete", "cluster", "--name", CLUSTER, "--kubeconfig", str(KUBECONFIG))
    KUBECONFIG.unlink(missing_ok=True)


def _kubectl(paths: dict[str, Path], *arguments: str) -> str:
    return _run([str(paths["kubectl"]), "--kubeconfig", str(KUBECONFIG), "--context", CONTEXT, *arguments])


def _kind(paths: dict[str, Path], *arguments: str) -> str:
    return _run([str(paths["kind"]), *arguments])


def _run(command: list[str]) -> str:
    answer = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise KindError(f"{Path(command[0]).name} {' '.join(command[1:])}: {answer.stderr.strip()}")
    return answer.stdout


def _environment() -> dict[str, str]:
    """The environment in which kind works with Docker, also if podman is installed."""
    return {**os.environ, "KIND_EXPERIMENTAL_PROVIDER": "docker"}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kind.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    upper = commands.add_parser("up", help="bring it up")
    upper.add_argument("--start-dockerd", action="store_true", help="start Docker's daemon where it doesn't run")
    commands.add_parser("down", help="delete it")
    loader = commands.add_parser("load", help="load images into its nodes")
    loader.add_argument("images", nargs="*", help=f"of Docker, or archives {_ARCHIVES} (default: {default_image()})")
    commands.add_parser("kubeconfig", help="print the kubeconfig's path")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "up":
                print(f"{CONTEXT} {up(start_dockerd=arguments.start_dockerd)}")
                print(f"try: export KUBECONFIG={KUBECONFIG}")
            case "down":
                print(down())
            case "load":
                load(arguments.images or [default_image()])
            case "kubeconfig":
                print(kubeconfig())
    except (KindError, tools.ToolError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-made is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
