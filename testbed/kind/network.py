"""The Docker network of the nodes.

kind makes one itself if there is none, with two drawbacks. It has IPv6, over which a partition by IPv4 addresses leaks.
It has no subnet of its own, so a node that is connected again may get another address.
"""

from __future__ import annotations

from kind import docker
from kind.layout import KindError

NETWORK = "kind"  # the name that kind looks for
_LABEL = "processhub.dev/made-for=kind-up"
# The first subnet that overlaps no other network of this Docker is used; all are private (RFC 1918).
_SUBNETS = ("172.30.0.0/16", "172.29.0.0/16", "172.28.0.0/16", "10.222.0.0/16", "192.168.240.0/20")


def ensure() -> None:
    """Make the network if it doesn't exist; an existing one is used unchanged. Raises KindError."""
    if docker.works("network", "inspect", NETWORK):
        return
    for subnet in _SUBNETS:
        try:
            docker.call(
                *("network", "create", "--driver", "bridge", "--subnet", subnet, "--label", _LABEL),
                *("--opt", "com.docker.network.bridge.enable_ip_masquerade=true", NETWORK),
            )
        except KindError as error:
            if "overlaps" not in str(error):
                raise
        else:
            return
    raise KindError(f"each of these subnets overlaps a network of this machine: {', '.join(_SUBNETS)}")


def remove() -> None:
    """Remove the network if ``ensure`` made it and no container is in it."""
    if docker.call("network", "ls", "--quiet", "--filter", f"label={_LABEL}"):
        docker.works("network", "rm", NETWORK)
