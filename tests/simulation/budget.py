"""What a hub at rest may ask of the API server."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .naming import HUB

if TYPE_CHECKING:
    from .world import World

SECONDS = 10.0  # for which the requests are counted
_LEADER_SECONDS = 2.0  # between two renewals of the leader's Lease
_OTHERS = 8  # writes beside renewals: the hub's objects are written again from time to time, one after the other
_READS = 12  # a standby reads the leader's Lease once a second
_LEASE_BYTES = 1_000  # of one renewal


def overspent(world: World) -> list[str]:
    """Return what is too much of the last seconds, each as a sentence."""
    since, found = world.loop.time() - SECONDS, Counter[tuple[str, str]]()
    size = 0
    for sent in reversed(world.server.requests):
        if sent.at < since:
            break
        found[sent.method, sent.plural] += 1
        size += sent.size if sent.plural == "leases" else 0
    renewals = found.pop(("PUT", "leases"), 0)
    reads = sum(count for (method, _), count in found.items() if method == "GET")
    others = found.total() - reads
    lease_seconds = world.server.objects[HUB]["spec"]["timeouts"]["leaseSeconds"]
    most = len(list(world.running_pods)) * (SECONDS * 5 / lease_seconds + 1) + SECONDS / _LEADER_SECONDS + 1
    limits = (
        ("renewals", renewals, most),
        ("bytes of renewals", size, most * _LEASE_BYTES),
        ("reads", reads, _READS),
        ("other writes", others, _OTHERS),
    )
    return [f"{count} {what} in {SECONDS:g} s, {dict(found)}" for what, count, limit in limits if count > limit]
