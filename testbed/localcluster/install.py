"""Install the operator on the local cluster: through the chart with helm, as a user would, or by its one manifest.

The image is not pulled: the process kubelet takes the commands from the checkout's virtual environment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from localcluster import tools
from localcluster.cluster import Cluster, running
from localcluster.layout import CHECKOUT, ClusterError
from localcluster.rollout import NAMESPACE, Kubectl, Rollout

CHART = CHECKOUT / "charts" / "processhub"
MANIFEST = CHECKOUT / "manifests" / "install.yaml"
RELEASE = "processhub"
TIMEOUT_SECONDS = 120
# The release takes over the objects that `make demo` applied. helm does not wait, because it would not report why.
# The values are the chart's and the given ones: helm would keep those of a release that did not start.
_UPGRADE = (
    *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"),
    *("--take-ownership", "--server-side=true", "--force-conflicts", "--reset-values"),
)


def install(cluster: Cluster, *options: str) -> None:
    """Install or upgrade the release by helm and wait until it is ready; ``options`` are helm's.

    Raises ClusterError with helm's message, or with the reason why the operator's pods can't start.
    """
    rollout = Rollout(cluster.kubectl)
    helm(cluster, *_UPGRADE, *options)
    rollout.wait(TIMEOUT_SECONDS)


def apply_manifest(kubectl: Kubectl) -> None:
    """Install the operator by manifests/install.yaml, for which no helm is needed, and wait until it is ready.

    Raises ClusterError with the reason why the operator's pods can't start.
    """
    rollout = Rollout(kubectl)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(MANIFEST))
    rollout.wait(TIMEOUT_SECONDS)


def uninstall(cluster: Cluster) -> None:
    """Remove the release."""
    helm(cluster, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--ignore-not-found")


def helm(cluster: Cluster, *arguments: str) -> str:
    """Run helm against the cluster; its output. Raises ClusterError."""
    command = [str(tools.ensure(["helm"])["helm"]), *arguments]
    answer = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ClusterError(f"helm {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout


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
    except (ClusterError, tools.ToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"installed after {time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
