"""``python -m demo``: bring a cluster up, install, tell the story, leave it up."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from demo.ground import NAMESPACE, Ground, choose
from demo.stage import NotAsToldError, Stage
from demo.story import Story
from image.base import ImageError
from kind.layout import KindError
from localcluster import tools
from localcluster.faults import FaultRefusedError
from localcluster.layout import CHECKOUT, ClusterError
from processhub.client.errors import HubError

_EXPECTED = (ClusterError, KindError, ImageError, tools.ToolError, FaultRefusedError, HubError)
_NEXT = """
The cluster stays up. What to try next:
  {begin}
  kubectl hub explain worker-1 -n demo                  # why it is where it is
  kubectl hub start hello --hub my-hub -n demo --wait --exec -- sh -c 'while date; do sleep 1; done'
  kubectl hub logs hello -n demo
  kubectl -n demo apply -f manifests/examples/06-python.yaml
  kubectl -n demo get events -w
  {end:52}  # stops all of it"""


async def _demo(ground: Ground) -> None:
    print(f"Bringing up a Kubernetes cluster {ground.where} …", flush=True)
    await ground.up()
    stage = Stage(ground.environment, str(CHECKOUT))
    # Slate and operator at once: the first takes as long as the pods of an earlier run take to end.
    print("Installing the operator …", flush=True)
    begun = time.monotonic()
    await asyncio.gather(
        ground.install(),
        stage.quietly(f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=60s"),
    )
    await stage.quietly(f"kubectl create namespace {NAMESPACE}")
    print(f"  kubectl apply --server-side -f manifests/install.yaml: {time.monotonic() - begun:.0f} s", flush=True)
    await Story(stage, ground).tell()


def main() -> int:
    """The command line; 0 where all was as told."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--cluster", choices=("kind", "local"), default="", help="default: kind where it is at hand")
    begun = time.monotonic()
    ground = choose(parser.parse_args().cluster)
    try:
        asyncio.run(_demo(ground))
    except NotAsToldError as error:
        print(f"\ndemo: not as told: {error}", file=sys.stderr)
        stops = f"{ground.next_steps[1]} stops it"
        print(f"the cluster is left up: kubectl -n demo get hubs,children,events; {stops}", file=sys.stderr)
        return 1
    except (*_EXPECTED, TimeoutError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndemo: interrupted; the cluster is left up, {ground.next_steps[1]} stops it", file=sys.stderr)
        return 130
    print(_NEXT.format(begin=ground.next_steps[0], end=ground.next_steps[1]))
    print(f"\nAll as told, in {time.monotonic() - begun:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
