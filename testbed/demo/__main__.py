"""``python -m demo``: bring a cluster up, install the operator, run the story, and keep the cluster up."""

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
    # Remove an earlier run and install the operator at once: the former waits until the earlier run's pods have ended.
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
    """The command line; returns 0 if every check of the story held."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--cluster", choices=("kind", "local"), default="", help="default: kind if it is available")
    begun = time.monotonic()
    ground = choose(parser.parse_args().cluster)
    try:
        asyncio.run(_demo(ground))
    except NotAsToldError as error:
        print(f"\ndemo: a check failed: {error}", file=sys.stderr)
        stops = f"{ground.next_steps[1]} stops it"
        print(f"the cluster stays up: kubectl -n demo get hubs,children,events; {stops}", file=sys.stderr)
        return 1
    except (*_EXPECTED, TimeoutError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndemo: interrupted; the cluster stays up, {ground.next_steps[1]} stops it", file=sys.stderr)
        return 130
    print(_NEXT.format(begin=ground.next_steps[0], end=ground.next_steps[1]))
    print(f"\nAll checks of the demo passed, in {time.monotonic() - begun:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
