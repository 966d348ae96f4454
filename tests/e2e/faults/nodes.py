"""Faults of a node: killed, paused, cut off from other nodes. Each context manager undoes its fault at its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from kube import Kube, docker


@dataclass
class Span:
    """The time of a fault in seconds of CLOCK_BOOTTIME; ``ended`` is set when the fault has been undone."""

    began: float
    ended: float = float("inf")


def clock() -> float:
    """CLOCK_BOOTTIME, which is the same on all nodes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def killed(node: str) -> AbstractContextManager[Span]:
    """Kill the node's container, and start it again at the end."""
    return _while(node, "kill", "start")


def paused(node: str) -> AbstractContextManager[Span]:
    """Stop all processes of the node."""
    return _while(node, "pause", "unpause")


@contextlib.contextmanager
def _while(node: str, begin: str, end: str) -> Iterator[Span]:
    span = Span(clock())
    docker(begin, node)
    try:
        yield span
    finally:
        span.ended = clock()
        docker(end, node)


@contextlib.contextmanager
def cut_off(node: str, addresses: Iterable[str]) -> Iterator[Span]:
    """Drop all packets between the node, with all of its pods, and these addresses or networks."""
    rules = []
    for address in addresses:
        # This hook runs after the addresses of Services are replaced on the way out, and before that on the way in.
        rules += [("POSTROUTING", "--destination", address), ("PREROUTING", "--source", address)]

    def change(how: str, rule: tuple[str, str, str]) -> None:
        docker("exec", node, "iptables", "--wait", "--table", "mangle", how, *rule, "--jump", "DROP")

    span = Span(clock())
    with contextlib.ExitStack() as undo:
        for rule in rules:
            change("--insert", rule)
            undo.callback(change, "--delete", rule)
        try:
            yield span
        finally:
            span.ended = clock()


def api_server(kube: Kube) -> list[str]:
    """The addresses of the control plane."""
    return [
        address for name, addresses in _addresses(kube).items() if name not in kube.workers() for address in addresses
    ]


def other_workers(kube: Kube, node: str) -> list[str]:
    """The addresses of the other workers and of their pods."""
    found = _addresses(kube)
    return [address for name in kube.workers() if name != node for address in found[name]]


def _addresses(kube: Kube) -> dict[str, list[str]]:
    found = {}
    for item in kube.items("nodes"):
        own = [entry["address"] for entry in item["status"]["addresses"] if entry["type"] == "InternalIP"]
        found[item["metadata"]["name"]] = [*own, item["spec"]["podCIDR"]]
    return found
