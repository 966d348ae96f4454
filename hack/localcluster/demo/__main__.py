"""``python -m localcluster.demo``: bring the local cluster up, install, tell the story, leave it up."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from localcluster import cluster as local
from localcluster import install, tools
from localcluster.demo.stage import NotAsToldError, Stage
from localcluster.demo.story import NAMESPACE, Story
from localcluster.faults import FaultRefusedError
from localcluster.layout import CHECKOUT, ClusterError
from processhub.client.errors import HubError

_NEXT = """
The cluster stays up. What to try next:
  export KUBECONFIG=$(make -s kubeconfig) PATH=$PWD/.venv/bin:$PATH
  kubectl hub explain worker-1 -n demo                  # why it is where it is
  kubectl hub start hello --hub my-hub -n demo --wait --exec -- sh -c 'while date; do sleep 1; done'
  kubectl hub logs hello -n demo
  kubectl -n demo apply -f manifests/examples/06-python.yaml
  kubectl -n demo get events -w
  make down                                             # stops all of it"""


async def _demo() -> None:
    begun = time.monotonic()
    print("Bringing up a Kubernetes control plane on this machine …", flush=True)
    cluster = await asyncio.to_thread(local.up)
    print(f"  API server, etcd, controller manager, scheduler, 3 nodes: {time.monotonic() - begun:.0f} s", flush=True)
    stage = Stage(cluster.environment(), str(CHECKOUT))
    # Slate and operator at once: the first takes as long as the pods of an earlier run take to end.
    print("Installing the operator through the chart …", flush=True)
    begun = time.monotonic()
    await asyncio.gather(
        asyncio.to_thread(install.install, cluster),
        stage.quietly(f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=60s"),
    )
    await stage.quietly(f"kubectl create namespace {NAMESPACE}")
    print(f"  helm upgrade --install processhub charts/processhub: {time.monotonic() - begun:.0f} s", flush=True)
    await Story(stage, cluster).tell()


def main() -> int:
    """The command line; 0 where all was as told."""
    argparse.ArgumentParser(prog="python -m localcluster.demo", description=__doc__).parse_args()
    begun = time.monotonic()
    try:
        asyncio.run(_demo())
    except NotAsToldError as error:
        print(f"\ndemo: not as told: {error}", file=sys.stderr)
        print("the cluster is left up: kubectl -n demo get hubs,children,events; make down stops it", file=sys.stderr)
        return 1
    except (ClusterError, tools.ToolError, FaultRefusedError, HubError, TimeoutError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the cluster is left up, make down stops it", file=sys.stderr)
        return 130
    print(_NEXT)
    print(f"\nAll as told, in {time.monotonic() - begun:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
