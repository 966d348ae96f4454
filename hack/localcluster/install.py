"""Install the operator on the local cluster, through the chart with helm, as a user would.

The image is not pulled: the process kubelet takes the commands from the checkout's virtual environment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from localcluster.cluster import Cluster, running
from localcluster.layout import CHECKOUT, ClusterError

CHART = CHECKOUT / "charts" / "processhub"
NAMESPACE = "processhub-system"
RELEASE = "processhub"
# helm's arguments: installs the release, or upgrades it, and returns when it is ready.
UPGRADE = ("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace", "--wait")


def install(cluster: Cluster, *options: str, timeout_seconds: int = 120) -> None:
    """Install or upgrade the release and wait until it is ready; ``options`` are helm's.

    Raises ClusterError with helm's message.
    """
    helm(cluster, *UPGRADE, "--timeout", f"{timeout_seconds}s", *options)
    _wait_leader(cluster, timeout_seconds)


def uninstall(cluster: Cluster) -> None:
    """Remove the release."""
    helm(cluster, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--ignore-not-found")


def helm(cluster: Cluster, *arguments: str) -> str:
    """Run helm against the cluster; its output. Raises ClusterError."""
    command = [str(cluster.layout.bin / "helm"), *arguments]
    answer = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ClusterError(f"helm {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


def _wait_leader(cluster: Cluster, timeout_seconds: int) -> None:
    """Until a replica leads: a Deployment is ready with standbys alone."""
    deadline = time.monotonic() + timeout_seconds
    lease = ("-n", NAMESPACE, "get", "lease", "processhub-operator", "--ignore-not-found")
    while not cluster.kubectl(*lease, "-o", "jsonpath={.spec.holderIdentity}"):
        if time.monotonic() > deadline:
            raise ClusterError(f"no operator leads after {timeout_seconds} s; see: kubectl -n {NAMESPACE} logs")
        time.sleep(0.2)


def main() -> int:
    """``python -m localcluster.install [helm options]``."""
    parser = argparse.ArgumentParser(prog="python -m localcluster.install", description=__doc__)
    _, options = parser.parse_known_args()
    cluster = running()
    if cluster is None:
        print("error: the local cluster is not up; bring it up with: make up", file=sys.stderr)
        return 1
    begun = time.monotonic()
    try:
        install(cluster, *options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"installed after {time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
